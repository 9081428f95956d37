// What does this page look at? Its elements, found by their data attributes, and its own address.

/** The elements under `root`, itself included, that carry a data attribute (`queue-name` for `data-queue-name`). */
export function elements(attribute: string, root: ParentNode = document): HTMLElement[] {
  const found = [...root.querySelectorAll<HTMLElement>(`[data-${attribute}]`)];
  return root instanceof HTMLElement && root.hasAttribute(`data-${attribute}`) ? [root, ...found] : found;
}

/** An address of this server's pages, under the prefix that this page was served under. */
export function address(...segments: string[]): string {
  return `${document.body.dataset['base'] ?? ''}/${segments.map(encodeURIComponent).join('/')}`;
}

/** Makes an element; texts become text, never markup. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

/** Makes an element of a drawing. */
export function draw(tag: string, attributes: Record<string, string | number> = {}, ...children: (Node | string)[]): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Says something for a few seconds, also to a screen reader. */
export function toast(text: string, tone: 'good' | 'bad' | 'info' = 'info'): void {
  const said = make('p', { class: 'toast', 'data-tone': tone }, text);
  document.querySelector('.toasts')?.append(said);
  setTimeout(() => said.remove(), 6_000);
}

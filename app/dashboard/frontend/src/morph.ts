// How does an element become its newer self? In place: what did not change is not touched, so that focus, selection,
// scroll positions and open details stay where they are.

const MATCHED_BY = ['data-job', 'data-key', 'data-region', 'data-queue', 'id'];

function keyOf(node: Node): string | undefined {
  if (!(node instanceof Element)) return undefined;
  const name = MATCHED_BY.find((each) => node.hasAttribute(each));
  return name && `${node.nodeName} ${name} ${node.getAttribute(name)}`;
}

/** Whether this element has a life of its own, which a page fetched from the server knows nothing of. */
function isOwn(element: Element): boolean {
  return element.hasAttribute('data-chart') || element.hasAttribute('data-flow') || element.hasAttribute('data-run');
}

function morphAttributes(old: Element, fresh: Element): void {
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === 'open' && old.nodeName === 'DETAILS')) old.removeAttribute(name);
  }
}

function morphChildren(old: Element, fresh: Element): void {
  const known = new Map<string, ChildNode>();
  for (const child of old.childNodes) {
    const key = keyOf(child);
    if (key !== undefined) known.set(key, child);
  }
  let place: ChildNode | null = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = keyOf(next);
    let match = key === undefined ? null : (known.get(key) ?? null);
    if (key === undefined && place && place.nodeName === next.nodeName && keyOf(place) === undefined) match = place;
    if (!match) {
      old.insertBefore(next, place);
      continue;
    }
    if (key !== undefined) known.delete(key);
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place);
    morph(match, next);
  }
  while (place) {
    const gone: ChildNode = place;
    place = place.nextSibling;
    gone.remove();
  }
}

/** When a line of a log was written, in milliseconds. */
export function timeOf(line: Element): number {
  return Date.parse(line.querySelector('time')?.dateTime ?? '');
}

function isSameLine(one: Element | undefined, other: Element): boolean {
  return one !== undefined && timeOf(one) === timeOf(other) && one.lastElementChild?.textContent === other.lastElementChild?.textContent;
}

/** A log takes in what it lacks. Lines that came while the page was on its way are not in it, and stay. */
function morphLog(old: Element, fresh: Element): void {
  const last = fresh.lastElementChild;
  if (!last || isSameLine(old.children[fresh.childElementCount - 1], last)) return;
  const end = timeOf(last);
  const taken = [...fresh.children];
  const isLater = (line: Element): boolean => timeOf(line) > end || (timeOf(line) === end && !taken.some((each) => isSameLine(each, line)));
  const later = [...old.children].filter(isLater);
  const atEnd = old.scrollHeight - old.scrollTop - old.clientHeight < 24;
  old.replaceChildren(...taken, ...later);
  if (atEnd) old.scrollTop = old.scrollHeight;
}

/** Makes `old` like `fresh`, which is used up. Both are of the same kind. */
export function morph(old: Node, fresh: Node): void {
  if (!(old instanceof Element) || !(fresh instanceof Element)) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.isEqualNode(fresh) || isOwn(old)) return;
  // A time that is shown relative to now differs in its words only.
  if (old instanceof HTMLTimeElement && old.dateTime === (fresh as HTMLTimeElement).dateTime) return;
  if (old.hasAttribute('data-logs')) {
    morphLog(old, fresh);
    return;
  }
  morphAttributes(old, fresh);
  morphChildren(old, fresh);
}

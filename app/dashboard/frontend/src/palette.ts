// Where to? Ctrl-K opens a box that finds pages, queues, and jobs by id, name or any value of their payload.
import { address, make } from './page';
import { query } from './socket';

interface Found {
  search: {
    queues: string[];
    jobs: { id: string; customId: string | null; name: string; queue: string; state: string }[];
  };
}

const SEARCH = `query Search($query: String!) { search(query: $query, first: 8) {
  queues jobs { id customId name queue state }
} }`;
const TYPING_MS = 150;

let dialog: HTMLDialogElement | undefined;

function option(href: string, ...content: (Node | string)[]): HTMLLIElement {
  return make('li', { role: 'none' }, make('a', { href, role: 'option', 'aria-selected': 'false', tabindex: '-1' }, ...content));
}

function pages(words: string): HTMLLIElement[] {
  return [...document.querySelectorAll<HTMLAnchorElement>('.nav a')]
    .filter((link) => link.textContent?.toLowerCase().includes(words.toLowerCase()))
    .map((link) => option(link.href, make('span', { class: 'kind' }, 'Page'), link.textContent?.trim() ?? ''));
}

function results({ search }: Found): HTMLLIElement[] {
  const queues = search.queues.map((name) =>
    option(address('queues', name), make('span', { class: 'kind' }, 'Queue'), make('bdi', {}, name)),
  );
  const jobs = search.jobs.map(({ id, customId, name, queue, state }) =>
    option(
      address('queues', queue, 'jobs', customId ?? id),
      make('span', { class: 'badge', 'data-state': state.toLowerCase() }, state.toLowerCase()),
      make('bdi', {}, name),
      make('code', { class: 'id' }, customId ?? id),
    ),
  );
  return [...queues, ...jobs];
}

function build(): HTMLDialogElement {
  const input = make('input', {
    type: 'search',
    role: 'combobox',
    'aria-label': 'Search jobs, queues and pages',
    'aria-expanded': 'true',
    'aria-controls': 'palette-list',
    'aria-autocomplete': 'list',
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: 'Id, name, queue or any value of a payload',
  });
  const list = make('ul', { id: 'palette-list', role: 'listbox', 'aria-label': 'Found' });
  const said = make('p', { class: 'hint', role: 'status' });
  const box = make('dialog', { class: 'palette', 'aria-label': 'Search' }, input, list, said);
  let chosen = 0;
  let asked = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const links = () => [...list.querySelectorAll('a')];
  const choose = (index: number) => {
    const all = links();
    chosen = all.length ? (index + all.length) % all.length : 0;
    all.forEach((link, position) => {
      link.id = `palette-${position}`;
      link.setAttribute('aria-selected', String(position === chosen));
    });
    all[chosen]?.scrollIntoView({ block: 'nearest' });
    input.setAttribute('aria-activedescendant', all.length ? `palette-${chosen}` : '');
  };
  const show = (items: HTMLLIElement[]) => {
    list.replaceChildren(...items);
    choose(0);
  };
  const find = async () => {
    const words = input.value.trim();
    const mine = ++asked;
    show(pages(words));
    said.textContent = '';
    if (!words) return;
    try {
      const found = await query<Found>(SEARCH, { query: words });
      if (mine !== asked) return;
      show([...results(found), ...pages(words)]);
      said.textContent = list.childElementCount ? '' : 'Nothing found.';
    } catch (error) {
      if (mine === asked) said.textContent = error instanceof Error ? error.message : 'The search failed.';
    }
  };
  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => void find(), TYPING_MS);
  });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown') choose(chosen + 1);
    else if (event.key === 'ArrowUp') choose(chosen - 1);
    else if (event.key === 'Enter') links()[chosen]?.click();
    // By itself a field for searches would only be emptied.
    else if (event.key === 'Escape') box.close();
    else return;
    event.preventDefault();
  });
  box.addEventListener('click', (event) => event.target === box && box.close());
  box.addEventListener('toggle', () => box.open && void find());
  document.body.append(box);
  return box;
}

/** Opens the box, or brings it back with what was typed. */
export function openPalette(): void {
  dialog ??= build();
  if (dialog.open) return;
  dialog.showModal();
  dialog.querySelector('input')?.select();
}

/** Lets Ctrl-K and ⌘K open the box. */
export function listenForPalette(): void {
  document.addEventListener('keydown', (event) => {
    if (event.key.toLowerCase() !== 'k' || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
    event.preventDefault();
    openPalette();
  });
}

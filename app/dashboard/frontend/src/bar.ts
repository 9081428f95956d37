// What does the frontend put into the bar? How the connection is, the switch between light and dark, the way to search.
import { make } from './page';
import { openPalette } from './palette';
import { onLink } from './socket';

const THEMES = ['system', 'light', 'dark'] as const;
const KEPT_UNDER = 'switchtower:theme';
const RESYNCED_MS = 4_000;
const WORDS = { none: '', connecting: 'connecting', live: 'live', reconnecting: 'reconnecting', refused: 'not live' } as const;
const TONES = { none: 'info', connecting: 'info', live: 'good', reconnecting: 'warn', refused: 'bad' } as const;

const light = make('span', { class: 'link', role: 'status', hidden: '' });
let resynced: ReturnType<typeof setTimeout> | undefined;

function say(word: string, tone: string, title: string): void {
  light.hidden = word === '';
  light.textContent = word;
  light.dataset['tone'] = tone;
  light.title = title;
}

/** What was missed has been read again: says so for a moment. */
export function sayResynced(): void {
  clearTimeout(resynced);
  say('resynced', 'good', 'Something was missed meanwhile; the page was read again and is complete.');
  resynced = setTimeout(() => say(WORDS.live, TONES.live, ''), RESYNCED_MS);
}

function themeNow(): (typeof THEMES)[number] {
  const chosen = document.documentElement.dataset['theme'];
  return chosen === 'light' || chosen === 'dark' ? chosen : 'system';
}

function choose(theme: (typeof THEMES)[number]): void {
  if (theme === 'system') delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = theme;
  try {
    if (theme === 'system') localStorage.removeItem(KEPT_UNDER);
    else localStorage.setItem(KEPT_UNDER, theme);
  } catch {
    // Not remembered, where storage is turned off.
  }
  document.dispatchEvent(new Event('switchtower:theme'));
}

function themeSwitch(): HTMLButtonElement {
  const button = make('button', { type: 'button', class: 'quiet', 'data-theme-switch': '' });
  const name = () => {
    const theme = themeNow();
    button.textContent = { system: '◐', light: '☀', dark: '☾' }[theme];
    button.title = `Colours: ${theme}`;
    button.setAttribute('aria-label', button.title);
  };
  button.addEventListener('click', () => {
    choose(THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length] ?? 'system');
    name();
  });
  name();
  return button;
}

/** Puts its parts into the bar of the page. */
export function fillBar(): void {
  const search = make('button', { type: 'button', class: 'quiet', 'aria-keyshortcuts': 'Control+K' }, 'Search ', make('kbd', {}, 'Ctrl K'));
  search.addEventListener('click', openPalette);
  document.querySelector('.bar-tools')?.prepend(light, search, themeSwitch());
  // On a phone the bar is wider than the screen: what is open is to be seen in it.
  const nav = document.querySelector('.nav');
  const here = nav?.querySelector<HTMLElement>('[aria-current]');
  if (nav && here) nav.scrollLeft = here.offsetLeft - nav.clientWidth / 2 + here.offsetWidth / 2;
  onLink((link, reason) => {
    clearTimeout(resynced);
    say(WORDS[link], TONES[link], reason);
  });
}

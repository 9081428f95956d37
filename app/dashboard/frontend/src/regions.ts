// How do the parts of a page stay true? When something happened that a region shows, the page is fetched again behind
// the scenes, and each of its regions morphed into its new self.
import { nextFrame } from './frame';
import { morph } from './morph';
import { elements } from './page';
import { pageOf } from './parsing';

const FIRST_MS = 120;
const LEAST_MS = 1_000;
// A page that is slow to make is not asked for more than a fifth of the time, nor left as it is for longer than this.
const RESTING = 5;
const LONGEST_REST_MS = 10_000;
// An answer that does not come, since the network went away under it, is not waited for.
const PATIENCE_MS = 30_000;
// Numbers are added up from the events themselves, a moment later: what shows them is looked at once more.
const SETTLED_MS = 2_000;

const dirty = new Set<string>();
const unsettled = new Set<string>();
const arrived = new Set<string>();
let settling: ReturnType<typeof setTimeout> | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
let fetching = false;
let notBefore = 0;
let refreshed: () => void = () => {};

/** Calls `listener` after regions were renewed: new elements may have come. */
export function onRefreshed(listener: () => void): void {
  refreshed = listener;
}

/** Whether somebody is about to do something with what stands there. */
function isInUse(region: HTMLElement): boolean {
  if (region.querySelector('input[type="checkbox"]:checked, dialog[open]')) return true;
  const focused = document.activeElement;
  return focused !== null && region.contains(focused) && focused.matches('input:not([type="checkbox"]), select, textarea');
}

/** The outdated regions that may be renewed now. */
function ready(): HTMLElement[] {
  return elements('region').filter((region) => dirty.has(region.dataset['region'] ?? '') && !isInUse(region));
}

function schedule(): void {
  if (timer !== undefined || fetching || document.hidden || dirty.size === 0 || ready().length === 0) return;
  timer = setTimeout(() => void refresh(), Math.max(FIRST_MS, notBefore - performance.now()));
}

type Keys = readonly string[] | ReadonlySet<string>;

function everyKey(): string[] {
  return elements('region').map((each) => each.dataset['region'] ?? '');
}

/** The regions with these keys no longer show what is; without keys, none of the page's does. */
export function outdated(keys: Keys = everyKey()): void {
  for (const key of keys) dirty.add(key);
  doubtful(keys);
  schedule();
}

/** The regions with these keys may not show what is: they are looked at once more in a moment. */
export function doubtful(keys: Keys = everyKey()): void {
  for (const key of keys) unsettled.add(key);
  clearTimeout(settling);
  settling = setTimeout(settle, SETTLED_MS);
}

function settle(): void {
  for (const key of unsettled) dirty.add(key);
  unsettled.clear();
  schedule();
}

/** Whether a page was asked for that is not shown yet: what comes meanwhile may be newer than what it shows. */
export function isOnItsWay(): boolean {
  return fetching || arrived.size > 0;
}

async function fetchPage(): Promise<Document | null> {
  const response = await fetch(document.body.dataset['here'] ?? location.href, {
    headers: { accept: 'text/html' },
    cache: 'no-store',
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (response.status === 429 || response.status >= 500) throw new Error(`The server is busy: ${response.status}`);
  // Sent elsewhere: signed out, most likely. What is shown stays until somebody does something.
  if (!response.ok || response.redirected) return null;
  return pageOf(response);
}

function renew(page: Document): void {
  const keys = new Set(arrived);
  arrived.clear();
  const fresh = new Map(elements('region', page).map((each) => [each.dataset['region'], each]));
  for (const region of elements('region')) {
    const key = region.dataset['region'] ?? '';
    const next = fresh.get(key);
    // One inside another was renewed with it, and may be gone.
    if (!keys.has(key) || !next || !region.isConnected) continue;
    if (isInUse(region)) dirty.add(key);
    else if (next.nodeName === region.nodeName) morph(region, next);
  }
  refreshed();
}

async function refresh(): Promise<void> {
  timer = undefined;
  const keys = new Set(ready().map((region) => region.dataset['region'] ?? ''));
  if (keys.size === 0) return;
  fetching = true;
  for (const key of keys) dirty.delete(key);
  const began = performance.now();
  try {
    const page = await fetchPage();
    if (page) {
      for (const key of keys) arrived.add(key);
      nextFrame('regions', () => renew(page));
    }
  } catch {
    for (const key of keys) dirty.add(key);
  } finally {
    const now = performance.now();
    notBefore = now + Math.min(LONGEST_REST_MS, Math.max(LEAST_MS, (now - began) * RESTING));
    fetching = false;
    schedule();
  }
}

// What was in use is no longer, or somebody looks again.
document.addEventListener('visibilitychange', schedule);
document.addEventListener('focusout', () => setTimeout(schedule));
document.addEventListener('change', schedule);

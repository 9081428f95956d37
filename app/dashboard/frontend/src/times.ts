// How long ago, how long until? Times are said relative to now, with the exact one on hover, and kept current.
import { elements } from './page';

const STEPS: readonly [number, string][] = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'min'],
  [1, 's'],
];
const EVERY_MS = 1_000;

/** "3 s ago", "in 2 min", "now"; what is further away than thirty days is a date. */
export function relative(time: number, now: number): string {
  const seconds = Math.round((time - now) / 1_000);
  const distance = Math.abs(seconds);
  if (distance < 1) return 'now';
  if (distance > 30 * 86_400) return new Date(time).toLocaleDateString(undefined, { dateStyle: 'medium' });
  const [size, unit] = STEPS.find(([least]) => distance >= least) ?? [1, 's'];
  const amount = `${Math.floor(distance / size)} ${unit}`;
  return seconds < 0 ? `${amount} ago` : `in ${amount}`;
}

/** Writes every relative time of the page anew. */
export function showTimes(): void {
  const now = Date.now();
  for (const element of elements('relative')) {
    const time = Date.parse(element.getAttribute('datetime') ?? '');
    if (Number.isNaN(time)) continue;
    const text = relative(time, now);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = new Date(time).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'long' });
  }
}

/** Keeps the times of the page current. */
export function followTimes(): void {
  showTimes();
  setInterval(() => document.hidden || showTimes(), EVERY_MS);
}

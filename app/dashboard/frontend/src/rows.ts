// How do the rows, bars and logs of single jobs follow their events? Written once a frame, between two refreshes of the
// regions around them.
import type { JobEvent, LogLine } from './events';
import { nextFrame } from './frame';
import { timeOf } from './morph';
import { elements, make } from './page';
import { doubtful, outdated } from './regions';

interface Latest {
  state?: string;
  attempt?: number;
  progress?: unknown;
}

const MOST_LINES = 2_000;
// What a page that nobody looks at remembers; then it is read again when somebody does.
const MOST_JOBS = 2_000;
const latest = new Map<string, Latest>();
const lines = new Map<string, LogLine[]>();

/** Progress is a number of percent, or whatever else a handler says: then the bar moves without an end. */
function showProgress(bar: HTMLProgressElement, progress: unknown): void {
  const value = typeof progress === 'object' && progress !== null ? (progress as { percent?: unknown }).percent : progress;
  if (typeof value !== 'number' || !Number.isFinite(value)) return;
  bar.max = 100;
  bar.value = Math.max(0, Math.min(100, value));
  bar.textContent = `${Math.round(bar.value)} %`;
}

function showState(badge: HTMLElement, state: string): void {
  const word = state.toLowerCase();
  if (badge.dataset['state'] === word) return;
  badge.dataset['state'] = word;
  badge.textContent = word;
}

function apply(element: HTMLElement, now: Latest): void {
  const badge = element.querySelector<HTMLElement>('.badge[data-state]');
  if (now.state && badge) showState(badge, now.state);
  const attempt = element.querySelector('[data-field="attempt"]');
  if (now.attempt !== undefined && attempt && attempt.textContent !== String(now.attempt)) attempt.textContent = String(now.attempt);
  const bar = element.querySelector('progress');
  if (bar && now.progress !== undefined) showProgress(bar, now.progress);
}

/** Those of the lines that the list lacks. A page may have had some before the stream that resumes told of them. */
function lacking(list: HTMLElement, lines: LogLine[]): LogLine[] {
  const first = Date.parse(lines[0]?.at ?? '');
  const there = new Set<string>();
  for (let line = list.lastElementChild; line && timeOf(line) >= first; line = line.previousElementSibling) {
    there.add(`${timeOf(line)} ${line.lastElementChild?.textContent}`);
  }
  return lines.filter(({ at, line }) => !there.has(`${Date.parse(at)} ${line}`));
}

function append(list: HTMLElement, told: LogLine[]): void {
  const fresh = lacking(list, told);
  // Or it was said twice within a millisecond: the server knows.
  if (fresh.length < told.length) doubtful();
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
  list.append(
    ...fresh.map(({ at, level, line }) => {
      const time = make('time', { datetime: at, title: at }, at.slice(11, 23));
      return make('li', { 'data-level': level }, time, ' ', make('span', {}, line));
    }),
  );
  while (list.childElementCount > MOST_LINES) list.firstElementChild?.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function write(): void {
  for (const element of elements('job')) {
    const now = latest.get(element.dataset['job'] ?? '');
    if (now) apply(element, now);
  }
  for (const list of elements('logs')) {
    const fresh = lines.get(list.dataset['logs'] ?? '');
    if (fresh) append(list, fresh);
  }
  latest.clear();
  lines.clear();
}

/** Takes in what happened to a job; it is shown in the next frame. */
export function showEvent(event: JobEvent): void {
  if (event.__typename === 'JobLogged') {
    lines.set(event.jobId, [...(lines.get(event.jobId) ?? []), ...event.lines].slice(-MOST_LINES));
  } else {
    const now = latest.get(event.jobId) ?? {};
    if (event.__typename === 'JobProgress') now.progress = event.progress;
    else {
      if (event.to) now.state = event.to;
      now.attempt = event.attempt;
    }
    latest.set(event.jobId, now);
  }
  if (latest.size > MOST_JOBS) {
    latest.clear();
    outdated();
  }
  nextFrame('rows', write);
}

// How do the numbers of jobs stay true? Those of a queue follow it; those of all queues are asked for again when
// something happened, at most once a second.
import { nextFrame } from './frame';
import { elements } from './page';
import { follow, query } from './socket';

type Counts = Record<string, number>;

const FIELDS = 'scheduled waiting blocked active retrying completed failed cancelled open total';
const QUEUES = `subscription Counts($names: [String!]) { queueCounts(names: $names, intervalMs: 500) { name counts { ${FIELDS} } } }`;
const TOTALS = `query Totals { stats { jobs deadLetters queues workers counts { ${FIELDS} } } }`;
const EVERY_MS = 1_000;
// The numbers of more queues than these come with their region.
const MOST_QUEUES = 200;

const ofQueues = new Map<string, Counts>();
let totals: Counts = {};
let asking = false;
let again = false;

function valueOf(counts: Counts | undefined, name: string): number | undefined {
  if (!counts) return undefined;
  return name === 'delayed' ? (counts['scheduled'] ?? 0) + (counts['retrying'] ?? 0) : counts[name];
}

function write(): void {
  for (const element of elements('count')) {
    const { queue, count = '' } = element.dataset;
    const value = valueOf(queue === undefined ? totals : ofQueues.get(queue), count);
    if (value === undefined) continue;
    const text = value.toLocaleString('en');
    if (element.textContent !== text) element.textContent = text;
  }
}

async function askTotals(): Promise<void> {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const { stats } = await query<{ stats: { counts: Counts; jobs: number; deadLetters: number; queues: number; workers: number } }>(TOTALS);
    const { counts, ...others } = stats;
    totals = { ...counts, ...others };
    nextFrame('counts', write);
  } catch {
    // The next event asks again.
  }
  await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  asking = false;
  if (again) {
    again = false;
    void askTotals();
  }
}

/** Something happened to some job: the numbers of all queues may be others. */
export function countsChanged(): void {
  if (!document.hidden && elements('count').some((each) => each.dataset['queue'] === undefined)) void askTotals();
}

/** Follows the numbers of all queues, and of those that the page names. */
export function followCounts(): void {
  countsChanged();
  document.addEventListener('visibilitychange', countsChanged);
  const names = [...new Set(elements('count').flatMap((each) => each.dataset['queue'] ?? []))].slice(0, MOST_QUEUES);
  if (names.length === 0) return;
  follow<{ queueCounts: { name: string; counts: Counts }[] }>(QUEUES, { names }, ({ queueCounts }) => {
    for (const { name, counts } of queueCounts) ofQueues.set(name, counts);
    nextFrame('counts', write);
  });
}

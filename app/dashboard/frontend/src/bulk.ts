// How far is an action on many jobs? Followed to its end; then what the page shows is outdated.
import { nextFrame } from './frame';
import { elements, toast } from './page';
import { outdated } from './regions';
import { follow } from './socket';

interface Operation {
  verb: string;
  matched: number;
  expected: number | null;
  changed: number;
  failed: number;
  done: boolean;
}

const OPERATION = `subscription Bulk($id: ID!) { bulkOperation(id: $id) { verb matched expected changed failed done } }`;

function show(element: HTMLElement, { matched, expected, changed, failed, done }: Operation): void {
  const all = done ? matched : expected;
  const bar = element.querySelector('progress');
  // Of how many it will be is not always known: then the bar moves without an end.
  if (bar && all !== null) {
    bar.max = Math.max(1, all);
    bar.value = done ? bar.max : Math.min(all, matched);
  }
  const said = element.querySelector('[data-field="said"]');
  const number = (value: number): string => value.toLocaleString('en');
  if (said) said.textContent = `${number(changed)}${all === null ? '' : ` of ${number(all)}`} jobs changed${failed ? `, ${number(failed)} refused` : ''}.`;
}

/** Follows every operation that the page names. */
export function followBulk(): void {
  for (const element of elements('bulk')) {
    follow<{ bulkOperation: Operation | null }>(OPERATION, { id: element.dataset['bulk'] }, ({ bulkOperation: operation }) => {
      if (!operation) return;
      nextFrame(element, () => show(element, operation));
      if (!operation.done) return;
      outdated();
      toast(`${operation.verb}: ${operation.changed.toLocaleString('en')} changed`, 'good');
    });
  }
}

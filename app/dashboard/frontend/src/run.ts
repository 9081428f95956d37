// How does a workflow run stand? A graph of its steps that follows every change, of its children too.
import { box, drawing, edge, EDGE, ended, GAP_X, GAP_Y, HEIGHT, together, WIDTH, type Place } from './boxes';
import { course, type Placed, type Step } from './course';
import { nextFrame } from './frame';
import { address, elements, make } from './page';
import { follow, query } from './socket';

interface Child {
  id: string;
  customId: string | null;
  name: string;
  queue: string;
  state: string;
}

interface Run {
  workflow: string;
  state: string;
  error: { message: string } | null;
  job: { id: string } | null;
  steps: Step[];
  children: { nodes: Child[] };
}

const MOST_STEPS = 200;
const MOST_ALIKE = 3;
const AGAIN_MS = 250;
const FIELDS = `workflow state error { message } job { id }
  steps { name kind status startedAt endedAt until attempts events children error { message } }
  children(first: 500) { nodes { id customId name queue state } }`;
const RUN = `subscription RunGraph($id: ID!) { workflowRun(id: $id) { ${FIELDS} } }`;
const AGAIN = `query RunAgain($id: ID!) { workflowRun(id: $id) { ${FIELDS} } }`;
const CHILDREN = `subscription RunChildren($parent: ID!) { jobEvents(filter: { parentId: $parent, types: [START, COMPLETE, BURY, CANCEL, ABORT, BACKOFF] }) { __typename } }`;

function took(step: Step): string {
  if (step.startedAt === null || step.endedAt === null) return '';
  const ms = Date.parse(step.endedAt) - Date.parse(step.startedAt);
  return ms < 1_000 ? ` · ${ms} ms` : ` · ${(ms / 1_000).toLocaleString('en', { maximumFractionDigits: 1 })} s`;
}

function clock(at: string | null): string {
  return at === null ? '' : new Date(at).toLocaleTimeString(undefined, { hour12: false });
}

/** How a step is, in a word that gives its colour, and in words to read. */
function standing(step: Step): { state: string; said: string } {
  if (step.status === 'FAILED') return { state: 'failed', said: `failed${took(step)}` };
  const kind = { SLEEP: 'slept', WAIT: 'event', CHILD: 'child', SPAWN: 'started', FAN_OUT: 'children', COMPENSATE: 'undone' }[step.kind];
  if (step.status === 'COMPLETED') return { state: 'completed', said: `${kind ?? 'done'}${took(step)}` };
  if (step.kind === 'SLEEP') return { state: 'sleeping', said: `sleeps until ${clock(step.until)}` };
  if (step.kind === 'WAIT') return { state: 'blocked', said: `waits for ${step.events.join(', ')}` };
  if (step.children.length > 0) return { state: 'active', said: 'waits for children' };
  return { state: 'retrying', said: `tried again ${clock(step.until)}`.trim() };
}

function cell(column: number, row: number): Place {
  return { x: column * (WIDTH + GAP_X) + EDGE, y: row * (HEIGHT + GAP_Y) + EDGE };
}

function linkOf(child: Child): string {
  // A run is a job whose name holds its version.
  return child.name.includes('#') ? address('runs', child.id.replace(/^job_/, 'run_')) : address('queues', child.queue, 'jobs', child.customId ?? child.id);
}

function graph(run: Run): SVGElement {
  const known = new Map(run.children.nodes.map((each) => [each.id, each]));
  const childrenOf = (step: Step) => step.children.flatMap((id) => known.get(id) ?? []);
  const boxesOf = (step: Step) => Math.min(childrenOf(step).length, childrenOf(step).length > MOST_ALIKE ? 1 : MOST_ALIKE);
  const found = course(run.steps.slice(-MOST_STEPS), (step) => 1 + boxesOf(step));
  const placeOf = (placed: Placed) => cell(placed.column, placed.row);
  const parts: SVGElement[] = [];
  const boxes: SVGElement[] = [];

  const first = cell(0, 0);
  boxes.push(box({ place: first, name: run.workflow, said: 'began', state: 'waiting' }));
  for (const placed of found.steps) {
    const { step, after } = placed;
    const place = placeOf(placed);
    parts.push(...(after.length > 0 ? after.map(placeOf) : [first]).map((from) => edge(from, place)));
    const title = [step.name, step.error?.message, step.attempts > 1 ? `${step.attempts} attempts` : ''].filter(Boolean).join(' · ');
    boxes.push(box({ place, name: step.name, title, ...standing(step) }));
    const children = childrenOf(step);
    const states = children.map((each) => each.state);
    const below = (row: number) => cell(placed.column, placed.row + row);
    if (children.length > MOST_ALIKE) {
      const many = { all: children.length, ended: ended(states) };
      const state = together(states).toLowerCase();
      const href = run.job ? `${address('jobs')}?parent=${encodeURIComponent(run.job.id)}` : undefined;
      boxes.push(box({ place: below(1), name: children[0]?.name ?? '', said: `${many.ended} of ${many.all} · ${state}`, state, many, href }));
    } else {
      children.forEach((child, index) => {
        const state = child.state.toLowerCase();
        boxes.push(box({ place: below(index + 1), name: child.name, said: state, state, href: linkOf(child) }));
      });
    }
  }
  const end = cell(found.columns - 1, 0);
  const open = found.steps.some(({ step }) => step.endedAt === null);
  const state = run.state.toLowerCase();
  // What waits or sleeps says so itself; the last box is for what runs now, and for how it ended.
  if (!open || !['SLEEPING', 'WAITING'].includes(run.state)) {
    const from = found.last.length > 0 ? found.last.map(placeOf) : [first];
    parts.push(...from.map((place) => edge(place, end)));
    boxes.push(box({ place: end, name: state, said: run.error?.message ?? '', state }));
  }
  for (const placed of found.undone) {
    const place = placeOf(placed);
    const [previous] = placed.after;
    // Backwards: from the left side of what was undone before.
    const from = previous ? placeOf(previous) : end;
    parts.push(previous && from.x !== place.x ? edge({ x: place.x, y: place.y }, from, 'undo') : edge({ x: from.x - WIDTH, y: from.y }, place, 'undo'));
    boxes.push(box({ place, name: placed.step.name, title: [placed.step.name, placed.step.error?.message].filter(Boolean).join(' · '), ...standing(placed.step) }));
  }
  const width = cell(found.columns, 0).x - GAP_X + 6;
  const height = cell(0, found.rows).y - GAP_Y + 6;
  return drawing('The steps of the run', width, height, ...parts, ...boxes);
}

function show(place: HTMLElement, run: Run): void {
  const atEnd = place.scrollWidth - place.scrollLeft - place.clientWidth < 24;
  const hint = run.steps.length > MOST_STEPS ? [make('p', { class: 'hint' }, `The last ${MOST_STEPS} of ${run.steps.length} steps.`)] : [];
  place.replaceChildren(graph(run), ...hint);
  if (atEnd) place.scrollLeft = place.scrollWidth;
}

function drawRun(element: HTMLElement): void {
  const id = element.dataset['run'];
  const place = make('div', { class: 'scroll', role: 'region', 'aria-label': 'Graph of the steps', tabindex: '0' });
  element.replaceChildren(place);
  const take = (run: Run | null): void => {
    if (run) nextFrame(element, () => show(place, run));
  };
  let asked = false;
  const again = async (): Promise<void> => {
    if (asked) return;
    asked = true;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    asked = false;
    try {
      take((await query<{ workflowRun: Run | null }>(AGAIN, { id })).workflowRun);
    } catch {
      // The next change asks again.
    }
  };
  let followed = false;
  follow<{ workflowRun: Run | null }>(RUN, { id }, ({ workflowRun: run }) => {
    take(run);
    if (followed || !run?.job) return;
    followed = true;
    // What happens to its children is no change of its own.
    follow(CHILDREN, { parent: run.job.id }, () => void again());
  });
}

/** Draws the graph of every run that the page names. */
export function drawRuns(): void {
  for (const element of elements('run')) drawRun(element);
}

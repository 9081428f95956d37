// Which way did a run take? Its steps in columns: what began after something had ended stands right of it, what ran at
// the same time below each other, children below their step, and what was undone in a line of its own.

export interface Step {
  name: string;
  kind: string;
  status: string;
  startedAt: string | null;
  endedAt: string | null;
  until: string | null;
  attempts: number;
  events: string[];
  children: string[];
  error: { message: string } | null;
}

/** A step with its cell in the grid, and the steps that it follows. */
export interface Placed {
  step: Step;
  column: number;
  row: number;
  after: Placed[];
}

export interface Course {
  /** The steps of the function, in the order in which they began. */
  steps: Placed[];
  /** What undoes them, in the order in which it was done; the first says why. */
  undone: Placed[];
  /** The steps that nothing follows. */
  last: Placed[];
  columns: number;
  rows: number;
}

const UNDO = 'compensate';

function began(step: Step): number {
  return Date.parse(step.startedAt ?? step.endedAt ?? '') || 0;
}

function ended(step: Step): number {
  return step.endedAt === null ? Infinity : Date.parse(step.endedAt);
}

/** Of the steps that had ended by then, those that no other of them followed. */
function before(placed: Placed[], moment: number): Placed[] {
  const over = placed.filter(({ step }) => ended(step) <= moment);
  const latest = Math.max(...over.map(({ step }) => began(step)));
  return over.filter(({ step }) => ended(step) > latest || began(step) === latest);
}

/** Takes the first row from `wanted` on below which `height` cells of the column are free. */
function take(taken: Map<number, Set<number>>, column: number, wanted: number, height: number): number {
  const rows = taken.get(column) ?? new Set<number>();
  taken.set(column, rows);
  let row = wanted;
  while (Array.from({ length: height }, (_, each) => row + each).some((each) => rows.has(each))) row += 1;
  for (let each = 0; each < height; each += 1) rows.add(row + each);
  return row;
}

/** Gives each step its cell. `height` says how many cells below each other a step needs, with its children. */
export function course(all: Step[], height: (step: Step) => number): Course {
  const taken = new Map<number, Set<number>>();
  const steps: Placed[] = [];
  for (const step of all.filter((each) => each.kind !== 'COMPENSATE').sort((one, other) => began(one) - began(other))) {
    const after = before(steps, began(step));
    const column = 1 + Math.max(0, ...after.map((each) => each.column));
    const row = take(taken, column, Math.min(...after.map((each) => each.row), after.length > 0 ? Infinity : 0), height(step));
    steps.push({ step, column, row, after });
  }
  const columns = Math.max(0, ...steps.map((each) => each.column)) + 1;
  const rows = Math.max(1, ...[...taken.values()].flatMap((each) => [...each]).map((row) => row + 1));
  const byName = new Map(steps.map((each) => [each.step.name, each]));
  const undone: Placed[] = [];
  for (const step of all.filter((each) => each.kind === 'COMPENSATE')) {
    const of = byName.get(step.name.slice(UNDO.length + 1));
    const column = of?.column ?? columns;
    undone.push({ step, column, row: take(taken, column, rows, 1), after: undone.slice(-1) });
  }
  return {
    steps,
    undone,
    last: before(steps, Infinity),
    columns: columns + 1,
    rows: Math.max(rows, ...undone.map((each) => each.row + 1)),
  };
}

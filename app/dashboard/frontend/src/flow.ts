// How does a flow stand? A graph of its jobs, parents left of their children, that follows every change.
import { box, drawing, edge, ended, GAP_X, GAP_Y, HEIGHT, together, WIDTH, EDGE, type Place } from './boxes';
import { nextFrame } from './frame';
import { address, elements, make } from './page';
import { follow } from './socket';

interface Job {
  id: string;
  customId: string | null;
  name: string;
  queue: string;
  state: string;
  parentId: string | null;
}

interface Flow {
  id: string;
  total: number;
  jobs: { edges: { node: Job }[] };
}

/** A box of the graph: one job, or many leaves of one name under one parent, of which the first is `job`. */
interface Node {
  job: Job;
  members: Job[];
  children: Node[];
  y: number;
  depth: number;
}

const MOST = 500;
const MOST_ALIKE = 3;
const FLOW = `subscription FlowGraph($id: ID!) { flow(id: $id) { id total jobs(first: ${MOST}) { edges { node {
  id customId name queue state parentId
} } } } }`;

/** The jobs as trees: each below its parent; a parent that is not among them makes a root. */
function trees(jobs: Job[]): Node[] {
  const nodes = new Map(jobs.map((job) => [job.id, { job, members: [job], children: [], y: 0, depth: 0 } as Node]));
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = node.job.parentId === null ? undefined : nodes.get(node.job.parentId);
    (parent?.children ?? roots).push(node);
  }
  for (const node of nodes.values()) node.children = gathered(node.children);
  return roots;
}

/** The same boxes, with leaves of one name in one where they are many: a flow of a thousand jobs fits a screen. */
function gathered(nodes: Node[]): Node[] {
  const alike = Map.groupBy(nodes, (node) => (node.children.length > 0 ? node.job.id : `leaves ${node.job.name}`));
  return [...alike.values()].flatMap((group) => {
    const [first] = group;
    if (!first || group.length <= MOST_ALIKE) return group;
    return [{ ...first, members: group.flatMap((each) => each.members) }];
  });
}

/** Gives each node its place: leaves below each other, a parent to the left in the middle of its children. Returns where
 *  the next one begins. */
function place(nodes: Node[], depth: number, from: number): number {
  let next = from;
  for (const node of nodes) {
    node.depth = depth;
    const end = node.children.length > 0 ? place(node.children, depth + 1, next) : next + HEIGHT + GAP_Y;
    const first = node.children[0];
    const last = node.children.at(-1);
    node.y = first && last ? (first.y + last.y) / 2 : next;
    next = Math.max(end, next + HEIGHT + GAP_Y);
  }
  return next;
}

function every(nodes: Node[]): Node[] {
  return nodes.flatMap((node) => [node, ...every(node.children)]);
}

function placeOf({ depth, y }: Node): Place {
  return { x: depth * (WIDTH + GAP_X) + EDGE, y: y + EDGE };
}

function boxOf(node: Node): SVGElement {
  const { id, customId, name, queue } = node.job;
  const states = node.members.map((each) => each.state);
  const state = together(states).toLowerCase();
  const common = { place: placeOf(node), name, state };
  if (states.length === 1) return box({ ...common, said: state, href: address('queues', queue, 'jobs', customId ?? id) });
  const many = { all: states.length, ended: ended(states) };
  return box({ ...common, said: `${many.ended} of ${many.all} · ${state}`, many });
}

function graph(flow: Flow): SVGElement {
  const roots = trees(flow.jobs.edges.map((each) => each.node));
  const height = place(roots, 0, 0) - GAP_Y + 6;
  const nodes = every(roots);
  const width = Math.max(...nodes.map((node) => placeOf(node).x)) + WIDTH + 6;
  const edges = nodes.flatMap((node) => node.children.map((child) => edge(placeOf(node), placeOf(child))));
  return drawing('The jobs of the flow', width, height, ...edges, ...nodes.map(boxOf));
}

function show(element: HTMLElement, place: HTMLElement, flow: Flow): void {
  if (flow.jobs.edges.length === 0) return;
  place.replaceChildren(graph(flow), ...(flow.total > MOST ? [make('p', { class: 'hint' }, `The first ${MOST} of ${flow.total} jobs.`)] : []));
  for (const child of element.children) if (child !== place) child.classList.add('sr');
}

/** Draws the graph of every flow that the page names. */
export function drawFlows(): void {
  for (const element of elements('flow')) {
    const place = make('div', { class: 'scroll' });
    element.append(place);
    follow<{ flow: Flow | null }>(FLOW, { id: element.dataset['flow'] }, ({ flow }) => {
      if (flow) nextFrame(element, () => show(element, place, flow));
    });
  }
}

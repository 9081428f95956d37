// How does a graph look? Boxes with a name and a word, and curves between them.
import { draw } from './page';

export const WIDTH = 168;
export const HEIGHT = 40;
export const GAP_X = 56;
export const GAP_Y = 12;
// Room for the line around the outermost boxes.
export const EDGE = 1;

export interface Place {
  x: number;
  y: number;
}

export interface Box {
  place: Place;
  name: string;
  /** What is said below the name. */
  said: string;
  /** Gives the colour. */
  state: string;
  /** All that is known, for who hovers. */
  title?: string;
  href?: string | undefined;
  /** Of how many things this is the one box, and how many of them have ended. */
  many?: { all: number; ended: number };
}

function short(name: string, most: number): string {
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

/** A curve from the right side of one place to the left side of another. */
export function edge(from: Place, to: Place, kind = ''): SVGElement {
  const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  return draw('path', { class: `edge ${kind}`, d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}` });
}

export function box({ place, name, said, state, title, href, many }: Box): SVGElement {
  const attributes = { class: 'node', 'data-state': state, transform: `translate(${place.x} ${place.y})` };
  const inside = [
    draw('title', {}, title ?? `${name} · ${said}`),
    ...(many ? [draw('rect', { x: 4, y: 4, width: WIDTH, height: HEIGHT, rx: 6 })] : []),
    draw('rect', { width: WIDTH, height: HEIGHT, rx: 6 }),
    ...(many ? [draw('rect', { class: 'done', x: 1, y: HEIGHT - 5, width: Math.max(1, (WIDTH - 2) * (many.ended / many.all)), height: 4, rx: 2 })] : []),
    draw('text', { x: 10, y: 17 }, short(name, 20)),
    draw('text', { x: 10, y: 32, class: 'state' }, short(said, 25)),
  ];
  return href === undefined ? draw('g', attributes, ...inside) : draw('a', { ...attributes, href }, ...inside);
}

/** A drawing that is as large as what is in it, named for those who do not see it. */
export function drawing(label: string, width: number, height: number, ...parts: SVGElement[]): SVGElement {
  return draw('svg', { class: 'graph', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group', 'aria-label': label }, ...parts);
}

/** What many jobs are together: at work as long as one is, failed when one has. */
export function together(states: string[]): string {
  const telling = ['FAILED', 'ACTIVE', 'RETRYING', 'WAITING', 'SCHEDULED', 'BLOCKED', 'CANCELLED'];
  return telling.find((each) => states.includes(each)) ?? 'COMPLETED';
}

const FINAL = new Set(['COMPLETED', 'FAILED', 'CANCELLED']);

/** How many jobs of these states have ended. */
export function ended(states: string[]): number {
  return states.filter((each) => FINAL.has(each)).length;
}

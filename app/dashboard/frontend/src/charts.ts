// How much, how fast? Bars and lines of the last minutes, drawn by uPlot in the place of what the server drew.
import uPlot from 'uplot';
import { elements, make } from './page';
import { bucketsOf, seconds, snapshots, STATES, type Bucket, type Series, type Snapshot } from './series';

type Column = (number | null)[];

interface Line {
  label: string;
  colour: string;
  values: Column;
}

const HEIGHT = 192;
const DAY = 86_400;
// More of them would be thinner than a pixel.
const MOST_BARS = 400;
// The last point that is drawn by itself: with nothing on either side a line has no length.
const DOT = 5;

/** Whether a chart is of how many jobs there are, in one state or in the two that `delayed` means. */
function isOfState(kind: string): boolean {
  return kind === 'delayed' || STATES.split(' ').includes(kind);
}

function ofState(kind: string, rows: Snapshot[]): Line[] {
  const states = kind === 'delayed' ? ['scheduled', 'retrying'] : [kind];
  const values = rows.map((row) => states.reduce((sum, each) => sum + (row.counts[each] ?? 0), 0));
  return [{ label: kind, colour: `--${states[0]}`, values }];
}

function ofBuckets(kind: string, rows: Bucket[]): Line[] {
  if (kind === 'throughput') {
    // One upon the other: the higher bar is drawn first, and the lower one over it.
    return [
      { label: 'failed', colour: '--failed', values: rows.map((row) => row.completed + row.failed) },
      { label: 'completed', colour: '--completed', values: rows.map((row) => row.completed) },
    ];
  }
  if (kind === 'latency') return [{ label: 'mean', colour: '--scheduled', values: rows.map((row) => row.meanWaitMs) }];
  return [
    { label: 'p50', colour: '--active', values: rows.map((row) => row.p50Ms) },
    { label: 'p95', colour: '--retrying', values: rows.map((row) => row.p95Ms) },
    { label: 'p99', colour: '--failed', values: rows.map((row) => row.p99Ms) },
  ];
}

function colour(name: string): string {
  // Resolved by the browser: a canvas knows nothing of light-dark().
  const probe = make('span');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function shown(kind: string, value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (kind === 'throughput' || isOfState(kind)) return value.toLocaleString('en', { notation: value >= 10_000 ? 'compact' : 'standard' });
  return value >= 1_000 ? `${(value / 1_000).toLocaleString('en', { maximumFractionDigits: 1 })} s` : `${Math.round(value)} ms`;
}

/** A moment on the axis: the time of day, or the day where days are shown. */
function clock(at: number, span: number): string {
  const time = new Date(at * 1_000);
  if (span > 2 * DAY) return time.toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
  return time.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
}

function full(at: number, step: number): string {
  const time = new Date(at * 1_000);
  const day = step >= 3_600 ? `${time.toLocaleDateString(undefined, { day: 'numeric', month: 'short' })} ` : '';
  return day + time.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', ...(step < 60 ? { second: '2-digit' } : {}), hour12: false });
}

/** A line, or with `bars` the bars of a series; what was counted is drawn as bars while they are wide enough. */
function seriesOf(kind: string, { label, colour: name, values }: Line, bars: boolean): uPlot.Series {
  const fill = colour(name);
  const lonely = (_: uPlot, index: number): number[] =>
    values.flatMap((value, place) => (value !== null && (values[place - 1] ?? null) === null && (values[place + 1] ?? null) === null ? [place] : [])).filter(() => index > 0);
  return {
    label,
    stroke: fill,
    ...(bars ? { fill, width: 0, paths: uPlot.paths.bars?.({ size: [0.8, 24] }) } : { width: 2 }),
    points: bars ? { show: false } : { show: true, size: DOT, fill, filter: lonely },
    value: (plot, value: number | null, _, index) => {
      // The bar of what failed stands upon that of what completed.
      const below = kind === 'throughput' && label === 'failed' && index !== null ? (plot.data[2]?.[index] ?? 0) : 0;
      return shown(kind, value === null ? null : value - below);
    },
  };
}

function options(kind: string, width: number, drawn: Line[], step: number, points: number): uPlot.Options {
  const axis = { stroke: colour('--quiet'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '11px system-ui' };
  const bars = kind === 'throughput' && points <= MOST_BARS;
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { drag: { x: true, y: false }, points: { size: 6 } },
    scales: {
      // A bar is as wide as its minute, of which half stands on either side of the whole.
      x: {
        range: ({ data }, low, high) => {
          const beside = (bars || low === high) && low === data[0][0] && high === data[0].at(-1) ? step / 2 : 0;
          return [low - beside, high + beside];
        },
      },
      y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.1)] },
    },
    axes: [
      { ...axis, size: 28, space: 64, values: (_, splits) => splits.map((at) => clock(at, (splits.at(-1) ?? 0) - (splits[0] ?? 0))) },
      { ...axis, size: 56, values: (_, splits) => splits.map((each) => (Number.isInteger(each) || !(kind === 'throughput' || isOfState(kind)) ? shown(kind, each) : '')) },
    ],
    series: [{ label: 'Time', value: (_, at) => (at ? full(at, step) : '–') }, ...drawn.map((line) => seriesOf(kind, line, bars))],
  };
}

function draw(figure: HTMLElement): void {
  const kind = figure.dataset['chart'] ?? 'throughput';
  const place = make('div', { class: 'plot', 'aria-hidden': 'true' });
  const whole = make('button', { type: 'button', class: 'quiet whole', hidden: '' }, 'Whole range');
  let plot: uPlot | undefined;
  let again = (): void => {};
  let zoomed = false;
  const zoom = (is: boolean): void => {
    zoomed = is;
    whole.hidden = !is;
  };
  const unzoom = (): void => {
    zoom(false);
    again();
  };
  whole.addEventListener('click', unzoom);

  const show = (at: number[], drawn: Line[], step: number): void => {
    again = () => show(at, drawn, step);
    const data: uPlot.AlignedData = [at, ...drawn.map(({ values }) => values)];
    if (plot) {
      plot.setData(data, !zoomed);
      // Without new scales nothing would be drawn anew.
      if (zoomed) plot.redraw();
      return;
    }
    // What the server drew stays for those who do not see.
    for (const child of figure.children) if (child.nodeName !== 'FIGCAPTION') child.classList.add('sr');
    figure.append(place, whole);
    plot = new uPlot(options(kind, place.clientWidth, drawn, step, at.length), data, place);
    plot.hooks['setSelect'] = [({ select }) => select.width > 0 && zoom(true)];
    plot.hooks['setScale'] = [
      ({ scales }, name) => {
        if (name === 'x') Object.assign(place.dataset, { from: String(scales['x']?.min), to: String(scales['x']?.max) });
      },
    ];
    plot.over.addEventListener('dblclick', unzoom);
  };
  const listen = <Row extends { at: string }>(lines: (rows: Row[]) => Line[]) => {
    return ({ rows, step }: Series<Row>): void => {
      if (rows.length > 0) show(rows.map((row) => seconds(row.at)), lines(rows), step);
    };
  };
  const { queue, name, minutes } = figure.dataset;
  if (isOfState(kind)) snapshots().listen(listen((rows) => ofState(kind, rows)));
  else bucketsOf(queue, name, Number(minutes) || 60).listen(listen((rows) => ofBuckets(kind, rows)));
  new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  document.addEventListener('switchtower:theme', () => {
    plot?.destroy();
    plot = undefined;
    place.replaceChildren();
    unzoom();
  });
}

/** Draws every chart of the page, and keeps it current. */
export function drawCharts(): void {
  for (const figure of elements('chart')) draw(figure);
}

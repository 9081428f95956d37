// What happened over time? Read once for all charts of one queue and task, then the newest of it again and again.
import { query } from './socket';

export interface Bucket {
  at: string;
  completed: number;
  failed: number;
  meanWaitMs: number | null;
  p50Ms: number | null;
  p95Ms: number | null;
  p99Ms: number | null;
}

export interface Snapshot {
  at: string;
  counts: Record<string, number>;
}

/** Rows in the order of their time, and the seconds at which each begins. */
export interface Series<Row> {
  step: number;
  rows: Row[];
}

export const STATES = 'scheduled waiting blocked active retrying completed failed cancelled';
const BUCKETS = `query Buckets($queue: String, $name: String, $granularity: Granularity!, $from: DateTime!) {
  metrics(queue: $queue, name: $name, granularity: $granularity, from: $from) { at completed failed meanWaitMs p50Ms p95Ms p99Ms }
}`;
const HISTORY = `query History($limit: Int!) { metricsHistory(limit: $limit) { at counts { ${STATES} } } }`;
const EVERY_MS = 2_000;
const MINUTES_KEPT = 1_440;
const SNAPSHOTS = 360;
const SNAPSHOT_SECONDS = 10;
// Series are folded from events: a bucket may still grow for a moment after its end.
const AGAIN = 2;

export function seconds(at: string): number {
  return Math.floor(Date.parse(at) / 1_000);
}

abstract class Source<Row extends { at: string }> {
  private readonly listeners: ((series: Series<Row>) => void)[] = [];
  private known = new Map<number, Row>();
  private begun = false;

  constructor(
    protected readonly step: number,
    protected readonly points: number,
  ) {}

  protected abstract read(from: number | undefined): Promise<Row[]>;

  protected abstract filled(known: Map<number, Row>): Row[];

  /** Calls `listener` with what is known, now and whenever it was read again. */
  listen(listener: (series: Series<Row>) => void): void {
    this.listeners.push(listener);
    if (this.begun) return;
    this.begun = true;
    void this.again(undefined);
  }

  private async again(from: number | undefined): Promise<void> {
    let reached = from;
    try {
      if (!document.hidden) {
        const rows = await this.read(from);
        for (const row of rows) this.known.set(seconds(row.at), row);
        const last = rows.at(-1);
        reached = last ? seconds(last.at) - AGAIN * this.step : from;
        const series = { step: this.step, rows: this.filled(this.known) };
        for (const each of this.listeners) each(series);
      }
    } catch {
      // What was drawn stays; the connection's light says why it stands still.
    }
    setTimeout(() => void this.again(reached), EVERY_MS);
  }
}

const EMPTY = { completed: 0, failed: 0, meanWaitMs: null, p50Ms: null, p95Ms: null, p99Ms: null };

class Buckets extends Source<Bucket> {
  constructor(
    private readonly queue: string | null,
    private readonly name: string | null,
    minutes: number,
  ) {
    const step = minutes > MINUTES_KEPT ? 3_600 : 60;
    super(step, Math.max(1, Math.round((minutes * 60) / step)));
  }

  private since(): number {
    const now = Math.floor(Date.now() / 1_000);
    return now - (now % this.step) - (this.points - 1) * this.step;
  }

  protected async read(from: number | undefined): Promise<Bucket[]> {
    const variables = {
      queue: this.queue,
      name: this.name,
      granularity: this.step === 60 ? 'MINUTE' : 'HOUR',
      from: new Date(Math.max(from ?? 0, this.since()) * 1_000).toISOString(),
    };
    return (await query<{ metrics: Bucket[] }>(BUCKETS, variables)).metrics;
  }

  /** Every minute or hour up to the one under way, also those in which nothing happened. */
  protected filled(known: Map<number, Bucket>): Bucket[] {
    const since = this.since();
    for (const at of known.keys()) if (at < since) known.delete(at);
    // The clock of the server may be ahead of ours by a point or so.
    const end = Math.max(since + (this.points - 1) * this.step, ...known.keys());
    const times = Array.from({ length: Math.round((end - since) / this.step) + 1 }, (_, place) => since + place * this.step);
    return times.map((at) => known.get(at) ?? { at: new Date(at * 1_000).toISOString(), ...EMPTY });
  }
}

class History extends Source<Snapshot> {
  constructor() {
    super(SNAPSHOT_SECONDS, SNAPSHOTS);
  }

  protected async read(from: number | undefined): Promise<Snapshot[]> {
    const limit = from === undefined ? this.points : Math.min(this.points, Math.ceil((Date.now() / 1_000 - from) / this.step) + AGAIN);
    return (await query<{ metricsHistory: Snapshot[] }>(HISTORY, { limit: Math.max(1, limit) })).metricsHistory.reverse();
  }

  protected filled(known: Map<number, Snapshot>): Snapshot[] {
    const times = [...known.keys()].sort((one, other) => one - other).slice(-this.points);
    return times.flatMap((at) => known.get(at) ?? []);
  }
}

const buckets = new Map<string, Buckets>();
let history: History | undefined;

/** What happened to the jobs of a queue and a task (all where there is none) in the last minutes. */
export function bucketsOf(queue: string | undefined, name: string | undefined, minutes: number): Buckets {
  const key = JSON.stringify([queue, name, minutes]);
  const source = buckets.get(key) ?? new Buckets(queue ?? null, name ?? null, minutes);
  buckets.set(key, source);
  return source;
}

/** How many jobs there were in each state, every ten seconds. */
export function snapshots(): History {
  return (history ??= new History());
}

// What happened that this page shows? One subscription for its jobs, and one each for what else its regions name.
import { follow, onLink, type Link } from './socket';
import { elements } from './page';
import { doubtful, isOnItsWay, outdated } from './regions';

export interface LogLine {
  at: string;
  level: string;
  line: string;
}

export interface JobEvent {
  __typename: 'JobTransition' | 'JobProgress' | 'JobLogged' | 'StreamGap';
  cursor: string;
  jobId: string;
  queue: string;
  to: string | null;
  attempt: number;
  progress: unknown;
  lines: LogLine[];
}

const JOBS = `subscription Page($filter: JobEventFilter, $after: String) { jobEvents(filter: $filter, after: $after) {
  __typename
  ... on JobTransition { cursor jobId queue to attempt }
  ... on JobProgress { cursor jobId queue progress }
  ... on JobLogged { cursor jobId queue lines { at level line } }
  ... on StreamGap { cursor }
} }`;

/** Streams that tell that something happened, with a cursor to resume from. */
const STREAMS: Record<string, { field: string; event: string }> = {
  queues: { field: 'queueEvents(name: $name, after: $after)', event: 'QueueEvent' },
  crons: { field: 'cronEvents(after: $after)', event: 'CronEvent' },
  'dead-letters': { field: 'deadLetters(after: $after)', event: 'DeadLetterEvent' },
  audit: { field: 'audit(after: $after)', event: 'AuditEvent' },
};

/** Snapshots that are sent again when they changed. */
const SNAPSHOTS: Record<string, string> = {
  workers: 'subscription Workers { workers { id state currentJobs { id } } }',
  flow: 'subscription Flow($id: ID!) { flow(id: $id) { id state finished } }',
  run: 'subscription Run($id: ID!) { workflowRun(id: $id) { id state currentStep } }',
};

type Interests = Map<string, Set<string>>;

/** The regions by what they wait for, with its value decoded: `jobs:queue=email` → their keys. */
function interests(): Interests {
  const found: Interests = new Map();
  for (const region of elements('region')) {
    for (const each of (region.dataset['on'] ?? '').split(/\s+/).filter(Boolean)) {
      const name = decodeURIComponent(each);
      const keys = found.get(name) ?? new Set();
      found.set(name, keys.add(region.dataset['region'] ?? ''));
    }
  }
  return found;
}

/** The part of an interest behind its prefix, where it has that one. */
function behind(prefix: string, names: Iterable<string>): string[] {
  return [...names].filter((each) => each.startsWith(prefix)).map((each) => each.slice(prefix.length));
}

/** What of the jobs this page wants to hear of. Rows and logs need theirs even outside of regions. */
function jobFilters(wanted: Interests): Record<string, string[]>[] {
  const queues = behind('jobs:queue=', wanted.keys());
  const jobIds = [...behind('jobs:job=', wanted.keys()), ...elements('logs').map((each) => each.dataset['logs'] ?? '')];
  const few: Record<string, string[]>[] = [];
  if (queues.length > 0) few.push({ queues });
  if (jobIds.length > 0) few.push({ jobIds: [...new Set(jobIds)] });
  const all = wanted.has('jobs') || (few.length === 0 && elements('job').length > 0);
  return all ? [{}] : few;
}

function touchedBy(event: JobEvent, wanted: Interests): string[] {
  return ['jobs', `jobs:queue=${event.queue}`, `jobs:job=${event.jobId}`].flatMap((each) => [...(wanted.get(each) ?? [])]);
}

function followJobs(filter: Record<string, string[]>, wanted: Interests, seen: (event: JobEvent) => void, lost: () => void): void {
  const variables: Record<string, unknown> = { filter };
  const next = ({ jobEvents: event }: { jobEvents: JobEvent }): void => {
    variables['after'] = event.cursor;
    if (event.__typename === 'StreamGap') {
      lost();
      return;
    }
    seen(event);
    // Progress and lines are written into the page as they come; only what changes a state makes it outdated. A page on
    // its way may lack them, and would take them away again.
    if (event.__typename === 'JobTransition') outdated(touchedBy(event, wanted));
    else if (isOnItsWay()) doubtful(touchedBy(event, wanted));
  };
  follow(JOBS, variables, next, doubtful);
}

function followStream(kind: string, keys: Set<string>, name: string | null, lost: () => void): void {
  const stream = STREAMS[kind];
  if (!stream) return;
  const declared = kind === 'queues' ? '($name: String, $after: String)' : '($after: String)';
  const text = `subscription Page${declared} { item: ${stream.field} { __typename ... on ${stream.event} { cursor } ... on StreamGap { cursor } } }`;
  const variables: Record<string, unknown> = kind === 'queues' ? { name } : {};
  const next = ({ item }: { item: { __typename: string; cursor: string } }): void => {
    variables['after'] = item.cursor;
    if (item.__typename === 'StreamGap') lost();
    else outdated(keys);
  };
  follow(text, variables, next, () => doubtful(keys));
}

function followSnapshot(kind: string, keys: Set<string>, id: string): void {
  const text = SNAPSHOTS[kind];
  if (!text) return;
  let first = true;
  follow(text, kind === 'workers' ? {} : { id }, () => {
    if (!first) outdated(keys);
    first = false;
  });
}

/** Begins to follow what the page shows. `seen` gets each event of its jobs, `lost` is called where some were missed. */
export function followPage(seen: (event: JobEvent) => void, lost: () => void): void {
  const wanted = interests();
  for (const filter of jobFilters(wanted)) followJobs(filter, wanted, seen, lost);
  for (const [interest, keys] of wanted) {
    const kind = interest.split(':', 1)[0] ?? '';
    const value = interest.slice(kind.length + 1);
    if (kind in STREAMS) followStream(kind, keys, value.replace(/^queue=/, '') || null, lost);
    else if (kind in SNAPSHOTS) followSnapshot(kind, keys, value);
  }
  // What has no cursor yet cannot resume: after a break everything is read again. What happened after the page was made
  // and before it was first followed is seen by looking once more.
  let before: Link = 'none';
  onLink((link) => {
    if (link === 'live' && before === 'reconnecting') lost();
    else if (link === 'live') doubtful();
    if (link !== 'connecting') before = link;
  });
}

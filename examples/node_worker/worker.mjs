// A worker in Node that needs nothing but `fetch`: it claims jobs over GraphQL, runs them, and reports.
//
//   node worker.mjs                        # the handlers below, on the queue `node`
//   SWITCHTOWER_URL=http://127.0.0.1:8420 SWITCHTOWER_QUEUES=node,text SWITCHTOWER_CONCURRENCY=4 node worker.mjs
//
// It keeps the three promises that make a worker safe: it extends its lease while it works, it sends the lease token with
// every report and repeats a report until it is answered, and it stops working on a job as soon as the lease is lost.

import { createHash } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const URL_ = (process.env.SWITCHTOWER_URL ?? 'http://127.0.0.1:8420') + '/graphql';
const QUEUES = (process.env.SWITCHTOWER_QUEUES ?? 'node').split(',');
const CONCURRENCY = Number(process.env.SWITCHTOWER_CONCURRENCY ?? 4);
const LEASE_MS = Number(process.env.SWITCHTOWER_LEASE_SECONDS ?? 30) * 1000;
const POLL_MS = Number(process.env.SWITCHTOWER_POLL_SECONDS ?? 1) * 1000;
const DRAIN_MS = Number(process.env.SWITCHTOWER_DRAIN_SECONDS ?? 30) * 1000;
const API_KEY = process.env.SWITCHTOWER_API_KEY;

// --- Handlers: (payload, job) => result. Throw to fail; `job.signal` is aborted when the job must stop. -----------------

class Fatal extends Error {} // no other attempt can help

const handlers = {
  async word_count({ text }, job) {
    if (typeof text !== 'string') throw new Fatal('payload.text must be text');
    const words = text.split(/\s+/u).filter(Boolean);
    await job.log(`counting ${words.length} words`);
    const counts = {};
    for (const [index, word] of words.entries()) {
      counts[word.toLowerCase()] = (counts[word.toLowerCase()] ?? 0) + 1;
      if ((index + 1) % 1000 === 0) await job.progress({ done: index + 1, of: words.length });
    }
    await job.progress({ done: words.length, of: words.length });
    return { words: words.length, distinct: Object.keys(counts).length };
  },

  async sha256({ text }) {
    return { sha256: createHash('sha256').update(String(text)).digest('hex') };
  },

  // Fetches one page of this machine's own server, again and again, until it is asked to stop.
  async watch({ url, everyMs = 200 }, job) {
    for (let times = 1; ; times += 1) {
      const response = await fetch(url, { signal: job.signal });
      await job.progress({ times, status: response.status });
      await sleep(everyMs, undefined, { signal: job.signal });
    }
  },
};

// --- GraphQL ----------------------------------------------------------------------------------------------------------

const HEADERS = { 'content-type': 'application/json', ...(API_KEY && { authorization: `Bearer ${API_KEY}` }) };

async function execute(query, variables) {
  const response = await fetch(URL_, {
    method: 'POST',
    headers: { ...HEADERS, accept: 'application/graphql-response+json' },
    body: JSON.stringify({ query, variables }),
    signal: AbortSignal.timeout(15_000),
  });
  const { data, errors } = await response.json();
  if (errors) throw new Error(`${errors[0].extensions?.code}: ${errors[0].message}`);
  return Object.values(data)[0];
}

/** Repeats a call until the server answers it: with the same lease token, a repeated report changes nothing. */
async function insist(query, variables) {
  for (let wait = 100; ; wait = Math.min(wait * 2, 5_000)) {
    try {
      return await execute(query, variables);
    } catch (error) {
      if (/^(GRAPHQL_|BAD_)/.test(error.message)) throw error; // our own mistake: repeating does not help
      console.error(`retrying: ${error.message}`);
      await sleep(wait * (0.5 + Math.random()));
    }
  }
}

const CLAIM = `mutation ($input: ClaimJobsInput!) { claimJobs(input: $input) { __typename
  ... on ClaimedJobs { workerId jobs { leaseToken attemptId attempt fence cancelRequested job { id name payload } } }
  ... on Error { code message } } }`;
const EXTEND = `mutation ($input: ExtendLeasesInput!) { extendLeases(input: $input) { __typename
  ... on ExtendedLeases { cancelRequested } ... on Error { code message } } }`;
const report = (name, declared = '', passed = '') => `mutation ($id: ID!, $token: String!${declared}) {
  ${name}(id: $id, leaseToken: $token${passed}) { __typename ... on Error { code message } } }`;
const COMPLETE = report('completeJob', ', $result: JSON', ', result: $result');
const FAIL = report('failJob', ', $error: JobErrorInput!', ', error: $error');
const PROGRESS = report('reportProgress', ', $progress: JSON', ', progress: $progress');
const LOG = report('appendLog', ', $line: String!', ', line: $line');
const RELEASE = report('releaseJob');

// --- The worker -------------------------------------------------------------------------------------------------------

const running = new Map(); // job id → { leased, controller, done }
const stopping = new AbortController();
let workerId = process.env.SWITCHTOWER_WORKER_ID ?? null;
let woken = false;
let endPause = () => {};

function wake() {
  woken = true; // also for a claim that is under way: what woke us may have come after it looked
  endPause();
}

async function runJob(leased) {
  const { job, leaseToken: token } = leased;
  const controller = new AbortController();
  const own = async (answer) => {
    const { __typename, code, message } = await answer;
    if (__typename !== 'LeaseLost' && code) throw new Error(`${code}: ${message}`);
    if (__typename === 'LeaseLost') controller.abort(new Error('the lease was lost'));
    return __typename !== 'LeaseLost';
  };
  const context = {
    ...leased,
    id: job.id,
    signal: controller.signal,
    progress: (progress) => own(insist(PROGRESS, { id: job.id, token, progress })),
    log: (line) => own(insist(LOG, { id: job.id, token, line })),
  };
  running.set(job.id, { leased, controller });
  if (leased.cancelRequested) controller.abort(new Error('cancel requested'));
  const started = performance.now();
  let outcome;
  try {
    const handler = handlers[job.name];
    if (!handler) throw new Fatal(`this worker has no handler ${job.name}`);
    controller.signal.throwIfAborted();
    const result = (await handler(job.payload ?? {}, context)) ?? null;
    outcome = (await own(insist(COMPLETE, { id: job.id, token, result }))) ? 'completed' : 'lost';
  } catch (error) {
    if (controller.signal.reason?.message === 'released') {
      outcome = (await own(insist(RELEASE, { id: job.id, token }))) ? 'released' : 'lost';
    } else {
      const described = { type: error.name, message: error.message, stack: error.stack, retryable: !(error instanceof Fatal) };
      outcome = (await own(insist(FAIL, { id: job.id, token, error: described }))) ? 'failed' : 'lost';
    }
  } finally {
    running.delete(job.id);
    wake();
  }
  console.log(JSON.stringify({ job: job.id, name: job.name, outcome, ms: Math.round(performance.now() - started) }));
}

async function claim(limit) {
  const input = { workerId, queues: QUEUES, names: Object.keys(handlers), limit, leaseMs: LEASE_MS, hostname: hostname() };
  const answer = await insist(CLAIM, { input });
  if (answer.code) throw new Error(`${answer.code}: ${answer.message}`);
  workerId = answer.workerId;
  return answer.jobs;
}

/** Extends the lease three times within its length, and passes on what somebody asked to stop. */
async function beat() {
  while (running.size || !stopping.signal.aborted) {
    await sleep(LEASE_MS / 3);
    if (!workerId || !running.size) continue;
    const answer = await insist(EXTEND, { input: { workerId, leaseMs: LEASE_MS } });
    // Without the lease nothing here is ours any more.
    if (answer.code) for (const { controller } of running.values()) controller.abort(new Error('the lease was lost'));
    for (const id of answer.cancelRequested ?? []) running.get(id)?.controller.abort(new Error('cancel requested'));
  }
}

/** Hears of new jobs, and of cancels of running ones, from an event stream; without it the worker polls, by default every second. */
async function listen() {
  const query = `subscription ($filter: JobEventFilter) { jobEvents(filter: $filter) {
    ... on JobTransition { type jobId to } } }`;
  while (!stopping.signal.aborted) {
    try {
      const response = await fetch(URL_, {
        method: 'POST',
        headers: { ...HEADERS, accept: 'text/event-stream' },
        body: JSON.stringify({ query, variables: { filter: { queues: QUEUES } } }),
        signal: stopping.signal,
      });
      let pending = '';
      for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
        const blocks = (pending + chunk.replaceAll('\r', '')).split('\n\n');
        pending = blocks.pop();
        for (const block of blocks) {
          const data = /^data: (.+)$/m.exec(block)?.[1];
          const event = data && JSON.parse(data).data?.jobEvents;
          if (event?.to === 'WAITING') wake();
          if (event?.type === 'REQUEST_CANCEL') running.get(event.jobId)?.controller.abort(new Error('cancel requested'));
        }
      }
    } catch (error) {
      if (!stopping.signal.aborted) console.error(`event stream: ${error.message}`);
    }
    await sleep(500 + 500 * Math.random());
  }
}

async function work() {
  while (!stopping.signal.aborted) {
    woken = false;
    const free = CONCURRENCY - running.size;
    const jobs = free > 0 ? await claim(free) : [];
    for (const leased of jobs) runJob(leased).catch((error) => console.error(error));
    if (woken || (jobs.length === free && free > 0)) continue; // there may be more
    await Promise.race([new Promise((resolve) => (endPause = resolve)), sleep(POLL_MS * (0.5 + Math.random()))]);
  }
  const deadline = Date.now() + DRAIN_MS;
  while (running.size && Date.now() < deadline) await sleep(20);
  for (const { controller } of running.values()) controller.abort(new Error('released'));
  while (running.size) await sleep(20);
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping.abort();
    wake();
  });
}
listen();
beat();
console.log(JSON.stringify({ ready: true, queues: QUEUES, handlers: Object.keys(handlers) }));
await work();
process.exit(0);

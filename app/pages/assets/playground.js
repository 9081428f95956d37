'use strict';
// Sends one operation at a time: subscriptions are read as an event stream, everything else as JSON.

const EXAMPLES = {
  'Newest jobs': ['query {\n  jobs(first: 10) {\n    totalCount { value exact }\n    edges { node { id name queue state attempt createdAt } }\n  }\n}', ''],
  'Enqueue a job': [
    'mutation ($input: EnqueueJobInput!) {\n  enqueueJob(input: $input) {\n    __typename\n    ... on Job { id state runAt }\n    ... on Error { code message }\n  }\n}',
    '{\n  "input": { "name": "send_email", "payload": { "to": "a@b.c" } }\n}',
  ],
  'Follow every job': [
    'subscription {\n  jobEvents {\n    ... on JobTransition { at type jobName queue from to }\n    ... on JobProgress { at jobId }\n    ... on StreamGap { at }\n  }\n}',
    '',
  ],
  Queues: ['query {\n  queues { name paused counts { waiting active failed } }\n}', ''],
};
const KEPT_CHARACTERS = 200000;

const $ = (id) => document.getElementById(id);
const [form, examples, query, variables] = ['operation', 'examples', 'query', 'variables'].map($);
const [run, stop, status, answer] = ['run', 'stop', 'status', 'answer'].map($);
let running = null;

function show(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2);
  answer.textContent = `${text}\n${answer.textContent}`.slice(0, KEPT_CHARACTERS);
}

function isSubscription(text) {
  return /(^|[\s}])subscription\b/.test(text.replace(/#.*$/gm, '').replace(/"(?:[^"\\]|\\.)*"/g, '""'));
}

async function readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (pending + value.replace(/\r/g, '')).split('\n\n');
    pending = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split('\n').map((line) => [line.split(':', 1)[0], line.replace(/^[^:]*: ?/, '')]));
      if (fields.event === 'complete') return;
      if (fields.event === 'next') show(JSON.parse(fields.data));
    }
  }
}

async function send() {
  running?.abort();
  const own = (running = new AbortController());
  answer.textContent = '';
  stop.disabled = false;
  status.textContent = 'running';
  const started = performance.now();
  try {
    const parsed = variables.value.trim() ? JSON.parse(variables.value) : undefined;
    const accept = isSubscription(query.value) ? 'text/event-stream, application/json' : 'application/graphql-response+json';
    const response = await fetch('/graphql', {
      method: 'POST',
      signal: own.signal,
      headers: { 'content-type': 'application/json', accept },
      body: JSON.stringify({ query: query.value, variables: parsed }),
    });
    if (response.headers.get('content-type').startsWith('text/event-stream')) await readEvents(response.body);
    else show(await response.json());
    status.textContent = `${response.status} · ${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    if (running === own) status.textContent = own.signal.aborted ? 'stopped' : String(error.message ?? error);
  } finally {
    if (running === own) {
      running = null;
      stop.disabled = true;
    }
  }
}

function load(name) {
  [query.value, variables.value] = EXAMPLES[name];
}

for (const name of Object.keys(EXAMPLES)) examples.append(new Option(name, name));
examples.addEventListener('change', () => load(examples.value));
form.addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
form.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
});
stop.addEventListener('click', () => running?.abort());
run.disabled = false;
load(Object.keys(EXAMPLES)[0]);

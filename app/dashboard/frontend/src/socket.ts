// How does this page hear from the server? Over one WebSocket, which finds its way back and resumes where it was.
import { createClient, type Client } from 'graphql-ws';

/** How the connection is; there is none before something is asked or followed. */
export type Link = 'none' | 'connecting' | 'live' | 'reconnecting' | 'refused';

const SILENCE_MS = 10_000;
// Closed by this page, which had nothing more to ask.
const DONE = 1000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 10_000;
// Closed for a reason that trying again does not change: signed out, or too much open.
const REFUSALS = new Set([4400, 4401, 4403, 4429]);

type Listener = (link: Link, reason: string) => void;

const listeners = new Set<Listener>();
let link: Link = 'none';

function become(next: Link, reason = ''): void {
  link = next;
  for (const each of listeners) each(next, reason);
}

/** Calls `listener` with how the connection is, now and whenever that changes. */
export function onLink(listener: Listener): void {
  listeners.add(listener);
  listener(link, '');
}

/** How many milliseconds to wait before trying once more. */
function waiting(attempt: number): number {
  // All pages lose a server at the same moment, and must not all come back at the same one.
  return Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempt) * (0.5 + Math.random() / 2);
}

function endpoint(): string {
  const url = new URL('/graphql', location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  return url.href;
}

function open(): Client {
  let silence: ReturnType<typeof setTimeout> | undefined;
  let everLive = false;
  const client = createClient({
    url: endpoint(),
    lazy: true,
    lazyCloseTimeout: SILENCE_MS,
    retryAttempts: Infinity,
    shouldRetry: (reason) => !(reason instanceof CloseEvent && REFUSALS.has(reason.code)),
    retryWait: async (attempt) => {
      await new Promise((resolve) => setTimeout(resolve, waiting(attempt)));
    },
    keepAlive: SILENCE_MS,
    on: {
      connecting: () => become(everLive ? 'reconnecting' : 'connecting'),
      connected: () => {
        everLive = true;
        become('live');
      },
      // A connection that died without a word never closes by itself.
      ping: (received) => {
        if (!received) silence = setTimeout(() => client.terminate(), SILENCE_MS);
      },
      pong: (received) => {
        if (received) clearTimeout(silence);
      },
      closed: (event) => {
        clearTimeout(silence);
        const { code, reason } = event instanceof CloseEvent ? event : { code: 0, reason: '' };
        if (code === DONE) become('none');
        else become(REFUSALS.has(code) ? 'refused' : 'reconnecting', reason);
      },
    },
  });
  return client;
}

let shared: Client | undefined;

function client(): Client {
  return (shared ??= open());
}

/** Asks once. Rejects when the operation is refused. */
export async function query<Data>(text: string, variables: Record<string, unknown> = {}): Promise<Data> {
  for await (const { data, errors } of client().iterate<Data>({ query: text, variables })) {
    if (errors?.[0]) throw new Error(errors[0].message);
    if (data) return data;
  }
  throw new Error('The server gave no answer.');
}

/** Follows a subscription until it ends. `variables` may be changed while it runs: whoever comes back takes them as they
 *  are then, so that a cursor in them resumes where it was. `again` is called when one that failed is asked for again:
 *  without a cursor it misses what happened meanwhile. */
export function follow<Data>(text: string, variables: Record<string, unknown>, next: (data: Data) => void, again = (): void => {}): void {
  let failures = 0;
  const failed = (reason: unknown): void => {
    if (reason instanceof CloseEvent && REFUSALS.has(reason.code)) return;
    // The server had no time for it, or closed with a code that the client takes for final.
    console.warn('A subscription failed and is asked for again:', reason);
    setTimeout(() => {
      begin();
      again();
    }, waiting(failures++));
  };
  const begin = (): void => {
    let wrong: unknown;
    client().subscribe<Data>(
      { query: text, variables },
      {
        next: ({ data, errors }) => {
          wrong = errors;
          if (!data) return;
          failures = 0;
          next(data);
        },
        error: failed,
        complete: () => wrong && failed(wrong),
      },
    );
  };
  begin();
}

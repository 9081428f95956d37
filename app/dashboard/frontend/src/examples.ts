// The tabs that somebody finds who opens the playground for the first time.
import enqueue from './examples/enqueue.graphql';
import list from './examples/list.graphql';
import watch from './examples/watch.graphql';
import why from './examples/why.graphql';

const input = { name: 'send_email', queue: 'default', payload: { to: 'a@b.c' }, idempotencyKey: 'order-881' };

export const EXAMPLES: readonly { query: string; variables?: string }[] = [
  { query: enqueue, variables: JSON.stringify({ input }, null, 2) },
  { query: watch },
  { query: list, variables: JSON.stringify({ filter: { states: null, names: null } }, null, 2) },
  { query: why },
];

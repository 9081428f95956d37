// Runs operations with the graphql-ws client and prints what it received as one JSON object.
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const client = createClient({ url: process.argv[2], webSocketImpl: WebSocket, retryAttempts: 0, lazy: true });

async function collect(payload) {
  const received = [];
  try {
    for await (const result of client.iterate(payload)) received.push(result);
  } catch (error) {
    return { received, error: Array.isArray(error) ? error.map((e) => e.message) : String(error.message ?? error) };
  }
  return { received };
}

const results = {
  subscription: await collect({ query: 'subscription($to: Int!) { count(to: $to) }', variables: { to: 3 } }),
  query: await collect({ query: '{ hello }' }),
  mutation: await collect({ query: 'mutation { increment }' }),
  syntax: await collect({ query: '{' }),
  validation: await collect({ query: '{ nope }' }),
  fails: await collect({ query: 'subscription { fails }' }),
};
const parallel = await Promise.all([1, 2, 3, 4].map((to) => collect({ query: `subscription { count(to: ${to}) }` })));
results.parallel = parallel.map(({ received }) => received.length);
await client.dispose();
console.log(JSON.stringify(results));

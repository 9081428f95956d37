// Runs operations with the graphql-sse client (distinct connections) and prints what it received as one JSON object.
import { createClient } from 'graphql-sse';

const client = createClient({ url: process.argv[2], retryAttempts: 0 });

async function collect(payload) {
  const received = [];
  try {
    for await (const result of client.iterate(payload)) received.push(result);
  } catch (error) {
    return { received, error: String(error.message ?? error) };
  }
  return { received };
}

const results = {
  subscription: await collect({ query: 'subscription($to: Int!) { count(to: $to) }', variables: { to: 3 } }),
  query: await collect({ query: '{ hello }' }),
  mutation: await collect({ query: 'mutation { increment }' }),
  validation: await collect({ query: 'subscription { nope }' }),
  fails: await collect({ query: 'subscription { fails }' }),
};
client.dispose();
console.log(JSON.stringify(results));

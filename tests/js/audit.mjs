// Prints the outcome of every GraphQL-over-HTTP audit as one JSON object per line.
import { auditServer } from 'graphql-http';

for (const result of await auditServer({ url: process.argv[2] })) {
  const { id, name, status, reason = '' } = result;
  console.log(JSON.stringify({ id, name, status, reason }));
}

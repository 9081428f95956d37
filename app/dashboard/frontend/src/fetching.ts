// How does the playground send an operation? Subscriptions over one WebSocket each (graphql-transport-ws), anything else
// by POST. Headers are those of the editor; nothing of them is kept.
import type { Fetcher, FetcherOpts, FetcherParams } from '@graphiql/toolkit';
import { Kind, OperationTypeNode, type DocumentNode } from 'graphql';
import { createClient } from 'graphql-ws';

function isSubscription(document: DocumentNode | undefined, name: string | null | undefined): boolean {
  return (document?.definitions ?? []).some(
    (each) => each.kind === Kind.OPERATION_DEFINITION && each.operation === OperationTypeNode.SUBSCRIPTION && (!name || each.name?.value === name),
  );
}

async function* follow(url: string, params: FetcherParams, headers: Record<string, string>) {
  const client = createClient({ url, connectionParams: headers, retryAttempts: 0, lazyCloseTimeout: 0 });
  try {
    const { query, variables, operationName } = params;
    yield* client.iterate({ query, variables: variables as Record<string, unknown> | null, operationName });
  } catch (error) {
    // A socket that closes says why in its event, which has no message of its own.
    if (error instanceof CloseEvent) throw new Error(error.reason || `The connection was closed (${error.code}).`);
    throw error;
  } finally {
    await client.dispose();
  }
}

/** Sends operations to the GraphQL endpoint at `path` of this server. */
export function fetcherFor(path: string): Fetcher {
  const socket = new URL(path, location.href);
  socket.protocol = socket.protocol.replace('http', 'ws');
  return (async (params: FetcherParams, options?: FetcherOpts) => {
    const headers = (options?.headers ?? {}) as Record<string, string>;
    if (isSubscription(options?.documentAST, params.operationName)) return follow(socket.href, params, headers);
    const response = await fetch(path, {
      method: 'POST',
      headers: { accept: 'application/graphql-response+json, application/json', ...headers, 'content-type': 'application/json' },
      body: JSON.stringify(params),
    });
    return response.json();
  }) as Fetcher;
}

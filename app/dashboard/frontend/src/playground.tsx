// The playground: GraphiQL, with every byte from this server.
import { setNonce } from 'get-nonce';
import { GraphiQL } from 'graphiql';
import 'graphiql/graphiql.css';
import { createRoot } from 'react-dom/client';
import { EXAMPLES } from './examples';
import { fetcherFor } from './fetching';
import './playground.css';
import { storageWithoutHeaders } from './storage';

// Its dialogs lock the page's scrolling by a style element, which the policy allows under this response's nonce.
setNonce(document.querySelector<HTMLMetaElement>('meta[name="style-nonce"]')?.content ?? '');

const storage = storageWithoutHeaders();
const [first] = EXAMPLES;
if (first && !storage.getItem('graphiql:tabState')) {
  // It shows the first tab's operation by itself, but not its variables.
  storage.setItem('graphiql:query', first.query);
  storage.setItem('graphiql:variables', first.variables ?? '');
}

const root = document.getElementById('playground');
if (root) {
  const theme = document.documentElement.dataset['theme'];
  createRoot(root).render(
    <GraphiQL
      fetcher={fetcherFor(root.dataset['endpoint'] ?? '/graphql')}
      storage={storage}
      defaultTabs={EXAMPLES.map((each) => ({ ...each, headers: null }))}
      defaultEditorToolsVisibility
      shouldPersistHeaders={false}
      showPersistHeadersSettings={false}
      inputValueDeprecation
      isHeadersEditorEnabled
      forcedTheme={theme === 'dark' || theme === 'light' ? theme : undefined}
    >
      <GraphiQL.Logo>
        <a href="/" className="playground-home">
          Switchtower
        </a>
      </GraphiQL.Logo>
    </GraphiQL>,
  );
}

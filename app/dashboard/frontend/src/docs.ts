// The page at /docs: Swagger UI of this server's own description of its REST dialects.
import SwaggerUIBundle from 'swagger-ui-dist/swagger-ui-es-bundle.js';
import 'swagger-ui-dist/swagger-ui.css';

const chosen = document.documentElement.dataset['theme'];
const dark = chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
document.documentElement.classList.toggle('dark-mode', dark);

const root = document.getElementById('docs');
if (root) {
  SwaggerUIBundle({
    domNode: root,
    url: root.dataset['url'],
    deepLinking: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    persistAuthorization: false,
    tryItOutEnabled: true,
  });
}

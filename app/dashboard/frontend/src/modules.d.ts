declare module '*.graphql' {
  const text: string;
  export default text;
}
declare module '*.css';
declare module 'swagger-ui-dist/swagger-ui-es-bundle.js' {
  const SwaggerUIBundle: (options: Record<string, unknown>) => unknown;
  export default SwaggerUIBundle;
}

// How does a page that was fetched become elements? In one place, which the policy of the pages names (Trusted Types): no
// other script can turn text into markup. What is parsed here is inert, and comes from this server alone.

interface Policy {
  createHTML(text: string): string;
}

interface Factory {
  createPolicy(name: string, rules: { createHTML(text: string): string }): Policy;
}

// Not every browser knows them.
const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
const policy = factory?.createPolicy('switchtower', { createHTML: (text) => text });

/** The page that an answer of this server holds, without running anything of it. */
export async function pageOf(response: Response): Promise<Document> {
  const text = await response.text();
  return new DOMParser().parseFromString(policy?.createHTML(text) ?? text, 'text/html');
}

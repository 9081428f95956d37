// Where does the playground keep its tabs? In this browser, without the headers: a key typed there ends with the page.
import type { Storage } from '@graphiql/toolkit';

function withoutHeaders(key: string, value: string): string {
  if (/:headers$/.test(key)) return '';
  if (!/:(tabState|queries|favorites)$/.test(key)) return value;
  return JSON.stringify(JSON.parse(value, (name, each: unknown) => (name === 'headers' ? null : each)));
}

/** The browser's storage, or the page's own memory where that is turned off. */
export function storageWithoutHeaders(): Storage {
  const memory = new Map<string, string>();
  let kept: globalThis.Storage | null = null;
  try {
    kept = window.localStorage;
  } catch {
    kept = null;
  }
  return {
    get length() {
      return kept?.length ?? memory.size;
    },
    getItem: (key) => (kept ? kept.getItem(key) : (memory.get(key) ?? null)),
    removeItem: (key) => (kept ? kept.removeItem(key) : void memory.delete(key)),
    setItem: (key, value) => {
      const safe = withoutHeaders(key, value);
      if (kept) kept.setItem(key, safe);
      else memory.set(key, safe);
    },
    clear: () => (kept ? kept.clear() : memory.clear()),
  };
}

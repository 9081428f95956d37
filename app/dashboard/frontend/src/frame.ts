// When is the page written to? Once a frame, however much happened since the last one.

const waiting = new Map<unknown, () => void>();
let asked = false;

function write(): void {
  asked = false;
  const writes = [...waiting.values()];
  waiting.clear();
  for (const each of writes) each();
}

/** Runs `change` in the next frame. Of several under one key only the last is run. */
export function nextFrame(key: unknown, change: () => void): void {
  waiting.set(key, change);
  if (asked) return;
  asked = true;
  // A page in the background has no frames, and nobody who looks at it: it is written when it is shown again.
  requestAnimationFrame(write);
}

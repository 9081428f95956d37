// What every Node peer does alike: read its orders, say one JSON line, keep times that other processes can compare.

export const orders = JSON.parse(process.argv[2]);

export const now = () => performance.timeOrigin + performance.now();

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export function say(result) {
  console.log(JSON.stringify(result));
}

// `callers` loops share `count` calls of `add`; returns calls a second.
export async function addRate(count, callers, add) {
  let next = 0;
  const began = now();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next < count) await add(next++);
    }),
  );
  return count / ((now() - began) / 1000);
}

// Counts finished jobs; `done` resolves at the last one or when the time is up. The rate begins with the first start.
export class Tally {
  constructor(count, seconds) {
    this.count = count;
    this.finished = 0;
    this.began = undefined;
    this.ended = undefined;
    this.done = new Promise((resolve) => {
      this.resolve = resolve;
      this.timer = setTimeout(resolve, seconds * 1000);
    });
  }

  start() {
    this.began ??= now();
  }

  finish() {
    this.ended = now();
    if (++this.finished === this.count) {
      clearTimeout(this.timer);
      this.resolve();
    }
  }

  get result() {
    return { finished: this.finished, rate: this.finished / ((this.ended - this.began) / 1000) };
  }
}

// BullMQ on Redis.
import { Queue, Worker } from 'bullmq';
import { addRate, now, orders, say, sleep, Tally } from './measuring.mjs';

const { role, socket, database, count, concurrency, seconds, pause } = orders;
const connection = { path: socket, maxRetriesPerRequest: null };
const queue = new Queue(database, { connection });
await queue.waitUntilReady();

async function addBulk(jobs) {
  const began = now();
  for (let start = 0; start < jobs; start += 1000) {
    const size = Math.min(1000, jobs - start);
    await queue.addBulk(Array.from({ length: size }, (_, i) => ({ name: 'noop', data: { i: start + i } })));
  }
  return jobs / ((now() - began) / 1000);
}

if (role === 'add') {
  say({
    one: await addRate(Math.min(count, 500), 1, (i) => queue.add('noop', { i })),
    callers: await addRate(count, 20, (i) => queue.add('noop', { i })),
    bulk: await addBulk(count * 4),
  });
} else if (role === 'run') {
  await addBulk(count);
  const tally = new Tally(count, seconds);
  const worker = new Worker(database, async () => tally.start(), { connection, concurrency });
  worker.on('completed', () => tally.finish());
  await tally.done;
  say(tally.result);
} else {
  const waits = [];
  let heard;
  const worker = new Worker(database, async (job) => heard(now() - job.data.sent), { connection, concurrency });
  await worker.waitUntilReady();
  await sleep(500);
  for (let i = 0; i < count + 3; i++) {
    const wait = await new Promise((resolve) => {
      heard = resolve;
      queue.add('noop', { sent: now() });
    });
    if (i >= 3) waits.push(wait);
    await sleep(pause);
  }
  say({ waits });
}
await queue.obliterate({ force: true });
process.exit(0);

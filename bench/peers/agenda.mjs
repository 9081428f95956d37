// Agenda on MongoDB. Its change-stream channel is on, which wakes it sooner than polling.
import { Agenda } from 'agenda';
import { MongoBackend, MongoChangeStreamNotificationChannel, MongoClient } from '@agendajs/mongo-backend';
import { addRate, now, orders, say, sleep, Tally } from './measuring.mjs';

const { role, url, database, count, concurrency, seconds, pause } = orders;
const client = await MongoClient.connect(url, { writeConcern: { w: 'majority', journal: true } });
const db = client.db(database);

function create(options = {}) {
  return new Agenda({
    backend: new MongoBackend({ mongo: db }),
    notificationChannel: new MongoChangeStreamNotificationChannel({ db }),
    processEvery: 100,
    ...options,
  });
}

const producer = create();
producer.define('noop', async () => {});
await producer.ready;

async function worker(handler) {
  const limits = { maxConcurrency: concurrency, defaultConcurrency: concurrency };
  const agenda = create(limits);
  agenda.define('noop', handler, { concurrency });
  return agenda;
}

if (role === 'add') {
  say({
    one: await addRate(Math.min(count, 300), 1, (i) => producer.now('noop', { i })),
    callers: await addRate(count, 20, (i) => producer.now('noop', { i })),
  });
} else if (role === 'run') {
  await addRate(count, 20, (i) => producer.now('noop', { i }));
  const tally = new Tally(count, seconds);
  const agenda = await worker(async () => tally.start());
  agenda.on('success', () => tally.finish());
  await agenda.start();
  await tally.done;
  say(tally.result);
} else {
  const waits = [];
  let heard;
  const agenda = await worker(async (job) => heard(now() - job.attrs.data.sent));
  await agenda.start();
  await sleep(500);
  for (let i = 0; i < count + 3; i++) {
    const wait = await new Promise((resolve) => {
      heard = resolve;
      producer.now('noop', { sent: now() });
    });
    if (i >= 3) waits.push(wait);
    await sleep(pause);
  }
  say({ waits });
}
process.exit(0);

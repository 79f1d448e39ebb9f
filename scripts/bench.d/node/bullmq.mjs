// BullMQ. Jobs that are done are removed, as elsewhere.

import { Queue, Worker } from 'bullmq';
import { countdown, main } from './queues.mjs';

const OPTIONS = { removeOnComplete: true };

await main({
  name: 'bullmq',
  async open(path) {
    const connection = { path, maxRetriesPerRequest: null };
    const queue = new Queue('noop', { connection });
    await queue.waitUntilReady();
    return {
      push: () => queue.add('noop', [], OPTIONS),
      pushMany: (count) => queue.addBulk(Array.from({ length: count }, () => ({ name: 'noop', data: [], opts: OPTIONS }))),
      async run(count, concurrency) {
        const worker = new Worker('noop', async () => {}, { connection, concurrency });
        const [all, one] = countdown(count);
        worker.on('completed', one);
        await all;
        await worker.close();
      },
      close: () => queue.close(),
    };
  },
});

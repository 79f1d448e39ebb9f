// bee-queue with what it needs least: no events, no delayed jobs, nothing kept.

import assert from 'node:assert/strict';
import Queue from 'bee-queue';
import { countdown, main } from './queues.mjs';

const LEAN = { getEvents: false, sendEvents: false, storeJobs: false, activateDelayedJobs: false, removeOnSuccess: true };

await main({
  name: 'bee-queue',
  async open(path) {
    const open = (isWorker) => new Queue('noop', { ...LEAN, isWorker, redis: { path } });
    const queue = open(false);
    await queue.ready();
    return {
      push: () => queue.createJob([]).save(),
      async pushMany(count) {
        const errors = await queue.saveAll(Array.from({ length: count }, () => queue.createJob([])));
        assert.equal(errors.size, 0);
      },
      async run(count, concurrency) {
        const worker = open(true);
        const [all, one] = countdown(count);
        worker.on('succeeded', one);
        worker.process(concurrency, async () => {});
        await all;
        await worker.close(1000);
      },
      close: () => queue.close(1000),
    };
  },
});

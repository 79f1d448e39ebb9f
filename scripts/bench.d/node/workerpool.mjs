// npm workerpool with child processes. A worker runs one task at a time; there is no setting for more.

import { fileURLToPath } from 'node:url';
import workerpool from 'workerpool';
import { bounded, main } from './workloads.mjs';

const script = fileURLToPath(new URL('./workerpool-worker.mjs', import.meta.url));

await main({
  name: 'workerpool',
  tasksPerWorker: [1],
  recovers: true,
  open() {
    const pool = workerpool.pool(script, {
      workerType: 'process',
      minWorkers: 2,
      maxWorkers: 2,
      forkOpts: { serialization: 'advanced' }, // bytes as bytes; the default is JSON
    });
    return {
      call: (name, argument) => pool.exec(name, [argument]),
      close: () => bounded(pool.terminate(true)),
    };
  },
});

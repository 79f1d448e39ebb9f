// npm piscina: worker threads, so there is no process to kill.

import { Piscina } from 'piscina';
import { bounded, main } from './workloads.mjs';

await main({
  name: 'piscina',
  tasksPerWorker: [1, 10],
  recovers: false,
  open({ tasksPerWorker }) {
    const pool = new Piscina({
      filename: new URL('./functions.mjs', import.meta.url).href,
      minThreads: 2,
      maxThreads: 2,
      concurrentTasksPerWorker: tasksPerWorker,
    });
    return {
      call: (name, argument) => pool.run(argument, { name }),
      close: () => bounded(pool.destroy()),
    };
  },
});

import { Tinypool } from 'tinypool';
import { bounded, main } from './workloads.mjs';

export function tinypool(name, runtime) {
  return main({
    name,
    tasksPerWorker: [1, 10],
    recovers: runtime === 'child_process',
    open({ tasksPerWorker }) {
      const pool = new Tinypool({
        filename: new URL('./functions.mjs', import.meta.url).href,
        runtime,
        minThreads: 2,
        maxThreads: 2,
        concurrentTasksPerWorker: tasksPerWorker,
        serialization: 'advanced', // of child_process only: bytes as bytes; the default is JSON
      });
      // The death of a worker without tasks; a worker's tasks are rejected one by one instead.
      pool.on('error', () => {});
      return {
        call: (name, argument) => pool.run(argument, { name }),
        close: () => bounded(pool.destroy()),
      };
    },
  });
}

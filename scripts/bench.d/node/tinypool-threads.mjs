// npm tinypool with worker threads, so there is no process to kill.

import { tinypool } from './tinypool-common.mjs';

await tinypool('tinypool-threads', 'worker_threads');

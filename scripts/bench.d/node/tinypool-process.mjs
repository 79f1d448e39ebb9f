// npm tinypool with child processes.

import { tinypool } from './tinypool-common.mjs';

await tinypool('tinypool-process', 'child_process');

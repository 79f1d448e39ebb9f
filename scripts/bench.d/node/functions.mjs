// What the workers offer.

import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

export function noop() {}

export function md5(data) {
  return { data, md5: createHash('md5').update(data).digest('hex') };
}

export function echo(data) {
  return data;
}

/** The worker's process id, after some milliseconds. */
export async function pid(milliseconds) {
  await sleep(milliseconds);
  return process.pid;
}

// The workloads of job queues on Redis. A queue is described by
//   name           what to print
//   open(socket)   connects to the server: {push(), pushMany(count), run(count, concurrency), close()}; run ends when so many jobs are acknowledged
//
// The server's socket is $BENCH_REDIS_SOCKET. All that it has is deleted before each workload.

import assert from 'node:assert/strict';
import { createConnection } from 'node:net';
import { parseArgs } from 'node:util';

const WARM_UP = 0.5; // seconds before counting starts
const PUSHERS = 64; // tasks that push at the same time
const BULK = 1000; // jobs of one push in bulk
const PREFETCH = 100; // jobs that run at the same time
const PATIENCE = 60; // seconds which a workload may take on top of its own time

const now = () => performance.now() / 1000;

async function flush(socket) {
  await new Promise((resolve, reject) => {
    const connection = createConnection(socket, () => connection.write('FLUSHALL\r\n'));
    connection.once('error', reject);
    connection.once('data', (answer) => {
      assert.equal(String(answer), '+OK\r\n');
      connection.end(resolve);
    });
  });
}

async function pushOneByOne(queue, seconds) {
  const begin = now() + WARM_UP;
  const end = begin + seconds;
  let counted = 0;
  async function pusher() {
    for (;;) {
      await queue.push();
      const t = now();
      if (t >= end) return;
      if (t >= begin) counted++;
    }
  }
  await Promise.all(Array.from({ length: PUSHERS }, pusher));
  return counted / seconds;
}

async function pushFor(queue, bulk, seconds) {
  const began = now();
  let count = 0;
  while (now() - began < seconds) {
    await queue.pushMany(bulk);
    count += bulk;
  }
  return [began, count];
}

const WORKLOADS = {
  'redis-push-64': pushOneByOne,
  async 'redis-push-bulk'(queue, seconds) {
    const [began, count] = await pushFor(queue, BULK, seconds);
    return count / (now() - began);
  },
  /** All are pushed, a hundred at once, then run and acknowledged, a hundred at the same time. */
  async 'redis-cycle-in-process'(queue, seconds) {
    const [began, count] = await pushFor(queue, PREFETCH, seconds / 3);
    await queue.run(count, PREFETCH);
    return count / (now() - began);
  },
};

/** Runs the workloads named on the command line (all, if none is) and prints a JSON line for each. */
export async function main(peer) {
  const { values, positionals } = parseArgs({
    options: { seconds: { type: 'string', default: '3' } },
    allowPositionals: true,
  });
  const seconds = Number(values.seconds);
  assert.ok(seconds > 0, '--seconds needs a positive number');
  const socket = process.env.BENCH_REDIS_SOCKET;
  assert.ok(socket, 'BENCH_REDIS_SOCKET names the socket of a server');
  for (const [workload, run] of Object.entries(WORKLOADS)) {
    if (positionals.length > 0 && !positionals.includes(workload)) continue;
    const watchdog = setTimeout(() => {
      console.error(`${peer.name}: ${workload} does not come to an end`);
      process.exit(1);
    }, (seconds + PATIENCE) * 1000);
    await flush(socket);
    const queue = await peer.open(socket);
    const value = Number((await run(queue, seconds)).toPrecision(6));
    await queue.close();
    clearTimeout(watchdog);
    console.log(JSON.stringify({ peer: peer.name, workload, value, unit: 'jobs/s' }));
  }
  process.exit(0);
}

/** A promise that ends at the last of so many calls. */
export function countdown(count) {
  let left = count;
  let ended;
  const all = new Promise((resolve) => { ended = resolve; });
  return [all, () => { if (--left === 0) ended(); }];
}

// The workloads, for any pool which offers `call(function name, argument)`.
//
// A peer is described by
//   name            what to print
//   open({tasksPerWorker})  makes a pool of two workers: {call, close}
//   tasksPerWorker  the settings to run md5-3k with
//   recovers        true if a worker is a process which the pool replaces

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const WARM_UP = 0.5; // seconds before counting starts
const MIN_ROUNDS = 3;
const MAX_ROUNDS = 15;
const PATIENCE = 30; // seconds which a workload may take on top of its own time

const now = () => performance.now(); // milliseconds

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** Bytes which differ from seed to seed (a buffer of their own, never a slice of a shared one). */
function bytes(length, seed) {
  const data = new Uint8Array(length);
  let x = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    data[i] = x >>> 24;
  }
  return data;
}

function sameBytes(got, sent) {
  assert.ok(got instanceof Uint8Array && Buffer.compare(got, sent) === 0, 'other bytes came back');
}

const SAMPLES = Array.from({ length: 64 }, (_, seed) => {
  const data = bytes(3072, seed);
  return { data, md5: createHash('md5').update(data).digest('hex') };
});

function checkMd5(answer, sample) {
  sameBytes(answer.data, sample.data);
  assert.equal(answer.md5, sample.md5);
}

/** Calls per second with `callers` calls in flight all the time. */
async function throughput(callers, seconds, one) {
  const begin = now() + WARM_UP * 1000;
  const end = begin + seconds * 1000;
  let counted = 0;
  async function caller(k) {
    for (let i = k; ; i += callers) {
      await one(i);
      const t = now();
      if (t >= end) return;
      if (t >= begin) counted++;
    }
  }
  await Promise.all(Array.from({ length: callers }, (_, k) => caller(k)));
  return counted / seconds;
}

/** Median milliseconds of one call at a time; `one` returns what a call took. */
async function latency(seconds, one) {
  const warm = now() + WARM_UP * 1000;
  do await one(); while (now() < warm);
  const times = [];
  const end = now() + seconds * 1000;
  do times.push(await one()); while (now() < end);
  return median(times);
}

/** Median milliseconds of a few rounds, each with a pool of its own. */
async function rounds(seconds, one) {
  const times = [];
  const end = now() + seconds * 1000;
  while (times.length < MIN_ROUNDS || (times.length < MAX_ROUNDS && now() < end)) {
    times.push(await one());
  }
  return median(times);
}

async function withPool(peer, use, tasksPerWorker = 1) {
  const pool = peer.open({ tasksPerWorker });
  const result = await use(pool);
  await pool.close();
  return result;
}

async function noop(pool) {
  assert.equal(await pool.call('noop'), undefined);
}

/** kill -9 of one worker or of both, to the first right answer; failed calls are sent again. */
async function killRound(pool, both) {
  // Two calls which take a while at the same time meet both workers.
  const started = await Promise.all([pool.call('pid', 50), pool.call('pid', 50)]);
  assert.equal(new Set(started).size, 2);
  // The last one to answer is the one which most pools would choose again.
  const victims = both ? started : [await pool.call('pid', 0)];
  const [sample] = SAMPLES;
  const start = now();
  for (const pid of victims) process.kill(pid, 'SIGKILL');
  for (;;) {
    let answer;
    try {
      answer = await pool.call('md5', sample.data);
    } catch {
      await nextTurn(); // let the pool notice
      continue;
    }
    const took = now() - start;
    checkMd5(answer, sample);
    return took;
  }
}

function workloadsOf(peer) {
  const list = {
    'noop-1000': ['calls/s', (s) => withPool(peer, (pool) => throughput(1000, s, () => noop(pool)))],
    'noop-1': ['us', async (s) => 1000 * await withPool(peer, (pool) => latency(s, async () => {
      const start = now();
      await noop(pool);
      return now() - start;
    }))],
  };
  for (const tasks of peer.tasksPerWorker) {
    list[`md5-3k-${tasks}`] = ['calls/s', (s) => withPool(peer, (pool) => throughput(20, s, async (i) => {
      const sample = SAMPLES[i % SAMPLES.length];
      checkMd5(await pool.call('md5', sample.data), sample);
    }), tasks)];
  }
  list['echo-16m'] = ['ms', (s) => {
    const data = bytes(16 << 20, 1);
    return withPool(peer, (pool) => latency(s, async () => {
      data[0]++; // another message each time
      const start = now();
      const answer = await pool.call('echo', data);
      const took = now() - start;
      sameBytes(answer, data);
      return took;
    }));
  }];
  list.cold = ['ms', (s) => rounds(s, async () => {
    const start = now();
    const pool = peer.open({ tasksPerWorker: 1 });
    await noop(pool);
    const took = now() - start;
    await pool.close();
    return took;
  })];
  if (peer.recovers) {
    list.recover = ['ms', (s) => rounds(s, () => withPool(peer, (pool) => killRound(pool, false)))];
    list['recover-both'] = ['ms', (s) => rounds(s, () => withPool(peer, (pool) => killRound(pool, true)))];
  }
  return list;
}

/** Runs the workloads named on the command line (all, if none is) and prints a JSON line for each. */
export async function main(peer) {
  const { values, positionals } = parseArgs({
    options: { seconds: { type: 'string', default: '3' } },
    allowPositionals: true,
  });
  const seconds = Number(values.seconds);
  assert.ok(seconds > 0, '--seconds needs a positive number');
  for (const [workload, [unit, run]] of Object.entries(workloadsOf(peer))) {
    if (positionals.length > 0 && !positionals.includes(workload)) continue;
    const watchdog = setTimeout(() => {
      console.error(`${peer.name}: ${workload} does not come to an end`);
      process.exit(1);
    }, (seconds + PATIENCE) * 1000);
    const value = Number((await run(seconds)).toPrecision(6));
    clearTimeout(watchdog);
    console.log(JSON.stringify({ peer: peer.name, workload, value, unit }));
  }
  process.exit(0);
}

/** Waits for a pool to close, but not for ever. */
export async function bounded(closing) {
  await Promise.race([closing, sleep(3000)]);
}

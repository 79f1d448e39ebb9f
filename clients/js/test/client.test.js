// The client against a real server. Run by scripts/test, or: node --test
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

import { Brigade, BrigadeError, ConnectionError, TimeoutError } from 'brigade-client';
import { Parser } from '../src/events.js';
import { Server } from './server.js';

let server;
let brigade;
before(async () => {
  server = await Server.start();
  brigade = new Brigade(server.url);
});
after(() => server.stop());

const isKind = (kind) => (error) => {
  assert.ok(error instanceof BrigadeError, String(error));
  assert.equal(error.kind, kind);
  return true;
};

test('a pushed job is taken once', async () => {
  const pushed = await brigade.push('taken', { to: 'ann@example.org', ü: '☃' });
  assert.equal(pushed.duplicate, false);
  const job = await brigade.take('taken');
  assert.deepEqual([job.id, job.payload], [pushed.id, { to: 'ann@example.org', ü: '☃' }]);
  assert.equal(await brigade.take('taken'), null);
});

test('a push with one idempotency key is stored once', async () => {
  const first = await brigade.push('once', 1, { idempotencyKey: 'order-7' });
  const again = await brigade.push('once', 1, { idempotencyKey: 'order-7' });
  assert.deepEqual(again, { id: first.id, duplicate: true });
  const many = await brigade.pushMany('many', [{ payload: 1 }, { payload: 2, priority: 5 }]);
  assert.equal(many.length, 2);
  assert.equal((await brigade.take('many')).payload, 2);
});

test('a flow is pushed whole and looked at from any of its jobs', async () => {
  const job = (payload) => ({ queue: 'flow', payload });
  const { jobs, last } = await brigade.pushFlow({ group: [[job([1])], [job([2])]], then: { ...job([3]), keep: '1h' } });
  assert.deepEqual([jobs.length, jobs[2]], [3, last]);
  await (await brigade.lease('flow')).ack();
  const flow = await brigade.flow(jobs[1]);
  assert.deepEqual([flow.last, flow.state, flow.total, flow.done, flow.gone], [last, 'blocked', 3, 1, 1]);
  await (await brigade.lease('flow')).ack();
  const waiting = brigade.flow(last, { wait: 60 });
  await (await brigade.lease('flow', { wait: 30 })).ack();
  const ended = await waiting;
  assert.deepEqual([ended.state, ended.done, ended.jobs.length], ['done', 3, 1]);
});

test('a program is listed with what it runs and how far that is', async () => {
  const mailer = new Brigade(server.url, { consumer: 'mailer; pid=7', version: '1.2' });
  const id = (await brigade.push('listed', 1)).id;
  const lease = await mailer.lease('listed');
  await lease.progress(0.25, 'one of four');
  let found;
  while (found?.running[0]?.progress !== 0.25) {
    found = (await brigade.consumers()).find((consumer) => consumer.host === 'mailer');
  }
  assert.deepEqual(
    [found.pid, found.version, found.via, found.queues, found.running[0].job, found.running[0].text],
    [7, '1.2', 'HTTP', ['listed'], id, 'one of four'],
  );
  await lease.ack();
  // Without a name, it is the process.
  assert.equal(await brigade.take('listed'), null);
  while (!(await brigade.consumers()).some(({ pid, version }) => pid === process.pid && version === null));
});

test('a lease is settled in each way', async () => {
  const id = async (queue, options) => (await brigade.push(queue, null, { keep: '1h', ...options })).id;
  const state = async (of) => (await brigade.job(of)).state;
  const lease = (queue) => brigade.lease(queue, { time: 30 });

  const done = await id('ack');
  await (await lease('ack')).ack({ sent: true });
  const job = await brigade.job(done);
  assert.deepEqual([job.state, job.result], ['done', { sent: true }]);

  const failed = await id('nack', { retries: 1 });
  const first = await lease('nack');
  assert.equal(first.attempt, 1);
  await first.nack('no route', { after: 0 });
  const second = await brigade.lease('nack', { time: 30, wait: 10 });
  assert.equal(second.attempt, 2);
  await second.nack('no route');
  assert.equal(await state(failed), 'dead');
  assert.equal(await brigade.retry(failed), failed);
  assert.equal(await state(failed), 'ready');

  const passed = await id('pass');
  await (await lease('pass')).pass('reloading');
  assert.notEqual(await state(passed), 'dead');
  const back = await id('back');
  await (await lease('back')).giveBack('stopping');
  assert.equal(await state(back), 'ready');
  const dead = await id('dead');
  await (await lease('dead')).deadLetter('the address does not exist');
  assert.equal((await brigade.job(dead)).reason, 'the address does not exist');
});

test('a holder learns by extending that its job is cancelled', async () => {
  const { id } = await brigade.push('cancelled', 1, { keep: '1h' });
  const lease = await brigade.lease('cancelled');
  assert.equal(await lease.extend(60), null);
  assert.equal(await lease.progress(0.25, 'a quarter'), null);
  assert.equal((await brigade.cancel(id, { reason: 'ordered twice' })).outcome, 'asked');
  assert.equal(await lease.extend('60s'), 'ordered twice');
  assert.equal(await lease.progress(0.5, 'half of it'), 'ordered twice');
  await lease.cancelled('ordered twice');
  assert.equal((await brigade.job(id)).state, 'cancelled');
});

test('a lease that has ended is stale', async () => {
  await brigade.push('stale', 1);
  const lease = await brigade.lease('stale');
  await lease.ack();
  await assert.rejects(lease.ack(), isKind('stale'));
});

test('a long poll waits for a job and can be given up', async () => {
  const waiting = brigade.take('later', { wait: 20 });
  await brigade.push('later', 'here');
  assert.equal((await waiting).payload, 'here');
  const stop = new AbortController();
  const given = brigade.take('never', { wait: 20, signal: stop.signal });
  stop.abort();
  await assert.rejects(given, { name: 'AbortError' });
});

test('errors have the kinds of the server', async () => {
  await assert.rejects(brigade.job('no-such-job'), isKind('unknown_job'));
  await assert.rejects(brigade.push('q', 1, { prioritty: 3 }), (error) => {
    assert.equal(error.status, 400);
    return isKind('bad_request')(error);
  });
  await assert.rejects(brigade.pushMany('q', [{ payload: 1 }, { payload: 2, nope: 1 }]), BrigadeError);
  await assert.rejects(brigade.push('', 1), BrigadeError);
  assert.throws(() => new Brigade('ftp://x'), TypeError);
  assert.throws(() => new Brigade('http://user:secret@x'), /give the token as an option/);
});

test('work runs jobs, fails those that throw, and finishes at a stop', async () => {
  const stop = new AbortController();
  const good = await brigade.push('work', 20, { keep: '1h' });
  const bad = await brigade.push('work', 'x');
  const handler = async (payload) => {
    if (payload === 'x') throw new Error('not a number');
    return payload * 2;
  };
  const working = brigade.work('work', handler, { concurrency: 2, signal: stop.signal });
  assert.equal((await brigade.job(good.id, { wait: 20 })).result, 40);
  assert.equal((await brigade.job(bad.id, { wait: 20 })).reason, 'not a number');
  stop.abort();
  await working;
});

test('a call gives the result of a task, or how it ended', async () => {
  const stop = new AbortController();
  const add = async ([a, b]) => {
    if (a === null) throw new Error('no number');
    return a + b;
  };
  const working = brigade.work('add', add, { signal: stop.signal });
  assert.equal(await brigade.call('add', [3, 4], { wait: 20 }), 7);
  await assert.rejects(brigade.call('add', [null, 4], { wait: 20 }), isKind('failed'));
  stop.abort();
  await working;
});

test('events come in order and go on after a lost connection', async () => {
  const stop = new AbortController();
  const events = brigade.events({ queue: 'seen', signal: stop.signal });
  const next = async () => (await events.next()).value;
  const first = next();
  // The first event after the connection is there: pushes until it is.
  let isThere = false;
  first.then(() => {
    isThere = true;
  });
  let pushes = 0;
  while (!isThere) {
    await brigade.push('seen', pushes);
    pushes += 1;
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
  assert.equal((await first).kind, 'pushed');
  await server.restart();
  const { id } = await brigade.push('seen', 'after the restart');
  for (;;) {
    const event = await next();
    if (event.job === id) {
      assert.equal(event.kind, 'pushed');
      break;
    }
  }
  stop.abort();
  await events.return();
});

test('a result that cannot be sent is the failure of its job', async () => {
  const stop = new AbortController();
  const { id } = await brigade.push('unsendable', 1);
  const working = brigade.work('unsendable', () => 1n, { signal: stop.signal });
  assert.match((await brigade.job(id, { wait: 20 })).reason, /its result cannot be sent: .*BigInt/);
  stop.abort();
  await working;
});

test('a failure of one worker ends the others', async () => {
  await assert.rejects(brigade.work('', () => {}, { concurrency: 3 }), BrigadeError);
});

test('a push to a broker without unique keys is sent without one', async () => {
  const seen = [];
  const without = (url, options) => {
    const key = options.headers['idempotency-key'];
    seen.push(key !== undefined);
    if (key === undefined) return fetch(url, options);
    const problem = { kind: 'unsupported', status: 422, retryable: false };
    return Promise.resolve(new Response(JSON.stringify(problem), { status: 422 }));
  };
  const other = new Brigade(server.url, { fetch: without });
  assert.equal((await other.push('plain', 1)).duplicate, false);
  assert.deepEqual(seen, [true, false]);
  await assert.rejects(other.push('plain', 1, { idempotencyKey: 'k' }), isKind('unsupported'));
});

test('a server that is away or silent is an error of its own', async () => {
  const silent = createServer();
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const url = `http://127.0.0.1:${silent.address().port}`;
  // A request without a wait of its own ends by the limit; a margin of ten seconds is the least, so
  // that the test cuts it short.
  const short = (target, options) => fetch(target, { ...options, signal: AbortSignal.timeout(50) });
  await assert.rejects(new Brigade(url, { fetch: short }).take('q'), ConnectionError);
  silent.close();
  await assert.rejects(new Brigade('http://127.0.0.1:1').take('q'), ConnectionError);
  assert.ok(new TimeoutError('x') instanceof ConnectionError);
});

test('a stream of events is taken apart wherever it is cut', () => {
  const text = ': hello\n\nid: 5\r\nevent: done\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\n\ndata: {}\n\n';
  for (let at = 0; at <= text.length; at += 1) {
    const parser = new Parser();
    const found = [...parser.feed(text.slice(0, at)), ...parser.feed(text.slice(at))];
    assert.deepEqual(found, [
      { kind: 'done', a: 1, cursor: '5' },
      { kind: 'message', cursor: undefined },
    ], `cut at ${at}`);
  }
});

test('the samples run', async () => {
  const sample = (name) => {
    const path = new URL(`../samples/${name}.js`, import.meta.url).pathname;
    const env = { ...process.env, BRIGADE_HTTP: server.url };
    const child = spawn(process.execPath, [path], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    return { child, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
  };
  const worker = sample('worker');
  const producer = sample('produce');
  assert.match((await producer.lines.next()).value, /^pushed job /);
  assert.match((await worker.lines.next()).value, /^sending to \w+@example\.org$/);
  worker.child.kill('SIGTERM');
  const [code] = await once(worker.child, 'exit');
  assert.equal(code, 0);
});

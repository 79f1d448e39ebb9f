/** The operations of the API. */
import { events } from './events.js';
import { Http, pause, randomHex } from './http.js';
import { Lease } from './lease.js';

/** How long one long poll waits. */
const POLL_SECONDS = 20;
const WORK_PAUSE_MS = 1_000;
/** A timer of more fires at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** A connection to a Brigade server. It keeps nothing open between requests. */
export class Brigade {
  #http;

  constructor(url, options) {
    this.#http = new Http(url, options);
  }

  /**
   * Pushes a job and gives `{id, duplicate}`. The push has an idempotency key (one of its own if the
   * options have none), so that it is repeated after a lost answer and yet stored once. A job with
   * `unique`, and one for a broker without unique keys (RabbitMQ), is sent once.
   */
  async push(queue, payload, { idempotencyKey, ...options } = {}) {
    return this.#push(queue, { payload, ...options }, idempotencyKey, options.unique === undefined);
  }

  /** Pushes jobs, all or none; a list of `{id, duplicate}`. */
  async pushMany(queue, jobs, { idempotencyKey } = {}) {
    const canHaveKey = jobs.every((job) => job.unique === undefined);
    return (await this.#push(queue, jobs, idempotencyKey, canHaveKey)).jobs;
  }

  async #push(queue, body, givenKey, canHaveKey) {
    const key = givenKey ?? (canHaveKey ? randomHex(16) : undefined);
    const send = (headers) =>
      this.#http.request('POST', `${queuePath(queue)}/jobs`, { body, headers, safe: headers !== undefined });
    try {
      return await send(key === undefined ? undefined : { 'idempotency-key': key });
    } catch (error) {
      // A broker without unique keys: nothing was stored.
      if (error.kind !== 'unsupported' || key === undefined || givenKey !== undefined) throw error;
      return send(undefined);
    }
  }

  /**
   * Pushes a flow, all or none: `{chain: [job, ..]}`, or `{group: [[job, ..], ..]}` with at most one of
   * `then`, `collect` and `finally`. Every job has `queue` and `payload`. Gives `{jobs, last}`, their
   * ids. It is sent once.
   */
  async pushFlow(flow) {
    return this.#http.request('POST', '/v1/flows', { body: flow });
  }

  /** The flow of a job; with `wait`, as soon as its last job has ended, or after that many seconds. */
  async flow(id, { wait = 0, signal } = {}) {
    return this.#look(`/v1/flows/${encodeURIComponent(id)}`, { wait }, wait, signal);
  }

  /** Takes the next job, which is gone from then on (at most once); `null` if none comes. */
  async take(queue, { wait = 0, signal } = {}) {
    return this.#http.request('POST', `${queuePath(queue)}/take`, {
      query: { wait },
      waitMs: wait * 1000,
      signal,
    });
  }

  /** Leases the next job (at least once); `null` if none comes. */
  async lease(queue, { time = 60, wait = 0, signal } = {}) {
    const document = await this.#http.request('POST', `${queuePath(queue)}/lease`, {
      query: { time, wait },
      waitMs: wait * 1000,
      signal,
    });
    return document === null ? null : new Lease(this.#http, document);
  }

  /** Leases up to `max` jobs of several queues; a later queue gives jobs only while the earlier have none. */
  async leaseMany(queues, { max = 1, time = 60, wait = 0, signal } = {}) {
    const answer = await this.#http.request('POST', '/v1/leases', {
      body: { queues, max, time, wait },
      waitMs: wait * 1000,
      signal,
    });
    return answer.jobs.map((document) => new Lease(this.#http, document));
  }

  /**
   * Leases jobs and gives each to `handler(payload, lease, signal)` until `signal` is aborted. What
   * it returns is the job's result; what it throws is the reason of its failure. Leases are extended
   * while a handler runs; the handler's signal is aborted when its job is cancelled or lost. When
   * `signal` is aborted, running handlers are finished first.
   */
  async work(queue, handler, { concurrency = 1, time = 60, signal } = {}) {
    // The first failure ends all of them.
    const failed = new AbortController();
    const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
    const one = () =>
      this.#workOne(queue, handler, time, stop).catch((error) => {
        failed.abort(error);
        throw error;
      });
    const ends = await Promise.allSettled(Array.from({ length: concurrency }, one));
    const failure = ends.find((end) => end.status === 'rejected');
    if (failure) throw failure.reason;
  }

  async #workOne(queue, handler, time, signal) {
    while (!signal.aborted) {
      let lease;
      try {
        lease = await this.lease(queue, { time, wait: POLL_SECONDS, signal });
      } catch (error) {
        if (signal.aborted) return;
        if (!error.retryable) throw error;
        await pause(WORK_PAUSE_MS, signal).catch(() => {});
        continue;
      }
      if (lease !== null) await runLease(lease, handler, time);
    }
  }

  /** Calls a task and waits for its result. A call that ends otherwise is a `BrigadeError`. */
  async call(task, args = [], { wait = 60, signal, ...options } = {}) {
    const answer = await this.#http.request('POST', `/v1/calls/${encodeURIComponent(task)}`, {
      body: { args, ...options },
      query: { wait },
      waitMs: wait * 1000,
      signal,
    });
    return answer?.result ?? null;
  }

  /** A job with its history; with `wait`, as soon as it has ended, or after that many seconds. */
  async job(id, { wait = 0, signal } = {}) {
    return this.#look(`/v1/jobs/${encodeURIComponent(id)}`, { wait }, wait, signal);
  }

  /** One page of jobs: `{jobs, next}`; `next` is the `cursor` of the next one. */
  async jobs(filter = {}) {
    return this.#look('/v1/jobs', filter);
  }

  /** Why a job does not run now. */
  async why(id) {
    return this.#look(`/v1/jobs/${encodeURIComponent(id)}/why`);
  }

  /** The queues with their counts. */
  async queues() {
    return this.#look('/v1/queues');
  }

  /** The consumers that are alive, with what each runs. */
  async consumers() {
    return this.#look('/v1/consumers');
  }

  /** Cancels a job; with `wait`, until nothing of it is left. */
  async cancel(id, { reason, wait } = {}) {
    return this.#http.request('POST', `/v1/jobs/${encodeURIComponent(id)}/cancel`, {
      body: { reason, wait },
      waitMs: (wait ?? 0) * 1000,
    });
  }

  /** Gives a dead letter back to its queue; its id, which may be another one. */
  async retry(id, changes = {}) {
    const answer = await this.#http.request('POST', `/v1/jobs/${encodeURIComponent(id)}/retry`, {
      body: changes,
    });
    return answer.id;
  }

  /** Hands out nothing more of a queue until it is resumed. */
  async pause(queue) {
    await this.#http.request('POST', `${queuePath(queue)}/pause`, { safe: true });
  }

  /** Ends the pause of a queue. */
  async resume(queue) {
    await this.#http.request('POST', `${queuePath(queue)}/resume`, { safe: true });
  }

  /** Events of jobs as they happen: `for await (const event of brigade.events())`. */
  events(options) {
    return events(this.#http, options);
  }

  #look(path, query, wait = 0, signal) {
    return this.#http.request('GET', path, { query, waitMs: wait * 1000, safe: true, signal });
  }
}

async function runLease(lease, handler, time) {
  const stop = new AbortController();
  let cancel = null;
  const extend = async () => {
    try {
      cancel = await lease.extend(time);
      if (cancel !== null) stop.abort(new Error(cancel));
    } catch (error) {
      // Another holder may have the job by now.
      if (error.kind === 'stale') stop.abort(error);
    }
  };
  const timer = setInterval(extend, Math.min((time * 1000) / 3, TIMER_MS_MAX));
  let settle;
  try {
    const result = await handler(lease.payload, lease, stop.signal);
    settle = () => lease.ack(result);
  } catch (error) {
    settle = () => (cancel === null ? lease.nack(String(error?.message ?? error)) : lease.cancelled(cancel));
  } finally {
    clearInterval(timer);
  }
  try {
    await settle();
  } catch (error) {
    // A settlement that is lost does no harm: the lease runs out, and the job comes back. But a result
    // that cannot be sent would not be sent the next time either.
    if (error.retryable || error.kind === 'stale') return;
    await lease.nack(`its result cannot be sent: ${error.message}`).catch(() => {});
  }
}

function queuePath(queue) {
  return `/v1/queues/${encodeURIComponent(queue)}`;
}

/** A job on a lease, which its holder settles. */

/**
 * A job that was leased. Settle it once: `ack`, `nack`, `pass`, `giveBack` or `deadLetter`. Every
 * settlement names the lease, so the client repeats it after a lost answer; one that comes too late
 * is a `BrigadeError` of the kind `stale`. If that is `uncertain`, the settlement was repeated, and the
 * first attempt may have been carried out.
 */
export class Lease {
  #http;
  #path;

  constructor(http, document) {
    this.#http = http;
    this.#path = `/v1/leases/${encodeURIComponent(document.lease)}`;
    this.lease = document.lease;
    this.id = document.id;
    this.queue = document.queue;
    this.task = document.task ?? null;
    this.payload = document.payload;
    this.attempt = document.attempt;
    this.lost = document.lost;
    this.timeout = document.timeout ?? null;
    this.priority = document.priority;
    this.key = document.key ?? null;
    this.label = document.label ?? null;
    this.traceparent = document.traceparent ?? null;
  }

  /** Done, with a result for callers that wait. */
  async ack(result) {
    await this.#settle('ack', { result });
  }

  /** Failed: tried again by the job's own policy or after `after`, or a dead letter. */
  async nack(reason = '', { after } = {}) {
    await this.#settle('nack', { reason, after });
  }

  /** Given back untouched for another consumer, without charge. */
  async pass(reason = '', { after } = {}) {
    await this.#settle('pass', { reason, after });
  }

  /** Given back because this worker stops, without charge. */
  async giveBack(reason = '', { after } = {}) {
    await this.#settle('give-back', { reason, after });
  }

  /** Set aside for a person. */
  async deadLetter(reason = '') {
    await this.#settle('dead-letter', { reason });
  }

  /** Ended as cancelled, as `extend` or `progress` asked. */
  async cancelled(reason = '') {
    await this.#settle('cancelled', { reason });
  }

  /** Holds the job for this long from now on; the reason if it is to be cancelled, else `null`. */
  async extend(time) {
    const answer = await this.#settle('extend', { time });
    return answer?.cancel ?? null;
  }

  /** Reports progress, from 0 to 1; the reason if the job is to be cancelled, else `null`. */
  async progress(part, text = '') {
    const answer = await this.#settle('progress', { part, text });
    return answer?.cancel ?? null;
  }

  #settle(how, body) {
    return this.#http.request('POST', `${this.#path}/${how}`, { body, safe: true });
  }
}

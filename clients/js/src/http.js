/**
 * Requests: one URL, one credential, a time limit each, and repetitions where these are safe.
 *
 * A request is repeated only if it changes nothing, or if doing it twice is the same as once (a push
 * with an idempotency key, the settlement of a lease, which names the lease). Others are sent once.
 */
import { BrigadeError, ConnectionError, TimeoutError, UnreadableError } from './errors.js';

/** Attempts of a request that may be repeated. */
const ATTEMPTS_MAX = 4;
const PAUSE_MS = 100;
const PAUSE_MS_MAX = 2_000;
/** What a request has beyond the time for which the server waits for it. */
const MARGIN_MS = 10_000;

export class Http {
  constructor(url, { token, timeoutMs = 30_000, consumer, version, fetch: fetchOption } = {}) {
    const base = new URL(url);
    if (base.protocol !== 'http:' && base.protocol !== 'https:') {
      throw new TypeError(`the URL of a server begins with http:// or https://, not ${base.protocol}//`);
    }
    if (base.username || base.password) {
      throw new TypeError('give the token as an option: a URL with a password in it ends up in logs');
    }
    this.base = base.href.replace(/\/+$/, '');
    this.timeoutMs = timeoutMs;
    this.headers = { 'brigade-consumer': consumerName(consumer, version) };
    if (token !== undefined) this.headers.authorization = `Bearer ${token}`;
    // A browser's fetch refuses to be called as a method of another object.
    this.fetch = fetchOption ?? ((...request) => globalThis.fetch(...request));
  }

  /**
   * Sends a request; the JSON of its answer, or `null` for an empty one.
   *
   * `waitMs` is how long the server waits before it answers; `safe` says that the request may be
   * repeated.
   */
  async request(method, path, { body, query, headers, waitMs = 0, safe = false, signal } = {}) {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const attempts = safe ? ATTEMPTS_MAX : 1;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#once(method, path, { text, query, headers, waitMs, signal });
      } catch (error) {
        // An attempt before this one may have settled the lease, and its answer was lost.
        if (attempt > 1 && error.kind === 'stale') error.uncertain = true;
        if (attempt >= attempts || !error.retryable || signal?.aborted) throw error;
        await pause(Math.min(PAUSE_MS * 2 ** attempt, PAUSE_MS_MAX), signal);
      }
    }
  }

  async #once(method, path, { text, query, headers, waitMs, signal }) {
    const limit = new AbortController();
    const ms = Math.max(this.timeoutMs, waitMs + MARGIN_MS);
    const timer = setTimeout(() => limit.abort(), ms);
    try {
      const response = await this.send(method, path, {
        text,
        query,
        headers,
        signal: signal ? AbortSignal.any([signal, limit.signal]) : limit.signal,
      });
      return await readAnswer(response);
    } catch (error) {
      if (error instanceof BrigadeError) throw error;
      if (signal?.aborted) throw signal.reason;
      if (limit.signal.aborted) throw new TimeoutError(`${method} ${path}: no answer within ${ms} ms`);
      if (error instanceof ConnectionError) throw error;
      throw new ConnectionError(`${method} ${path}: ${reasonOf(error)}`, error);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Sends a request and gives the response as it comes. */
  async send(method, path, { text, query, headers, signal }) {
    const url = new URL(this.base + path);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const type = text === undefined ? {} : { 'content-type': 'application/json' };
    return this.fetch(url.href, {
      method,
      body: text,
      headers: { accept: 'application/json', ...type, ...this.headers, ...headers },
      signal,
      redirect: 'error',
    });
  }
}

/** How this program is named in the list of consumers: by default its host and process. */
function consumerName(given, version) {
  const { process } = globalThis;
  const host = process?.getBuiltinModule?.('node:os').hostname() ?? process?.env?.HOSTNAME;
  const name = given ?? (host === undefined ? `js-${randomHex(4)}` : `${host}; pid=${process.pid}`);
  return version === undefined ? name : `${name}; version=${version}`;
}

/** Random bytes as text. */
export function randomHex(bytes) {
  const random = globalThis.crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The JSON of a response that is good; throws the problem of one that is not. */
export async function readAnswer(response) {
  const text = await response.text();
  if (response.ok) {
    if (text === '') return null;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new UnreadableError('the answer is no JSON: is this a Brigade server?', error);
    }
  }
  throw new BrigadeError({ ...problemOf(text), status: response.status });
}

function problemOf(text) {
  try {
    const problem = JSON.parse(text);
    if (problem !== null && typeof problem === 'object') return problem;
  } catch {
    // Not from the server itself: a proxy, perhaps.
  }
  return { detail: text.slice(0, 500) || undefined };
}

function reasonOf(error) {
  return error?.cause?.message ?? error?.message ?? String(error);
}

/** Waits; rejects when the signal is aborted. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
  });
}

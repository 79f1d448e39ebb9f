/** What can go wrong: the server's problems by their kinds, a lost connection, a time that is over. */

/** The server refused, or could not: `application/problem+json` (RFC 9457). */
export class BrigadeError extends Error {
  /** @param {object} problem the server's document */
  constructor(problem) {
    super(problem.detail ?? problem.title ?? `the server answered ${problem.status}`);
    this.name = 'BrigadeError';
    /** What went wrong, to branch on: `unknown_queue`, `stale`, `too_large`, `failed` .. */
    this.kind = problem.kind ?? 'unknown';
    /** The status of the response. */
    this.status = problem.status;
    /** Whether the same request may succeed later without a change. */
    this.retryable = problem.retryable ?? problem.status === 503;
    /** Whether the request may have been carried out nevertheless. */
    this.uncertain = problem.uncertain ?? false;
    /** The line of the body that is at fault, from 1. */
    this.line = problem.line;
    /** Names that there are and that look like the one that was asked for. */
    this.didYouMean = problem.did_you_mean ?? [];
    /** The whole document. */
    this.problem = problem;
  }
}

/** The server could not be reached, or the connection broke. */
export class ConnectionError extends Error {
  constructor(message, cause) {
    super(message, { cause });
    this.name = 'ConnectionError';
    this.kind = 'connection';
    this.retryable = true;
    /** A request that was sent may have been carried out. */
    this.uncertain = true;
  }
}

/** What came is no answer of a Brigade server: repeating the request would not help. */
export class UnreadableError extends ConnectionError {
  constructor(message, cause) {
    super(message, cause);
    this.name = 'UnreadableError';
    this.kind = 'unreadable';
    this.retryable = false;
  }
}

/** The server did not answer in time. */
export class TimeoutError extends ConnectionError {
  constructor(message) {
    super(message);
    this.name = 'TimeoutError';
    this.kind = 'timeout';
  }
}

/**
 * Client of the HTTP API of Brigade (`brigade serve`), for Node and browsers. No dependencies.
 *
 * `client.js` has the operations, `lease.js` a job on a lease, `http.js` requests with timeouts and
 * repetitions, `events.js` the stream of events, `errors.js` what goes wrong. Types are in
 * `index.d.ts`.
 */
export { Brigade } from './client.js';
export { Lease } from './lease.js';
export { BrigadeError, ConnectionError, TimeoutError, UnreadableError } from './errors.js';

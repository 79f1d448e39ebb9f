/** Client of the HTTP API of Brigade (`brigade serve`), for Node and browsers. */

/** Seconds, or text: `250ms`, `5s`, `2m`, `1h30m`, `3d`. */
export type Time = number | string;
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export interface ClientOptions {
  /** The bearer token. Without one for a server that runs with `--auth none`. */
  token?: string;
  /** How long a request may take beyond the time for which it asks the server to wait. Default: 30,000. */
  timeoutMs?: number;
  /** Names this program in the list of consumers, for example `web-1; pid=4711`. Default: its host and process. */
  consumer?: string;
  /** The version of this program, for the list of consumers. */
  version?: string;
  /** Used instead of the global `fetch`. */
  fetch?: typeof fetch;
}

/** Options of a job; `brigade push --help` and `/openapi.json` explain them. */
export interface JobOptions {
  task?: string;
  priority?: number;
  delay?: Time;
  /** RFC 3339. */
  at?: string;
  key?: string;
  unique?: string;
  unique_for?: Time;
  partition?: string;
  retries?: number;
  backoff?: { base: Time; cap: Time };
  within?: Time;
  timeout?: Time;
  memory?: number;
  address_space?: number;
  cpu?: Time;
  files?: number;
  processes?: number;
  file_size?: number;
  keep?: Time;
  label?: string;
  traceparent?: string;
}

export interface NewJob extends JobOptions {
  payload: unknown;
}

export interface Pushed {
  id: string;
  /** It was stored before: by this key. */
  duplicate: boolean;
}

export interface TakenJob<T = unknown> {
  id: string;
  payload: T;
  queue: string;
  task: string | null;
  traceparent?: string;
}

export type JobState =
  | 'scheduled'
  | 'ready'
  | 'blocked'
  | 'leased'
  | 'retrying'
  | 'done'
  | 'dead'
  | 'cancelled';

/** A job as the server shows it; the fields that most programs need. */
export interface Job {
  id: string;
  queue: string;
  task: string | null;
  state: JobState;
  payload: unknown;
  result: unknown;
  reason: string | null;
  [field: string]: unknown;
}

export interface JobFilter {
  queue?: string;
  state?: JobState;
  task?: string;
  label?: string;
  key?: string;
  text?: string;
  reason?: string;
  pushed_from?: string;
  pushed_until?: string;
  order?: 'oldest' | 'newest';
  cursor?: string;
  limit?: number;
}

export interface JobEvent {
  /** Where to go on after this event. */
  cursor?: string;
  /** `pushed`, `leased`, `done`, `failed` ..; `missed` if events between were lost. */
  kind: string;
  [field: string]: unknown;
}

export type FlowJob = NewJob & { queue: string };

/** A flow to push: either `chain`, or `group` with at most one of the others. */
export interface NewFlow {
  /** Jobs that run one after another; each gets the result of the one before it. */
  chain?: FlowJob[];
  /** Chains that run at the same time. */
  group?: FlowJob[][];
  /** Runs when all of the group are done. */
  then?: FlowJob;
  /** The same, with an array of their results. */
  collect?: FlowJob;
  /** Runs when all of the group are settled, however they ended. */
  finally?: FlowJob;
}

export interface Flow {
  /** The job that is settled last. */
  last: string;
  /** Where that job is in its life. */
  state: JobState;
  total: number;
  done: number;
  /** Dead or cancelled. */
  missed: number;
  /** Done, and not kept. */
  gone: number;
  jobs: Job[];
  [field: string]: unknown;
}

/** A consumer that is alive. */
export interface Consumer {
  id: string;
  /** Its host, or the name that it gave. */
  host: string;
  pid: number | null;
  version: string | null;
  /** `HTTP` if it takes jobs over HTTP. */
  via: string | null;
  queues: string[];
  /** How many jobs it holds. */
  held: number;
  /** The first of them. `progress` is from 0 to 1. */
  running: { job: string; queue: string; attempt: number; progress: number | null; text: string | null; [field: string]: unknown }[];
  [field: string]: unknown;
}

export interface LeaseOptions {
  /** Seconds that the lease lasts. Default: 60. */
  time?: number;
  /** Seconds to wait for a job. Default: 0. */
  wait?: number;
  signal?: AbortSignal;
}

export interface WorkOptions {
  /** Jobs at a time. Default: 1. */
  concurrency?: number;
  /** Seconds that a lease lasts; it is extended while a handler runs. Default: 60. */
  time?: number;
  /** Ends the work: running handlers are finished first. */
  signal?: AbortSignal;
}

export interface CallOptions {
  /** Seconds to wait for the result; then the call is cancelled. Default: 60. */
  wait?: number;
  /** Default: the name of the task. */
  queue?: string;
  timeout?: Time;
  queue_timeout?: Time;
  memory?: number;
  address_space?: number;
  cpu?: Time;
  files?: number;
  processes?: number;
  file_size?: number;
  priority?: number;
  retries?: number;
  key?: string;
  unique?: string;
  label?: string;
  traceparent?: string;
  signal?: AbortSignal;
}

export class Brigade {
  constructor(url: string | URL, options?: ClientOptions);
  push(queue: string, payload: unknown, options?: JobOptions & { idempotencyKey?: string }): Promise<Pushed>;
  pushMany(queue: string, jobs: NewJob[], options?: { idempotencyKey?: string }): Promise<Pushed[]>;
  pushFlow(flow: NewFlow): Promise<{ jobs: string[]; last: string }>;
  flow(id: string, options?: { wait?: number; signal?: AbortSignal }): Promise<Flow>;
  take<T = unknown>(queue: string, options?: { wait?: number; signal?: AbortSignal }): Promise<TakenJob<T> | null>;
  lease<T = unknown>(queue: string, options?: LeaseOptions): Promise<Lease<T> | null>;
  leaseMany<T = unknown>(queues: string[], options?: LeaseOptions & { max?: number }): Promise<Lease<T>[]>;
  work<T = unknown>(
    queue: string,
    handler: (payload: T, lease: Lease<T>, signal: AbortSignal) => unknown | Promise<unknown>,
    options?: WorkOptions,
  ): Promise<void>;
  call<T = unknown>(task: string, args?: unknown[], options?: CallOptions): Promise<T>;
  job(id: string, options?: { wait?: number; signal?: AbortSignal }): Promise<Job>;
  jobs(filter?: JobFilter): Promise<{ jobs: Job[]; next: string | null }>;
  why(id: string): Promise<{ text: string; reasons: Json[]; [field: string]: unknown }>;
  queues(): Promise<{ [field: string]: unknown }>;
  /** The consumers that are alive, with what each runs. */
  consumers(): Promise<Consumer[]>;
  cancel(
    id: string,
    options?: { reason?: string; wait?: number },
  ): Promise<{ outcome: 'cancelled' | 'asked'; [field: string]: unknown }>;
  retry(id: string, changes?: { payload?: unknown; task?: string; queue?: string }): Promise<string>;
  pause(queue: string): Promise<void>;
  resume(queue: string): Promise<void>;
  events(options?: { queue?: string; after?: string; signal?: AbortSignal }): AsyncGenerator<JobEvent, void>;
}

/** A job that was leased. Settle it once. */
export class Lease<T = unknown> {
  private constructor();
  readonly lease: string;
  readonly id: string;
  readonly queue: string;
  readonly task: string | null;
  readonly payload: T;
  /** From 1. */
  readonly attempt: number;
  /** Leases of it before this one whose holder died or hung. */
  readonly lost: number;
  /** Seconds that this attempt may run, for the holder to keep. */
  readonly timeout: number | null;
  readonly priority: number;
  readonly key: string | null;
  readonly label: string | null;
  readonly traceparent: string | null;
  ack(result?: unknown): Promise<void>;
  nack(reason?: string, options?: { after?: Time }): Promise<void>;
  pass(reason?: string, options?: { after?: Time }): Promise<void>;
  giveBack(reason?: string, options?: { after?: Time }): Promise<void>;
  deadLetter(reason?: string): Promise<void>;
  cancelled(reason?: string): Promise<void>;
  /** The reason if the job is to be cancelled, else `null`. */
  extend(time: Time): Promise<string | null>;
  /** The reason if the job is to be cancelled, else `null`. */
  progress(part: number, text?: string): Promise<string | null>;
}

/** The server refused, or could not: `application/problem+json`. */
export class BrigadeError extends Error {
  readonly kind: string;
  readonly status: number;
  readonly retryable: boolean;
  readonly uncertain: boolean;
  readonly line?: number;
  readonly didYouMean: string[];
  readonly problem: { [field: string]: unknown };
}

/** The server could not be reached, or the connection broke. */
export class ConnectionError extends Error {
  readonly kind: string;
  readonly retryable: boolean;
  readonly uncertain: true;
}

/** What came is no answer of a Brigade server. */
export class UnreadableError extends ConnectionError {}

/** The server did not answer in time. */
export class TimeoutError extends ConnectionError {}

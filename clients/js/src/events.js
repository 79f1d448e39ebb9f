/** Events of jobs, over server-sent events with resume. */
import { BrigadeError, UnreadableError } from './errors.js';
import { pause, readAnswer } from './http.js';

const PAUSE_MS = 500;
const PAUSE_MS_MAX = 10_000;
/** The longest event that is read, in characters. */
const EVENT_CHARS_MAX = 1 << 20;
/** Nothing for so long, not even a comment of the server, means a dead connection. */
const SILENCE_MS = 60_000;

/**
 * Yields events after a place, or from now on. After a lost connection it goes on where it was. Ends
 * when `signal` is aborted.
 */
export async function* events(http, { queue, after, signal } = {}) {
  let last = after;
  let failures = 0;
  while (!signal?.aborted) {
    try {
      for await (const event of connection(http, { queue, last, signal })) {
        failures = 0;
        last = event.cursor ?? last;
        // What the server says of the stream itself: where it begins, or why it ends.
        if (event.kind === 'open') continue;
        if (event.status !== undefined && event.title !== undefined) throw new BrigadeError(event);
        yield event;
      }
    } catch (error) {
      if (signal?.aborted) return;
      if (error.retryable === false) throw error;
      failures += 1;
      if (last === undefined && failures === 1 && !(error instanceof BrigadeError)) {
        // The first connection: a wrong URL must not be repeated for ever in silence.
        throw error;
      }
    }
    try {
      await pause(Math.min(PAUSE_MS * 2 ** failures, PAUSE_MS_MAX), signal);
    } catch {
      return;
    }
  }
}

async function* connection(http, { queue, last, signal }) {
  const limit = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => limit.abort(new Error('the connection is silent')), SILENCE_MS);
  };
  heard();
  try {
    const response = await http.send('GET', '/v1/events', {
      query: { queue },
      headers: {
        accept: 'text/event-stream',
        ...(last === undefined ? {} : { 'last-event-id': last }),
      },
      signal: signal ? AbortSignal.any([signal, limit.signal]) : limit.signal,
    });
    if (!response.ok) await readAnswer(response);
    const decoder = new TextDecoder();
    const parser = new Parser();
    const reader = response.body.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        heard();
        yield* parser.feed(decoder.decode(value, { stream: true }));
      }
    } finally {
      await reader.cancel().catch(() => {});
    }
  } finally {
    clearTimeout(timer);
  }
}

/** The text of an event stream, as <https://html.spec.whatwg.org/multipage/server-sent-events.html>. */
export class Parser {
  #rest = '';
  #fields = { data: [], event: '', id: undefined };

  /** The events that a piece of text completes. */
  *feed(text) {
    this.#rest += text;
    if (this.#rest.length > EVENT_CHARS_MAX) throw new UnreadableError('an event is too long');
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        const event = this.#complete();
        if (event !== undefined) yield event;
      } else {
        this.#take(line);
      }
    }
  }

  #take(line) {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') this.#fields.data.push(value);
    else if (name === 'event') this.#fields.event = value;
    else if (name === 'id') this.#fields.id = value;
  }

  #complete() {
    const { data, event, id } = this.#fields;
    this.#fields = { data: [], event: '', id: undefined };
    if (data.length === 0) return undefined;
    let value;
    try {
      value = JSON.parse(data.join('\n'));
    } catch (error) {
      throw new UnreadableError('an event is no JSON: is this a Brigade server?', error);
    }
    return { kind: event || 'message', ...value, cursor: id ?? value.cursor };
  }
}

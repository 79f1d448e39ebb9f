// "I am free": gets the next job, does it, and asks for another one, until SIGTERM.
import { Brigade } from 'brigade-client';

const brigade = new Brigade(process.env.BRIGADE_HTTP ?? 'http://127.0.0.1:7420', { token: process.env.BRIGADE_TOKEN });
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());
await brigade.work('emails', async (email) => {
  console.log(`sending to ${email.to}`);
  return { sent: true };
}, { signal: stop.signal });

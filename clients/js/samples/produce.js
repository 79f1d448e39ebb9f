// A producer: pushes jobs and does not wait for them.
import { Brigade } from 'brigade-client';

const brigade = new Brigade(process.env.BRIGADE_HTTP ?? 'http://127.0.0.1:7420', { token: process.env.BRIGADE_TOKEN });
for (const name of ['ann', 'bob', 'eve']) {
  const { id } = await brigade.push('emails', { to: `${name}@example.org` }, { retries: 3, keep: '1h' });
  console.log(`pushed job ${id}`);
}

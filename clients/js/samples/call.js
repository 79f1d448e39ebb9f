// An RPC call: a Rust consumer serves the task `add`.
import { Brigade, BrigadeError } from 'brigade-client';

const brigade = new Brigade(process.env.BRIGADE_HTTP ?? 'http://127.0.0.1:7420', { token: process.env.BRIGADE_TOKEN });
try {
  console.log('3 + 4 =', await brigade.call('add', [3, 4], { wait: 10 }));
} catch (error) {
  if (!(error instanceof BrigadeError)) throw error;
  console.error(`${error.kind}: ${error.message}`);
}

// A program that knows nothing of Brigade but the keys of a queue.
//
//   node client.cjs MODULES SOCKET push QUEUE PRODUCER COUNT     pushes jobs to the inbox
//   node client.cjs MODULES SOCKET take QUEUE ID COUNT|all       takes jobs and prints them, one per line
'use strict';
const [modules, socket, what, queue, name, count] = process.argv.slice(2);
const { createClient } = require(require.resolve('redis', { paths: [modules] }));

const key = (part) => `brigade:{${queue}}:${part}`;

// 9007199254740993 is no number of JavaScript's, so the payload is written as text.
const payload = (n) =>
  `{"producer": ${JSON.stringify(name)}, "n": ${n}, "text": "Grüße, 東京 🚀", "large": 9007199254740993, "nested": [[1.5, null], {"a": []}]}`;

async function push(client) {
  // The client sends what is asked in one turn together, in this order.
  for (let n = 0; n < Number(count); ) {
    const batch = [];
    for (let i = 0; i < 10 && n < Number(count); i++, n++) batch.push(client.rPush(key('inbox'), payload(n)));
    await Promise.all(batch);
  }
}

async function take(client) {
  const wanted = count === 'all' ? Infinity : Number(count);
  for (let taken = 0; taken < wanted; taken++) {
    await client.rPush(key('free'), name);
    const job = await client.blPop(key(`to:${name}`), count === 'all' ? 3 : 30);
    if (job === null) return;
    process.stdout.write(`${job.element}\n`);
  }
}

async function main() {
  const client = createClient({ socket: { path: socket, reconnectStrategy: false } });
  client.on('error', () => {});
  await client.connect();
  await { push, take }[what](client);
  client.destroy();
}

// Whatever happens, this program ends.
setTimeout(() => process.exit(2), 60_000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});

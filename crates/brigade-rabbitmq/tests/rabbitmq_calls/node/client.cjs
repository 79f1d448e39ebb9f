// A program that knows nothing of Brigade but the names of its queues, and that a request is a JSON array.
//
//   node client.cjs MODULES URL serve QUEUE            adds the two numbers of each request
//   node client.cjs MODULES URL call QUEUE COUNT       makes calls and prints their answers, in order, one per line
//   node client.cjs MODULES URL ask QUEUE ARGUMENTS    makes one call and prints the answer
'use strict';
const [modules, url, what, queue, rest] = process.argv.slice(2);
const amqp = require(require.resolve('amqplib', { paths: [modules] }));

async function serve(channel) {
  await channel.assertQueue(queue, { durable: true });
  await channel.prefetch(10);
  await channel.consume(queue, (message) => {
    const { replyTo, correlationId } = message.properties;
    const [a, b] = JSON.parse(message.content);
    if (typeof a === 'number' && typeof b === 'number') {
      channel.sendToQueue(replyTo, Buffer.from(JSON.stringify(a + b)), { correlationId });
    } else {
      const body = JSON.stringify({ kind: 'failed', message: 'no numbers' });
      channel.sendToQueue(replyTo, Buffer.from(body), { correlationId, headers: { 'brigade-error': 'failed' } });
    }
    channel.ack(message);
  });
  await new Promise(() => {});
}

// Direct reply-to, as many programs have it.
async function caller(channel) {
  const waiting = new Map();
  await channel.consume(
    'amq.rabbitmq.reply-to',
    (message) => waiting.get(message.properties.correlationId)(message),
    { noAck: true },
  );
  return (id, body) =>
    new Promise((answered) => {
      waiting.set(id, answered);
      channel.sendToQueue(queue, Buffer.from(body), {
        correlationId: id, replyTo: 'amq.rabbitmq.reply-to', contentType: 'application/json',
      });
    });
}

async function call(channel) {
  const ask = await caller(channel);
  const answers = Array.from({ length: Number(rest) }, (_, n) => ask(`${n}`, JSON.stringify([n, 1])));
  for (const answer of await Promise.all(answers)) process.stdout.write(`${answer.content}\n`);
}

async function ask(channel) {
  const answer = await (await caller(channel))('1', rest);
  const { headers } = answer.properties;
  process.stdout.write(`${JSON.stringify({ error: headers['brigade-error'] ?? null, body: JSON.parse(answer.content) })}\n`);
}

async function main() {
  const connection = await amqp.connect(url, { noDelay: true });
  const channel = await connection.createChannel();
  await { serve, call, ask }[what](channel);
  await connection.close();
}

// Whatever happens, this program ends.
setTimeout(() => process.exit(2), 60_000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});

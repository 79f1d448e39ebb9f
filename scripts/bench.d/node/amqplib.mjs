// The sides of calls and jobs over RabbitMQ with amqplib, for `cargo bench --bench rabbitmq -- --peers scripts/bench.d/node`.
//
//   node amqplib.mjs --serve|--drive amqplib WORKLOAD URL SECONDS
//
// Nothing is persistent or confirmed but what the workload says; noDelay, as Nagle's algorithm would hold up every answer for 40 ms.
import amqp from 'amqplib';

const [role, peer, workload, url, seconds] = process.argv.slice(2);
const time = Number(seconds) * 1000;
const WARM_UP = 300;

const print = (name, value, unit) => console.log(JSON.stringify({ peer, workload: name, value: Number(value.toFixed(3)), unit }));

async function serve(channel) {
  await channel.assertQueue('sum', { durable: true });
  await channel.prefetch(256);
  await channel.consume('sum', (message) => {
    const { replyTo, correlationId } = message.properties;
    const [a, b] = JSON.parse(message.content);
    channel.sendToQueue(replyTo, Buffer.from(JSON.stringify(a + b)), { correlationId });
    channel.ack(message);
  });
  process.stdin.resume();
  await new Promise((ended) => process.stdin.on('end', ended));
}

async function calls(channel, window) {
  await channel.assertQueue('sum', { durable: true });
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const open = new Map();
  await channel.consume(queue, ({ properties: { correlationId }, content }) => {
    const answered = open.get(correlationId);
    open.delete(correlationId);
    answered(JSON.parse(content));
  }, { noAck: true });
  let next = 0;
  const call = (n) => new Promise((answered) => {
    const correlationId = `${next++}`;
    open.set(correlationId, answered);
    channel.sendToQueue('sum', Buffer.from(JSON.stringify([n, 1])), { correlationId, replyTo: queue, contentType: 'application/json' });
  });
  const begin = performance.now() + WARM_UP;
  const end = begin + time;
  const times = [];
  let made = 0;
  await Promise.all(Array.from({ length: window }, async () => {
    for (let n = 0; ; n++) {
      const began = performance.now();
      if ((await call(n)) !== n + 1) throw new Error('a wrong answer');
      made++;
      const now = performance.now();
      if (now >= end) return;
      if (now >= begin) times.push(now - began);
    }
  }));
  console.log(`made ${made}`);
  times.sort((a, b) => a - b);
  print(workload, times.length / (time / 1000), 'calls/s');
  print(`${workload}-median`, times[times.length >> 1] * 1000, 'us');
}

async function push(connection) {
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue('pushed', { durable: true });
  const one = (n) => new Promise((done, failed) => {
    channel.sendToQueue('pushed', Buffer.from(`${n}`), { persistent: true, mandatory: true }, (error) => (error ? failed(error) : done()));
  });
  const begin = performance.now() + WARM_UP;
  const end = begin + time;
  let count = 0;
  let made = 0;
  await Promise.all(Array.from({ length: 256 }, async () => {
    for (let n = 0; ; n++) {
      await one(n);
      made++;
      const now = performance.now();
      if (now >= end) return;
      if (now >= begin) count++;
    }
  }));
  console.log(`made ${made}`);
  print(workload, count / (time / 1000), 'jobs/s');
}

async function consume(connection) {
  const count = Math.floor(50 * time);
  const channel = await connection.createChannel();
  await channel.prefetch(250);
  const began = performance.now();
  let taken = 0;
  await new Promise((done) => {
    channel.consume('consumed', (message) => {
      JSON.parse(message.content);
      channel.ack(message);
      if (++taken === count) done();
    });
  });
  print(workload, count / ((performance.now() - began) / 1000), 'jobs/s');
  console.log(`made ${count}`);
}

const connection = await amqp.connect(url, { noDelay: true });
if (role === '--serve') await serve(await connection.createChannel());
else if (workload === 'push-256') await push(connection);
else if (workload === 'consume-250') await consume(connection);
else await calls(await connection.createChannel(), workload === 'rpc-1' ? 1 : 256);
await connection.close();

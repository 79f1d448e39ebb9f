//! Plain scripts that push, lease and acknowledge jobs and do nothing else: a hash for each job,
//! and sorted sets of ready and leased jobs. Two scripts are under way on one connection, so that
//! the server need not wait for the next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisResult, Script};
use tokio::task::JoinHandle;

use crate::jobs::PAYLOAD;
use crate::load::Result;
use crate::server;

const QUEUE: &str = "raw:{noop}:";
const TASK: &str = "noop";
const HOLDER: &str = "host.example:123456";
/// Milliseconds, as the tokens and the ends of leases are.
const NOW: u64 = 1_700_000_000_000;
/// Scripts under way at the same time.
const AHEAD: usize = 2;

const PUSH: &str = "
local count, ready = #ARGV / 3, {}
local last = redis.call('INCRBY', KEYS[1] .. 'seq', count)
for i = 1, count do
  local id = string.format('%016d', last - count + i)
  redis.call('HSET', KEYS[1] .. 'job:' .. id, 'payload', ARGV[3 * i - 2], 'task', ARGV[3 * i - 1],
    'state', 'ready', 'token', ARGV[3 * i], 'attempts', '0', 'pushed_at', ARGV[3 * i])
  ready[2 * i - 1], ready[2 * i] = '0', id
end
redis.call('ZADD', KEYS[1] .. 'ready', unpack(ready))
return last";

const LEASE: &str = "
local ids, found, leased = redis.call('ZRANGE', KEYS[1] .. 'ready', 0, ARGV[1] - 1), {}, {}
if #ids == 0 then return found end
for i, id in ipairs(ids) do
  local job = KEYS[1] .. 'job:' .. id
  local fields = redis.call('HMGET', job, 'payload', 'task', 'token', 'attempts')
  redis.call('HSET', job, 'state', 'leased', 'token', string.format('%.0f', fields[3] + 1), \
  'attempts', fields[4] + 1,
    'lease_until', ARGV[2], 'holder', ARGV[3])
  found[i] = {id, string.format('%.0f', fields[3] + 1), fields[1], fields[2]}
  leased[2 * i - 1], leased[2 * i] = ARGV[2], id
end
redis.call('ZREM', KEYS[1] .. 'ready', unpack(ids))
redis.call('ZADD', KEYS[1] .. 'leased', unpack(leased))
return found";

const ACK: &str = "
local jobs, ids = {}, {}
for i = 1, #ARGV, 2 do
  local job = KEYS[1] .. 'job:' .. ARGV[i]
  local fields = redis.call('HMGET', job, 'state', 'token')
  if fields[1] == 'leased' and fields[2] == ARGV[i + 1] then
    jobs[#jobs + 1], ids[#ids + 1] = job, ARGV[i]
  end
end
if #jobs == 0 then return 0 end
redis.call('DEL', unpack(jobs))
redis.call('ZREM', KEYS[1] .. 'leased', unpack(ids))
return #jobs";

/// Number, token, payload, task.
type Leased = (String, String, String, String);

struct Raw {
    connection: MultiplexedConnection,
    /// Hashes of the scripts.
    push: String,
    lease: String,
    ack: String,
}

impl Raw {
    async fn open() -> Result<Self> {
        let mut connection = server::connect_to_empty().await?;
        let mut load = async |script| Script::new(script).load_async(&mut connection).await;
        let (push, lease, ack) = (load(PUSH).await?, load(LEASE).await?, load(ACK).await?);
        Ok(Self {
            connection,
            push,
            lease,
            ack,
        })
    }

    /// Under way from now on.
    #[expect(
        clippy::disallowed_methods,
        reason = "measures what the library is compared with"
    )]
    fn send<T: FromRedisValue + Send + 'static>(
        &self,
        pipeline: Pipeline,
    ) -> JoinHandle<RedisResult<T>> {
        let mut connection = self.connection.clone();
        tokio::spawn(async move { pipeline.query_async(&mut connection).await })
    }

    fn push(&self, jobs: usize) -> JoinHandle<RedisResult<(u64,)>> {
        let mut pipeline = Pipeline::new();
        let call = pipeline.cmd("EVALSHA").arg(&self.push).arg(1).arg(QUEUE);
        (0..jobs).for_each(|_| {
            call.arg(PAYLOAD).arg(TASK).arg(NOW);
        });
        self.send(pipeline)
    }

    /// Acknowledges some jobs and leases others.
    fn ack_and_lease(
        &self,
        done: &[Leased],
        jobs: usize,
    ) -> JoinHandle<RedisResult<(usize, Vec<Leased>)>> {
        let mut pipeline = Pipeline::new();
        let call = pipeline.cmd("EVALSHA").arg(&self.ack).arg(1).arg(QUEUE);
        done.iter().for_each(|(number, token, ..)| {
            call.arg(number).arg(token);
        });
        pipeline
            .cmd("EVALSHA")
            .arg(&self.lease)
            .arg(1)
            .arg(QUEUE)
            .arg(jobs)
            .arg(NOW)
            .arg(HOLDER);
        self.send(pipeline)
    }

    /// As one who pushes so many at once, and then the next.
    async fn push_for(&self, jobs: usize, time: Duration) -> Result<(Instant, usize)> {
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < time {
            let parts = [0; AHEAD].map(|_| self.push(jobs / AHEAD));
            for part in parts {
                part.await??;
                count += jobs / AHEAD;
            }
        }
        Ok((began, count))
    }

    /// As many who push one each, and then the next.
    async fn push_on(&self, jobs: usize, time: Duration) -> Result<(Instant, usize)> {
        let (began, mut count, mut flying) = (
            Instant::now(),
            0,
            VecDeque::from([0; AHEAD].map(|_| self.push(jobs / AHEAD))),
        );
        while let Some(first) = flying.pop_front() {
            first.await??;
            count += jobs / AHEAD;
            if began.elapsed() < time {
                flying.push_back(self.push(jobs / AHEAD));
            }
        }
        Ok((began, count))
    }
}

/// Jobs per second of so many who push.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn push_rate(pushers: usize, time: Duration) -> Result<f64> {
    let (began, count) = Raw::open().await?.push_on(pushers, time).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Jobs per second of one who pushes so many at once.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn bulk_rate(jobs: usize, time: Duration) -> Result<f64> {
    let (began, count) = Raw::open().await?.push_for(jobs, time).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Jobs per second: all are pushed, then leased and acknowledged, with so many under way.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn cycle_rate(jobs: usize, time: Duration) -> Result<f64> {
    let raw = Raw::open().await?;
    let (began, count) = raw.push_for(jobs, time / 3).await?;
    let mut left = count;
    let mut flying: VecDeque<_> = (0..AHEAD)
        .map(|_| raw.ack_and_lease(&[], jobs / AHEAD))
        .collect();
    while let Some(first) = flying.pop_front() {
        let (acked, leased) = first.await??;
        left -= acked;
        assert!(
            leased
                .iter()
                .all(|(_, _, payload, task)| payload == PAYLOAD && task == TASK),
            "the jobs come back"
        );
        if left > 0 && (!leased.is_empty() || flying.is_empty()) {
            flying.push_back(raw.ack_and_lease(&leased, jobs / AHEAD));
        }
    }
    assert_eq!(left, 0, "every job was acknowledged");
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

//! The workloads of job queues on Redis.
//!
//! The server's socket is `BENCH_REDIS_SOCKET`. All that it has is deleted before each workload.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const WARM_UP: Duration = Duration::from_millis(500);
/// Tasks that push at the same time.
const PUSHERS: usize = 64;
/// Jobs of one push in bulk.
const BULK: usize = 1000;
/// Jobs that a worker fetches at once, as far as it does, and runs at once.
pub const PREFETCH: usize = 100;
/// A worker that comes to nothing ends the program after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A queue of no-ops; a clone is for another task.
pub trait Queue: Clone + Send + Sync + 'static {
    /// Whether it can run as many jobs as are there.
    const RUNS: bool = true;

    fn open(url: &str) -> impl Future<Output = Result<Self>> + Send;
    fn push(&mut self) -> impl Future<Output = Result<()>> + Send;
    fn push_many(&mut self, count: usize) -> impl Future<Output = Result<()>> + Send;
    /// Runs so many jobs; ends when all are acknowledged.
    fn run(self, count: u64) -> impl Future<Output = Result<()>> + Send;
}

/// Pushes per second of many tasks, each one after the other.
async fn push_one_by_one<Q: Queue>(queue: Q, seconds: Duration) -> Result<f64> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + seconds;
    let mut pushers = tokio::task::JoinSet::new();
    for _ in 0..PUSHERS {
        let mut queue = queue.clone();
        pushers.spawn(async move {
            let mut counted = 0_u64;
            loop {
                queue.push().await?;
                let now = Instant::now();
                if now >= end {
                    return Result::Ok(counted);
                }
                counted += u64::from(now >= begin);
            }
        });
    }
    let mut counted = 0;
    while let Some(pusher) = pushers.join_next().await {
        counted += pusher??;
    }
    Ok(counted as f64 / seconds.as_secs_f64())
}

async fn push_for<Q: Queue>(
    queue: &mut Q,
    bulk: usize,
    seconds: Duration,
) -> Result<(Instant, u64)> {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < seconds {
        queue.push_many(bulk).await?;
        count += bulk as u64;
    }
    Ok((began, count))
}

async fn push_in_bulk<Q: Queue>(mut queue: Q, seconds: Duration) -> Result<f64> {
    let (began, count) = push_for(&mut queue, BULK, seconds).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Jobs per second: all are pushed, a hundred at once, then run and acknowledged, a hundred at the
/// same time.
async fn cycle<Q: Queue>(mut queue: Q, seconds: Duration) -> Result<f64> {
    let (began, count) = push_for(&mut queue, PREFETCH, seconds / 3).await?;
    tokio::time::timeout(PATIENCE, queue.run(count)).await??;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

const WORKLOADS: [&str; 3] = ["redis-push-64", "redis-push-bulk", "redis-cycle-in-process"];

async fn open<Q: Queue>() -> Result<Q> {
    let url = format!("redis+unix://{}", std::env::var("BENCH_REDIS_SOCKET")?);
    let mut connection = redis::Client::open(url.as_str())?
        .get_multiplexed_async_connection()
        .await?;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
    Q::open(&url).await
}

/// Runs the workloads that the command line names, or all, and prints a JSON line for each.
pub fn main<Q: Queue>(peer: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut seconds = Duration::from_secs(3);
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().ok_or("--seconds needs a number")?;
            seconds = Duration::from_secs_f64(value.parse()?);
        } else {
            wanted.push(argument);
        }
    }
    for workload in WORKLOADS {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|name| name == workload);
        if !is_wanted || (workload == "redis-cycle-in-process" && !Q::RUNS) {
            continue;
        }
        let value = runtime.block_on(async {
            let queue = open::<Q>().await?;
            match workload {
                "redis-push-64" => push_one_by_one(queue, seconds).await,
                "redis-push-bulk" => push_in_bulk(queue, seconds).await,
                _ => cycle(queue, seconds).await,
            }
        })?;
        println!(
            r#"{{"peer":"{peer}","workload":"{workload}","value":{value:.3},"unit":"jobs/s"}}"#
        );
    }
    std::process::exit(0);
}

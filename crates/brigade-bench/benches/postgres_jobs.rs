//! Jobs through the library, on a PostgreSQL server that is started for it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Broker, Job, Pool, Queue, Settled};
use brigade_testkit::facts;
use brigade_testkit::postgres::Postgres;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the jobs run.
#[brigade::task]
fn noop() {}

/// Arguments of a no-op.
pub(crate) const PAYLOAD: &str = "[]";
const NOTHING: [(); 0] = [];
/// Jobs of one push where the pushes are not what is measured.
const PUSHED: usize = 1000;
/// Between two pushes to an idle consumer.
const IDLE: Duration = Duration::from_millis(20);
/// Jobs in one of the pushes, leases and acknowledgements of [`growth`].
const HANDFUL: u32 = 10;
const MANY: usize = 1_000_000;
/// Parts of the time of [`held_snapshot`]; the snapshot is held from the first to the second.
const PARTS: u32 = 50;
const HELD: std::ops::Range<u32> = 5..40;
/// Jobs that wait at most while they flow.
const WAITING_MAX: u64 = 20_000;

/// Jobs of one measurement, and how long they took.
#[derive(Clone, Copy)]
pub(crate) struct Done {
    pub(crate) jobs: usize,
    pub(crate) took: Duration,
}

impl Done {
    pub(crate) fn since(began: Instant, jobs: usize) -> Self {
        let took = began.elapsed();
        Self { jobs, took }
    }
}

/// CPU time so far, in us, of this process with those that it has waited for, and of the server.
#[derive(Clone, Copy)]
pub(crate) struct CpuTimes {
    pub(crate) own: f64,
    pub(crate) server: f64,
}

/// A server, and a fresh database in it for each measurement.
pub(crate) struct Served {
    server: Postgres,
    count: AtomicU64,
}

impl Served {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self {
            server: Postgres::start(&["fsync = on"])?,
            count: AtomicU64::new(0),
        })
    }

    /// The URL of a fresh database.
    pub(crate) fn database(&self) -> Result<String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Ok(self.server.create_database(&format!("bench{number}"))?)
    }

    pub(crate) fn cpu_times(&self) -> Result<CpuTimes> {
        let postmaster = self.server.pid();
        let own = cpu_time(std::process::id())?;
        let mut server = cpu_time(postmaster)?;
        for child in facts::children(postmaster) {
            // One that has ended meanwhile counts with the postmaster next time.
            server += cpu_time(child.pid).unwrap_or(0.0);
        }
        Ok(CpuTimes { own, server })
    }

    async fn broker(&self) -> Result<(String, Broker)> {
        let url = self.database()?;
        let broker = Broker::connect(&url).await?;
        Ok((url, broker))
    }
}

/// CPU time of a process and of its children that have ended, in us.
fn cpu_time(pid: u32) -> Result<f64> {
    let tick = 1e6 / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks = ticks
        .map(str::parse::<f64>)
        .sum::<std::result::Result<f64, _>>()?;
    Ok(ticks * tick)
}

fn noops(queue: &Queue, count: usize) -> Result<Vec<Job>> {
    (0..count)
        .map(|_| Ok(queue.job(&NOTHING)?.task("noop")))
        .collect()
}

/// Pushes one by one, so many at the same time.
pub(crate) async fn push(served: &Served, pushers: usize, time: Duration) -> Result<Done> {
    let (_, broker) = served.broker().await?;
    let queue = broker.queue("noop");
    let (began, mut all) = (Instant::now(), tokio::task::JoinSet::new());
    for _ in 0..pushers {
        let queue = queue.clone();
        all.spawn(async move {
            let mut count = 0;
            while began.elapsed() < time {
                queue.push(&NOTHING).await?;
                count += 1;
            }
            Result::Ok(count)
        });
    }
    let counts = all
        .join_all()
        .await
        .into_iter()
        .collect::<Result<Vec<usize>>>()?;
    Ok(Done::since(began, counts.iter().sum()))
}

/// Pushes in bulk by two tasks.
pub(crate) async fn push_bulk(served: &Served, bulk: usize, time: Duration) -> Result<Done> {
    let (_, broker) = served.broker().await?;
    let began = Instant::now();
    let count = push_by_two(&broker, bulk, time).await?;
    Ok(Done::since(began, count))
}

/// Two tasks push so many at once and then the next; how many in all.
async fn push_by_two(broker: &Broker, bulk: usize, time: Duration) -> Result<usize> {
    let (a, b) = tokio::try_join!(push_for(broker, bulk, time), push_for(broker, bulk, time))?;
    Ok(a + b)
}

async fn push_for(broker: &Broker, bulk: usize, time: Duration) -> Result<usize> {
    let queue = broker.queue("noop");
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        broker.push_many(noops(&queue, bulk)?).await?;
        count += bulk;
    }
    Ok(count)
}

/// All are pushed, then run and acknowledged by a consumer that holds so many.
pub(crate) async fn cycle(
    served: &Served,
    prefetch: usize,
    in_pool: bool,
    time: Duration,
) -> Result<Done> {
    let (_, broker) = served.broker().await?;
    let pool = match in_pool {
        true => Some(Pool::builder().workers(2).slots(50).start().await?),
        false => None,
    };
    let began = Instant::now();
    let count = push_by_two(&broker, prefetch / 2, time / 3).await?;
    let consumer = broker
        .consumer()
        .queue("noop")
        .prefetch(prefetch)
        .until_empty();
    let consumer = match &pool {
        Some(pool) => consumer.on(pool),
        None => consumer.in_process(),
    };
    let done = consumer.run_until(std::future::pending::<()>()).await?;
    let took = began.elapsed();
    assert_eq!(
        usize::try_from(done.done)?,
        count,
        "every job ran: {done:?}"
    );
    if let Some(pool) = pool {
        pool.shutdown().await;
    }
    Ok(Done { jobs: count, took })
}

/// From a push to the moment in which a waiting consumer has the job.
pub(crate) async fn idle_start(served: &Served, time: Duration) -> Result<Duration> {
    let (url, broker) = served.broker().await?;
    // Another connection pool, as in another process.
    let other = Broker::connect(&url).await?;
    let (queue, waiting) = (broker.queue("noop"), other.queue("noop"));
    let (end, mut times) = (Instant::now() + time, Vec::new());
    while times.len() < 6 || Instant::now() < end {
        let take = tokio::spawn({
            let waiting = waiting.clone();
            async move { (waiting.take(Duration::from_secs(10)).await, Instant::now()) }
        });
        tokio::time::sleep(IDLE).await;
        let began = Instant::now();
        queue.push(&NOTHING).await?;
        let (taken, at) = take.await?;
        taken?.ok_or("the job was pushed")?;
        times.push(at.saturating_duration_since(began));
    }
    // The first ones warm it up.
    let mut times = times.split_off(3);
    times.sort();
    Ok(times[times.len() / 2])
}

/// What a job costs from its push to its acknowledgement, in us, with few and with many that wait.
pub(crate) async fn growth(served: &Served, time: Duration) -> Result<[f64; 2]> {
    let (_, broker) = served.broker().await?;
    let few = cost_with(&broker, 10, time).await?;
    let many = cost_with(&broker, MANY, time).await?;
    Ok([few, many])
}

async fn cost_with(broker: &Broker, waiting: usize, time: Duration) -> Result<f64> {
    let queue = broker.queue(format!("noop-{waiting}"));
    for begin in (0..waiting).step_by(10 * PUSHED) {
        let count = (10 * PUSHED).min(waiting - begin);
        broker.push_many(noops(&queue, count)?).await?;
    }
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < time {
        broker.push_many(noops(&queue, HANDFUL as usize)?).await?;
        let mut settled = tokio::task::JoinSet::new();
        for _ in 0..HANDFUL {
            let queue = queue.clone();
            settled.spawn(async move {
                let wait = Duration::from_secs(5);
                let lease = queue.lease(wait, wait).await?.ok_or("a job waits")?;
                assert_eq!(lease.ack().await?, Settled::Accepted(None));
                Result::Ok(())
            });
        }
        settled
            .join_all()
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        count += HANDFUL;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// Lets jobs flow while another transaction holds a snapshot, and prints the rate of each part.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn held_snapshot(served: &Served, time: Duration) -> Result<()> {
    let (url, broker) = served.broker().await?;
    let (stop, pushed, done) = (
        CancellationToken::new(),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let pushing = tokio::spawn(push_until(
        broker.clone(),
        stop.clone(),
        (pushed, Arc::clone(&done)),
    ));
    let counted = Arc::clone(&done);
    let consumer = broker
        .consumer()
        .queue("noop")
        .prefetch(100)
        .handler(move |_job| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok::<(), std::io::Error>(()) }
        })
        .run_until(stop.clone().cancelled_owned());
    let consuming = tokio::spawn(consumer);

    let (foreign, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let mut before = 0;
    for part in 0..PARTS {
        if part == HELD.start {
            let begin = "begin isolation level repeatable read; select count(*) from brigade.facts";
            foreign.batch_execute(begin).await?;
        }
        if part == HELD.end {
            foreign.batch_execute("commit").await?;
        }
        let began = Instant::now();
        tokio::time::sleep(time / PARTS).await;
        let now = done.load(Ordering::Relaxed);
        let rate = (now - before) as f64 / began.elapsed().as_secs_f64();
        before = now;
        println!(
            r#"{{"peer":"brigade","workload":"held-snapshot","second":{:.1},"held":{},"value":{rate:.0},"unit":"jobs/s"}}"#,
            time.as_secs_f64() / f64::from(PARTS) * f64::from(part + 1),
            HELD.contains(&part),
        );
    }
    stop.cancel();
    pushing.await??;
    consuming.await??;
    drop(foreign);
    connection.await??;
    Ok(())
}

/// Pushes as fast as they are done.
async fn push_until(
    broker: Broker,
    stop: CancellationToken,
    (pushed, done): (Arc<AtomicU64>, Arc<AtomicU64>),
) -> Result<()> {
    let queue = broker.queue("noop");
    while !stop.is_cancelled() {
        if pushed.load(Ordering::Relaxed)
            - done
                .load(Ordering::Relaxed)
                .min(pushed.load(Ordering::Relaxed))
            > WAITING_MAX
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        broker.push_many(noops(&queue, 100)?).await?;
        pushed.fetch_add(100, Ordering::Relaxed);
    }
    Ok(())
}

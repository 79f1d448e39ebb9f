//! Jobs through the brokers: SQLite on a real disk, with its own defaults, so every push and
//! settlement is synced; Redis.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use brigade::{Broker, Job, Queue, Settled};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::figures::{median, rate_of};
use crate::load::{Result, two_workers};
use crate::machine::PingPong;
use crate::raw::{LOG_FULL, Raw};
use crate::server;

/// Arguments of a no-op.
pub(crate) const PAYLOAD: &str = "[]";
const NOTHING: [(); 0] = [];
/// Jobs of one push in bulk, and rows of the raw transaction that it is compared with.
pub(crate) const BULK: usize = 1000;
/// Jobs that a consumer holds, and rows of the raw transaction that it is compared with.
pub(crate) const PREFETCH: usize = 100;
/// Tasks that push at the same time.
pub(crate) const PUSHERS: usize = 64;

/// A directory on the disk of the build, or in `BENCH_DIR`: the system's temporary directory may be
/// in memory.
pub(crate) fn on_disk() -> io::Result<TempDir> {
    let place = std::env::var_os("BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    tempfile::tempdir_in(place)
}

/// Where jobs are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept {
    Disk,
    /// On disk without syncs, which would cover what else it costs.
    Unsynced,
    Redis,
}

/// An empty broker.
struct Stage {
    broker: Broker,
    /// Goes with it.
    _directory: Option<TempDir>,
}

impl Stage {
    async fn open(kept: Kept) -> Result<Self> {
        let options = match kept {
            Kept::Disk => "",
            Kept::Unsynced => "?synchronous=normal",
            Kept::Redis => {
                server::connect_to_empty().await?;
                return Self::on_redis().await;
            }
        };
        let directory = on_disk()?;
        Ok(Self {
            broker: open(&directory, options).await?,
            _directory: Some(directory),
        })
    }

    /// With what there is.
    async fn on_redis() -> Result<Self> {
        Ok(Self {
            broker: Broker::connect(&server::url()?).await?,
            _directory: None,
        })
    }
}

async fn open(directory: &TempDir, options: &str) -> Result<Broker> {
    Ok(Broker::connect(&format!(
        "sqlite:{}{options}",
        directory.path().join("jobs.db").display()
    ))
    .await?)
}

fn noops(queue: &Queue, count: usize) -> Result<Vec<Job>> {
    (0..count)
        .map(|_| Ok(queue.job(&NOTHING)?.task("noop")))
        .collect()
}

// -- rates

/// Pushes per second, one by one.
pub(crate) fn push_rate(
    runtime: &Runtime,
    kept: Kept,
    pushers: usize,
    time: Duration,
) -> Result<f64> {
    runtime.block_on(async {
        let stage = Stage::open(kept).await?;
        let queue = stage.broker.queue("noop");
        let rate = rate_of(pushers, time, move |_| {
            let queue = queue.clone();
            async move { queue.push(&NOTHING).await.map(drop) }
        });
        Ok(rate.await)
    })
}

/// Jobs per second, pushed in bulk by one task.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn bulk_rate(runtime: &Runtime, kept: Kept, time: Duration) -> Result<f64> {
    runtime.block_on(async {
        let stage = Stage::open(kept).await?;
        let (began, count) = push_for(&stage.broker, BULK, time).await?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    })
}

async fn push_for(broker: &Broker, bulk: usize, time: Duration) -> Result<(Instant, usize)> {
    let queue = broker.queue("noop");
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        broker.push_many(noops(&queue, bulk)?).await?;
        count += bulk;
    }
    Ok((began, count))
}

/// Where attempts run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    InProcess,
    Pool,
}

/// Jobs per second: all are pushed, a hundred at once, then run and acknowledged by a worker that
/// holds up to a hundred.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn cycle_rate(
    runtime: &Runtime,
    kept: Kept,
    place: Place,
    time: Duration,
) -> Result<f64> {
    runtime.block_on(async {
        let stage = Stage::open(kept).await?;
        let broker = &stage.broker;
        let pool = match place {
            Place::InProcess => None,
            Place::Pool => Some(two_workers().slots(50).start().await?),
        };
        let (began, count) = push_for(broker, PREFETCH, time / 3).await?;
        let worker = broker
            .consumer()
            .queue("noop")
            .prefetch(PREFETCH)
            .until_empty();
        let worker = match &pool {
            Some(pool) => worker.on(pool),
            None => worker.in_process(),
        };
        let served = worker.run_until(std::future::pending::<()>()).await?;
        let took = began.elapsed();
        assert_eq!(served.done, count as u64, "every job ran: {served:?}");
        if let Some(pool) = pool {
            pool.shutdown().await;
        }
        Ok(count as f64 / took.as_secs_f64())
    })
}

// -- growth

/// Jobs in one of its pushes, leases and acknowledgements.
const HANDFUL: u32 = 10;

/// A queue with so many jobs that wait.
pub(crate) struct Filled {
    queue: Queue,
    stage: Stage,
}

impl Filled {
    pub(crate) async fn with(kept: Kept, waiting: usize) -> Result<Self> {
        // The server has the other queue as well.
        let stage = if matches!(kept, Kept::Redis) {
            Stage::on_redis().await?
        } else {
            Stage::open(kept).await?
        };
        let queue = stage.broker.queue(format!("noop-{waiting}"));
        queue.purge().await?;
        for begin in (0..waiting).step_by(BULK) {
            stage
                .broker
                .push_many(noops(&queue, BULK.min(waiting - begin))?)
                .await?;
        }
        Ok(Self { queue, stage })
    }

    /// What a job costs, from its push to its acknowledgement, in us.
    pub(crate) async fn cost(&self, time: Duration) -> Result<f64> {
        let (began, mut count) = (Instant::now(), 0_u32);
        while began.elapsed() < time {
            self.handful().await?;
            count += HANDFUL;
        }
        Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(count))
    }

    async fn handful(&self) -> Result<()> {
        self.stage
            .broker
            .push_many(noops(&self.queue, HANDFUL as usize)?)
            .await?;
        let mut settled = tokio::task::JoinSet::new();
        for _ in 0..HANDFUL {
            let queue = self.queue.clone();
            settled.spawn(async move {
                let wait = Duration::from_secs(5);
                let lease = queue.lease(wait, wait).await?.ok_or("a job waits")?;
                let settled = lease.ack().await?;
                assert_eq!(settled, Settled::Accepted(None));
                Result::Ok(())
            });
        }
        settled.join_all().await.into_iter().collect()
    }
}

// -- latency

/// Between two pushes to an idle consumer: what the last one left to do is over by then.
const IDLE: Duration = Duration::from_millis(10);

/// From a push in this process to its start in another one that waits.
pub(crate) fn idle_start(runtime: &Runtime, time: Duration) -> Result<Duration> {
    let directory = on_disk()?;
    runtime.block_on(async {
        let broker = open(&directory, "").await?;
        broker
            .push_many(noops(&broker.queue("noop"), LOG_FULL)?)
            .await?;
        let mut consumer = Consumer::start(&directory.path().join("jobs.db"))?;
        let (end, mut times) = (Instant::now() + time, Vec::new());
        while times.len() < 6 || Instant::now() < end {
            tokio::time::sleep(IDLE).await;
            let began = clock_gettime(ClockId::Monotonic);
            broker.push(tell_start()).await?;
            let started = consumer.next_start()?;
            times.push(Duration::from_nanos(started).saturating_sub(Duration::try_from(began)?));
        }
        // The first ones warm it up.
        Ok(median(times.split_off(3)))
    })
}

/// One wake of another process and one commit of one row, as they come after a pause.
pub(crate) fn wake_and_commit(time: Duration) -> Result<Duration> {
    let (mut pingpong, raw) = (PingPong::start()?, Raw::open_worn()?);
    let (end, mut times) = (Instant::now() + time, Vec::new());
    while times.len() < 6 || Instant::now() < end {
        pause();
        let began = Instant::now();
        pingpong.once()?;
        let there_and_back = began.elapsed();
        pause();
        let began = Instant::now();
        raw.push(1)?;
        times.push(there_and_back / 2 + began.elapsed());
    }
    Ok(median(times.split_off(3)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is measured is a machine that was idle"
)]
fn pause() {
    std::thread::sleep(IDLE);
}

const CONSUME: &str = "--consume";

/// Serves a file until its standard input ends, if this process was started for that; then it never
/// returns.
pub(crate) fn enter_if_child() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(CONSUME) {
        return;
    }
    let serve = async {
        let broker =
            Broker::connect(&format!("sqlite:{}", arguments.next().ok_or("a path")?)).await?;
        let (ended, stop) = tokio::sync::oneshot::channel();
        let wait = move || {
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            ended.send(()).ok();
        };
        std::thread::Builder::new().spawn(wait)?;
        broker
            .consumer()
            .queue("tell_start")
            .in_process()
            .run_until(stop)
            .await?;
        Result::Ok(())
    };
    let served = Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(serve));
    std::process::exit(if served.is_ok() { 0 } else { 1 });
}

/// Says when it starts, by the clock that all processes share.
#[brigade::task]
fn tell_start() {
    let now = clock_gettime(ClockId::Monotonic);
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}{:09}", now.tv_sec, now.tv_nsec).and_then(|()| out.flush());
    written.expect("the benchmark reads this output");
}

/// This very program as a consumer.
struct Consumer {
    child: Child,
    starts: BufReader<ChildStdout>,
}

impl Consumer {
    #[expect(clippy::disallowed_methods, reason = "a consumer in another process")]
    fn start(path: &Path) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        let mut child = command
            .arg(CONSUME)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let starts = BufReader::new(child.stdout.take().ok_or("its output")?);
        Ok(Self { child, starts })
    }

    fn next_start(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.starts.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

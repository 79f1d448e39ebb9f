//! apalis on SQLite, with every commit synced as Brigade's are: jobs are pushed one by one and in
//! bulk, and run.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use futures_util::stream;
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const WARM_UP: Duration = Duration::from_millis(500);
/// Tasks that push at the same time.
const PUSHERS: usize = 64;
/// Jobs of one push in bulk.
const BULK: usize = 1000;
/// Jobs that a worker fetches at once, and runs at once.
const PREFETCH: usize = 100;
/// Of 1, 4 and 10 the one with which it runs most jobs; none pushes more than 1.5 times as many.
const CONNECTIONS: u32 = 4;
/// A worker that comes to nothing ends the program after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file on the disk that `BENCH_DIR` names, or else on that of the working directory.
async fn open() -> Result<(TempDir, SqlitePool, SqliteStorage<u64>)> {
    let place = std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into());
    let directory = tempfile::tempdir_in(place)?;
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("jobs.db"))
        .create_if_missing(true)
        .pragma("journal_mode", "WAL")
        .pragma("synchronous", "FULL");
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_with(options)
        .await?;
    // Its own `setup` turns syncing off.
    SqliteStorage::migrations().run(&pool).await?;
    let storage =
        SqliteStorage::new(&pool).with_config(Config::default().queue("noop").batch_size(PREFETCH));
    Ok((directory, pool, storage))
}

/// Pushes per second of many tasks, each one after the other.
async fn push_one_by_one(seconds: Duration) -> Result<f64> {
    let (_directory, _pool, storage) = open().await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + seconds;
    let mut pushers = tokio::task::JoinSet::new();
    for _ in 0..PUSHERS {
        let mut storage = storage.clone();
        pushers.spawn(async move {
            let mut counted = 0_u64;
            loop {
                storage.push(1).await?;
                let now = Instant::now();
                if now >= end {
                    return Ok::<_, Box<dyn Error + Send + Sync>>(counted);
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

async fn push_for(
    storage: &mut SqliteStorage<u64>,
    bulk: usize,
    seconds: Duration,
) -> Result<(Instant, u64)> {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < seconds {
        storage
            .push_stream(&mut stream::iter(vec![1; bulk]))
            .await?;
        count += bulk as u64;
    }
    Ok((began, count))
}

async fn push_in_bulk(seconds: Duration) -> Result<f64> {
    let (_directory, _pool, mut storage) = open().await?;
    let (began, count) = push_for(&mut storage, BULK, seconds).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// What a worker counts, and where it stops.
#[derive(Clone)]
struct Count {
    ran: Arc<AtomicU64>,
    all: u64,
}

async fn noop(
    _: u64,
    count: Data<Count>,
    worker: WorkerContext,
) -> std::result::Result<(), BoxDynError> {
    if count.ran.fetch_add(1, Ordering::Relaxed) + 1 == count.all {
        worker.stop()?;
    }
    Ok(())
}

/// Jobs per second: all are pushed, a hundred at once, then run and acknowledged by a worker that
/// holds up to a hundred.
async fn cycle(seconds: Duration) -> Result<f64> {
    let (_directory, _pool, mut storage) = open().await?;
    // So many that the rest takes about the time.
    let (began, count) = push_for(&mut storage, PREFETCH, seconds / 20).await?;
    let ran = Arc::new(AtomicU64::new(0));
    let worker = WorkerBuilder::new("noop")
        .backend(storage)
        .concurrency(PREFETCH)
        .data(Count {
            ran: ran.clone(),
            all: count,
        })
        .build(noop);
    tokio::time::timeout(PATIENCE, worker.run()).await??;
    assert_eq!(ran.load(Ordering::Relaxed), count, "every job ran");
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

const WORKLOADS: [&str; 3] = ["push-64", "push-bulk", "cycle-in-process"];

fn main() -> Result<()> {
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
        if !wanted.is_empty() && !wanted.iter().any(|name| name == workload) {
            continue;
        }
        let value = match workload {
            "push-64" => runtime.block_on(push_one_by_one(seconds))?,
            "push-bulk" => runtime.block_on(push_in_bulk(seconds))?,
            _ => runtime.block_on(cycle(seconds))?,
        };
        println!(
            r#"{{"peer":"apalis","workload":"{workload}","value":{value:.3},"unit":"jobs/s"}}"#
        );
    }
    Ok(())
}

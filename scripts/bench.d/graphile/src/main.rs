//! graphile_worker on PostgreSQL: jobs are pushed one by one and in bulk, and run. One JSON line
//! per result, as Brigade's own benchmark prints them.
//!
//!     bench-graphile postgres://user@host/database [--seconds S]

use std::error::Error;
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext,
    WorkerOptions,
};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Tasks that push at the same time.
const PUSHERS: usize = 64;
/// Jobs of one push in bulk.
const BULK: usize = 1000;
/// Jobs that are fetched at once, and run at once.
const PREFETCH: usize = 100;

#[derive(Clone, Deserialize, Serialize)]
struct Noop {}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        Ok::<(), String>(())
    }
}

async fn worker(url: &str) -> Result<Worker> {
    let worker = WorkerOptions::default()
        .database_url(url)
        .concurrency(PREFETCH)
        .max_pg_conn(10)
        .local_queue(LocalQueueConfig::default().with_size(PREFETCH))
        .define_job::<Noop>()
        .init()
        .await?;
    Ok(worker)
}

async fn push_one_by_one(url: &str, time: Duration) -> Result<f64> {
    let worker = worker(url).await?;
    let (began, mut pushers) = (Instant::now(), tokio::task::JoinSet::new());
    for _ in 0..PUSHERS {
        let utils = worker.create_utils();
        pushers.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < time {
                utils.add_job(Noop {}, JobSpec::default()).await?;
                count += 1;
            }
            Ok::<u64, Box<dyn Error + Send + Sync>>(count)
        });
    }
    let mut count = 0;
    while let Some(pusher) = pushers.join_next().await {
        count += pusher??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

async fn push_for(worker: &Worker, bulk: usize, time: Duration) -> Result<usize> {
    let utils = worker.create_utils();
    let spec = JobSpec::default();
    let jobs: Vec<(Noop, &JobSpec)> = (0..bulk).map(|_| (Noop {}, &spec)).collect();
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        utils.add_jobs(&jobs).await?;
        count += bulk;
    }
    Ok(count)
}

async fn bulk(url: &str, time: Duration) -> Result<f64> {
    let worker = worker(url).await?;
    let began = Instant::now();
    let count = push_for(&worker, BULK, time).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// All are pushed, a hundred at once, then run.
async fn cycle(url: &str, time: Duration) -> Result<f64> {
    let worker = worker(url).await?;
    worker.run_once().await?;
    let began = Instant::now();
    let count = push_for(&worker, PREFETCH, time / 3).await?;
    worker.run_once().await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the URL of a database is missing")?;
    let seconds = match arguments.next().as_deref() {
        Some("--seconds") => arguments.next().ok_or("a number is missing")?.parse()?,
        _ => 3.0,
    };
    let time = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        for (workload, rate) in [
            ("push-64", push_one_by_one(&url, time).await?),
            ("push-bulk", bulk(&url, time).await?),
            ("cycle", cycle(&url, time).await?),
        ] {
            println!(
                r#"{{"peer":"graphile_worker","workload":"postgres-{workload}","value":{rate:.3},"unit":"jobs/s"}}"#
            );
        }
        Ok(())
    })
}

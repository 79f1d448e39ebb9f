//! The pool's side of the comparison with other pools: one JSON line per result, as their programs
//! print it.
//!
//!     cargo bench -p brigade-bench --bench compare -- [--seconds S] [--rounds N] [workload ...]
//!
//! runs the workloads named, or all, one after the other, N times over. The peer `machine` is what
//! the machine itself can do. `scripts/bench` runs this next to the others and makes a table.

mod figures;
mod jobs;
mod load;
mod machine;
mod raw;
mod raw_redis;
mod server;
mod tasks;

use std::time::{Duration, Instant};

use brigade::{Bytes, Pool};
use tokio::runtime::Runtime;

use self::figures::{median, rate_ahead, rate_of};
use self::jobs::{Filled, Kept, Place};
use self::load::{Result, Victims, blocking_noop, digest, noop, two_workers};
use self::machine::{Memcpy, PingPong};

/// In the order in which they run; the figure that another one is divided by is next to it.
const WORKLOADS: [(&str, &str); 32] = [
    ("machine", "pingpong"),
    ("brigade", "noop-1"),
    ("brigade", "noop-1-main"),
    ("machine", "spawn_blocking-1000"),
    ("machine", "spawn_blocking-1000-2"),
    ("brigade", "noop-1000"),
    ("brigade", "noop-1000-1"),
    ("machine", "spawn_blocking-1000-callers"),
    ("brigade", "noop-1000-callers"),
    ("brigade", "noop-1000-callers-1"),
    ("machine", "md5-1core"),
    ("brigade", "md5-3k-1"),
    ("brigade", "md5-3k-10"),
    ("machine", "memcpy-16m"),
    ("brigade", "echo-16m"),
    ("machine", "memcpy-1m"),
    ("brigade", "echo-1m"),
    ("machine", "memcpy-64k"),
    ("brigade", "echo-64k"),
    ("machine", "spawn"),
    ("machine", "spawn-self"),
    ("brigade", "cold"),
    ("brigade", "recover"),
    ("brigade", "recover-both"),
    ("brigade", "recover-spare"),
    ("brigade", "idle-memory"),
    ("brigade", "waiting-memory"),
    ("brigade", "idle-cpu"),
    ("brigade", "queued-10"),
    ("brigade", "queued-10000"),
    ("brigade", "workers-1"),
    ("brigade", "workers-64"),
];

/// How often these take turns, each for its part of the time: what a disk does changes from one
/// second to the next.
const TURNS: u32 = 5;
const IN_TURNS: [&[(&str, &str)]; 8] = [
    &[("machine", "sqlite-commit")],
    &[("machine", "sqlite-push-64"), ("brigade", "push-64")],
    &[("machine", "sqlite-push-bulk"), ("brigade", "push-bulk")],
    &[
        ("machine", "sqlite-cycle"),
        ("brigade", "cycle-pool"),
        ("brigade", "cycle-in-process"),
    ],
    &[("machine", "wake-and-commit"), ("brigade", "idle-start")],
    &[("machine", "scripts-push-64"), ("brigade", "redis-push-64")],
    &[
        ("machine", "scripts-push-bulk"),
        ("brigade", "redis-push-bulk"),
    ],
    &[
        ("machine", "scripts-cycle"),
        ("brigade", "redis-cycle-pool"),
        ("brigade", "redis-cycle-in-process"),
    ],
];

/// After those, in turns too, with queues that are filled once.
const GROWTH: [(Kept, [&str; 2]); 2] = [
    (Kept::Unsynced, ["jobs-10", "jobs-1000000"]),
    (Kept::Redis, ["redis-jobs-10", "redis-jobs-1000000"]),
];

/// Slots for a thousand no-ops on two workers.
const MANY: u32 = 512;
/// Argument of the process that weighs waiting calls: what other workloads have freed would hide
/// their weight.
const WAITING_MEMORY: &str = "--weigh-waiting-calls";

fn main() -> Result<()> {
    brigade::init();
    machine::enter_if_child();
    jobs::enter_if_child();
    let runtime = Runtime::new()?;
    if std::env::args().nth(1).as_deref() == Some(WAITING_MEMORY) {
        println!("{}", runtime.block_on(figures::waiting_memory())?);
        return Ok(());
    }
    let options = Options::parse()?;
    let _server = server::Server::start()?;
    for _ in 0..options.rounds {
        for (workload, turns) in in_order() {
            options.run(&runtime, workload, turns)?;
        }
        for (kept, workloads) in GROWTH {
            if workloads.iter().any(|workload| options.wants(workload)) {
                runtime.block_on(growth(kept, workloads, options.time))?;
            }
        }
    }
    Ok(())
}

/// All workloads, and how many parts of the time each has.
fn in_order() -> impl Iterator<Item = ((&'static str, &'static str), u32)> {
    let taking_turns = IN_TURNS
        .iter()
        .flat_map(|group| (0..TURNS).flat_map(|_| group.iter().copied()));
    let whole = |workload| (workload, 1);
    WORKLOADS
        .into_iter()
        .map(whole)
        .chain(taking_turns.map(|workload| (workload, TURNS)))
}

struct Options {
    time: Duration,
    rounds: u32,
    wanted: Vec<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            time: Duration::from_secs(3),
            rounds: 1,
            wanted: Vec::new(),
        };
        let measure = std::env::args().any(|argument| argument == "--bench");
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {}
                "--seconds" => {
                    options.time = Duration::try_from_secs_f64(
                        arguments
                            .next()
                            .ok_or("--seconds needs a number")?
                            .parse()?,
                    )?
                }
                "--rounds" => {
                    options.rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?
                }
                name if GROWTH
                    .iter()
                    .any(|(_, workloads)| workloads.contains(&name))
                    || in_order().any(|((_, workload), _)| workload == name) =>
                {
                    options.wanted.push(name.to_owned())
                }
                other if measure => return Err(format!("there is no workload {other}").into()),
                // A test runner that asks for the tests there are, or for some of them: this is
                // none.
                _ => options.rounds = 0,
            }
        }
        if !measure {
            // Run among the tests: only whether it works.
            options.time = Duration::from_millis(20);
        }
        Ok(options)
    }

    /// Runs a workload for its part of the time, if it is wanted.
    fn run(&self, runtime: &Runtime, (peer, workload): (&str, &str), turns: u32) -> Result<()> {
        if self.wants(workload) {
            let (value, unit) = run(runtime, workload, self.time / turns)?;
            print(peer, workload, value, unit);
        }
        Ok(())
    }

    fn wants(&self, workload: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == workload)
    }
}

fn print(peer: &str, workload: &str, value: f64, unit: &str) {
    println!(r#"{{"peer":"{peer}","workload":"{workload}","value":{value:.3},"unit":"{unit}"}}"#);
}

#[expect(clippy::too_many_lines, reason = "a table of the workloads")]
fn run(runtime: &Runtime, workload: &str, time: Duration) -> Result<(f64, &'static str)> {
    let us = |time: Duration| (time.as_secs_f64() * 1e6, "us");
    let ms = |time: Duration| (time.as_secs_f64() * 1e3, "ms");
    let rate = |rate: f64| (rate, "calls/s");
    let rows = |rate: f64| (rate, "jobs/s");
    let each = |rate: f64| (1e6 / rate, "us");
    Ok(match workload {
        "pingpong" => us(pingpong(time)?),
        "noop-1" => us(latency(runtime, time, true)?),
        "noop-1-main" => us(latency(runtime, time, false)?),
        "spawn_blocking-1000" => rate(blocking_ahead(runtime, time)?),
        "noop-1000" => rate(noops_ahead(runtime, two_workers().slots(MANY), time)?),
        "noop-1000-1" => rate(noops_ahead(runtime, two_workers(), time)?),
        "spawn_blocking-1000-2" => rate(blocking_ahead(&runtime_of_two_blocking_threads()?, time)?),
        "spawn_blocking-1000-callers" => rate(runtime.block_on(rate_of(1000, time, blocking_noop))),
        "noop-1000-callers" => rate(noops(runtime, two_workers().slots(MANY), 1000, time)?),
        "noop-1000-callers-1" => rate(noops(runtime, two_workers(), 1000, time)?),
        "md5-1core" => rate(figures::md5_rate(time)),
        "md5-3k-1" => rate(digests(runtime, 1, time)?),
        "md5-3k-10" => rate(digests(runtime, 10, time)?),
        "memcpy-16m" => ms(memcpy(16 << 20, time)),
        "memcpy-1m" => us(memcpy(1 << 20, time)),
        "memcpy-64k" => us(memcpy(64 << 10, time)),
        "echo-16m" => ms(echo(runtime, 16 << 20, time)?),
        "echo-1m" => us(echo(runtime, 1 << 20, time)?),
        "echo-64k" => us(echo(runtime, 64 << 10, time)?),
        "spawn" => ms(median_of(time, || Ok(machine::spawn_small()?))?),
        "spawn-self" => ms(median_of(time, || Ok(machine::spawn_self()?))?),
        "cold" => ms(median_of(time, || runtime.block_on(load::cold()))?),
        "recover" => ms(recover(runtime, Victims::LastOfTwo, time)?),
        "recover-both" => ms(recover(runtime, Victims::BothOfTwo, time)?),
        "recover-spare" => ms(recover(runtime, Victims::OneWithSpare, time)?),
        "idle-memory" => (runtime.block_on(figures::idle_memory())?, "KiB"),
        "waiting-memory" => (figures::in_fresh_process(WAITING_MEMORY)?, "B"),
        "idle-cpu" => (runtime.block_on(figures::idle_cpu(time))?, "us/s"),
        "queued-10" => each(noops(runtime, two_workers().slots(5), 10, time)?),
        "queued-10000" => each(noops(runtime, two_workers().slots(5), 10_000, time)?),
        "workers-1" => each(noops(
            runtime,
            Pool::builder().workers(1).slots(8),
            512,
            time,
        )?),
        "workers-64" => each(noops(
            runtime,
            Pool::builder().workers(64).slots(8),
            512,
            time,
        )?),
        "sqlite-commit" => rows(raw::push_rate(1, time)?),
        "sqlite-push-64" => rows(raw::push_rate(jobs::PUSHERS, time)?),
        "push-64" => rows(jobs::push_rate(runtime, Kept::Disk, jobs::PUSHERS, time)?),
        "sqlite-push-bulk" => rows(raw::push_rate(jobs::BULK, time)?),
        "push-bulk" => rows(jobs::bulk_rate(runtime, Kept::Disk, time)?),
        "sqlite-cycle" => rows(raw::cycle_rate(jobs::PREFETCH, time)?),
        "cycle-pool" => rows(jobs::cycle_rate(runtime, Kept::Disk, Place::Pool, time)?),
        "cycle-in-process" => rows(jobs::cycle_rate(
            runtime,
            Kept::Disk,
            Place::InProcess,
            time,
        )?),
        "scripts-push-64" => rows(runtime.block_on(raw_redis::push_rate(jobs::PUSHERS, time))?),
        "redis-push-64" => rows(jobs::push_rate(runtime, Kept::Redis, jobs::PUSHERS, time)?),
        "scripts-push-bulk" => rows(runtime.block_on(raw_redis::bulk_rate(jobs::BULK, time))?),
        "redis-push-bulk" => rows(jobs::bulk_rate(runtime, Kept::Redis, time)?),
        "scripts-cycle" => rows(runtime.block_on(raw_redis::cycle_rate(jobs::PREFETCH, time))?),
        "redis-cycle-pool" => rows(jobs::cycle_rate(runtime, Kept::Redis, Place::Pool, time)?),
        "redis-cycle-in-process" => rows(jobs::cycle_rate(
            runtime,
            Kept::Redis,
            Place::InProcess,
            time,
        )?),
        "wake-and-commit" => us(jobs::wake_and_commit(time)?),
        "idle-start" => us(jobs::idle_start(runtime, time)?),
        unknown => return Err(format!("there is no workload {unknown}").into()),
    })
}

/// What a job costs in a short and in a long queue.
async fn growth(kept: Kept, workloads: [&str; 2], time: Duration) -> Result<()> {
    // Fewer where only is looked whether it works.
    let many = if time < Duration::from_millis(100) {
        10_000
    } else {
        1_000_000
    };
    let queues = [
        Filled::with(kept, 10).await?,
        Filled::with(kept, many).await?,
    ];
    for _ in 0..TURNS {
        for (workload, queue) in workloads.into_iter().zip(&queues) {
            print("brigade", workload, queue.cost(time / TURNS).await?, "us");
        }
    }
    Ok(())
}

fn pingpong(time: Duration) -> Result<Duration> {
    let mut pingpong = PingPong::start()?;
    median_of(time, || {
        let began = Instant::now();
        pingpong.once()?;
        Ok(began.elapsed())
    })
}

/// From a task of the runtime, as services call, or from the thread that started it.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller is the user's own task"
)]
fn latency(runtime: &Runtime, time: Duration, from_task: bool) -> Result<Duration> {
    runtime.block_on(async {
        let pool = two_workers().start().await?;
        let caller = pool.clone();
        let call = async move { figures::noop_latency(&caller, time).await };
        let latency = if from_task {
            tokio::spawn(call).await?
        } else {
            call.await
        };
        pool.shutdown().await;
        latency
    })
}

/// One caller, a task of the runtime, with a thousand calls in flight.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller is the user's own task"
)]
fn noops_ahead(runtime: &Runtime, builder: brigade::Builder, time: Duration) -> Result<f64> {
    runtime.block_on(async {
        let pool = builder.start().await?;
        let call = noop(&pool);
        let rate = tokio::spawn(rate_ahead(1000, time, move || call(0))).await?;
        pool.shutdown().await;
        Ok(rate)
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the caller is the user's own task"
)]
fn blocking_ahead(runtime: &Runtime, time: Duration) -> Result<f64> {
    Ok(runtime
        .block_on(async { tokio::spawn(rate_ahead(1000, time, || blocking_noop(0))).await })?)
}

/// As many threads as the pool has workers: tokio's own choice of 512 is in its own way.
fn runtime_of_two_blocking_threads() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(2)
        .enable_all()
        .build()?)
}

fn noops(
    runtime: &Runtime,
    builder: brigade::Builder,
    callers: usize,
    time: Duration,
) -> Result<f64> {
    runtime.block_on(async {
        let pool = builder.start().await?;
        let rate = rate_of(callers, time, noop(&pool)).await;
        pool.shutdown().await;
        Ok(rate)
    })
}

fn digests(runtime: &Runtime, slots: u32, time: Duration) -> Result<f64> {
    runtime.block_on(async {
        let pool = two_workers().slots(slots).start().await?;
        let rate = rate_of(20, time, digest(&pool)).await;
        pool.shutdown().await;
        Ok(rate)
    })
}

fn memcpy(length: usize, time: Duration) -> Duration {
    let mut memcpy = Memcpy::new(length);
    let once = || {
        let began = Instant::now();
        memcpy.once();
        Ok(began.elapsed())
    };
    median_of(time, once).unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the caller is the user's own task"
)]
fn echo(runtime: &Runtime, length: usize, time: Duration) -> Result<Duration> {
    runtime.block_on(async {
        let pool = two_workers().start().await?;
        let caller = pool.clone();
        let calls = tokio::spawn(async move {
            let data = Bytes::from(tasks::bytes(length, 1));
            let (end, mut times) = (Instant::now() + time, Vec::new());
            // The first ones warm it up.
            while times.len() < 6 || Instant::now() < end {
                times.push(load::echo(&caller, &data).await?);
            }
            Ok(median(times.split_off(3)))
        });
        let took = calls.await?;
        pool.shutdown().await;
        took
    })
}

fn recover(runtime: &Runtime, victims: Victims, time: Duration) -> Result<Duration> {
    median_of(time, || runtime.block_on(load::recover(victims)))
}

/// Median of as many as fit in the time, at least three.
fn median_of(time: Duration, mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let (end, mut times) = (Instant::now() + time, Vec::new());
    while times.len() < 3 || Instant::now() < end {
        times.push(once()?);
    }
    Ok(median(times))
}

//! The benchmark of the pool, each figure next to what the machine itself can do in the same run.
//!
//!     cargo bench -p brigade-bench --bench pool [-- filter]
//!
//! Some workloads also run on a remote host that joined over loopback TCP.
//!
//! `scripts/bench` compares with other pools.

mod elsewhere;
mod load;
mod machine;
mod tasks;

use std::time::{Duration, Instant};

use brigade::{Bytes, Pool};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;

use self::load::{Result, Right, Victims, digest, noop, together, two_workers};
use self::machine::{Memcpy, PingPong};

/// Slots for a thousand no-ops on two workers.
const MANY: u32 = 512;
const ECHOES: [(&str, usize); 3] = [
    ("64 KiB", 64 << 10),
    ("1 MiB", 1 << 20),
    ("16 MiB", 16 << 20),
];

fn main() -> Result<()> {
    brigade::init();
    machine::enter_if_child();
    elsewhere::enter_if_host()?;
    let runtime = Runtime::new()?;
    let mut criterion = Criterion::default().configure_from_args();
    latency(&mut criterion, &runtime)?;
    throughput(&mut criterion, &runtime)?;
    digests(&mut criterion, &runtime)?;
    echoes(&mut criterion, &runtime)?;
    starts(&mut criterion, &runtime);
    recovery(&mut criterion, &runtime)?;
    growth(&mut criterion, &runtime)?;
    criterion.final_summary();
    Ok(())
}

/// One call in flight.
fn latency(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = criterion.benchmark_group("one in flight");
    let mut pingpong = PingPong::start()?;
    group.bench_function("machine: socket-pair ping-pong", |b| {
        b.iter(|| pingpong.once().expect("the peer answers"))
    });
    let pool = runtime.block_on(two_workers().start())?;
    group.bench_function("no-op from a task", |b| {
        b.iter_custom(|calls| runtime.block_on(time_of(1, calls, noop(&pool))))
    });
    group.bench_function("no-op from block_on", |b| {
        b.iter_custom(|calls| {
            runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..calls {
                    pool.call(tasks::noop()).await.expect("a no-op");
                }
                began.elapsed()
            })
        })
    });
    runtime.block_on(pool.shutdown());
    Ok(())
}

/// A thousand calls in flight.
fn throughput(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = criterion.benchmark_group("1,000 in flight");
    group
        .throughput(Throughput::Elements(1))
        .sampling_mode(SamplingMode::Flat);
    group.bench_function("machine: spawn_blocking", |b| {
        b.iter_custom(|calls| runtime.block_on(shared_out(1000, calls, load::blocking_noop)));
    });
    for (name, slots) in [("no-op, 512 slots", MANY), ("no-op, 1 slot", 1)] {
        let pool = runtime.block_on(two_workers().slots(slots).start())?;
        group.bench_function(name, |b| {
            b.iter_custom(|calls| runtime.block_on(shared_out(1000, calls, noop(&pool))))
        });
        runtime.block_on(pool.shutdown());
    }
    Ok(())
}

/// Twenty callers that send 3 KiB and get it back with its MD5.
fn digests(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = criterion.benchmark_group("3 KiB and its MD5");
    group.throughput(Throughput::Elements(1));
    let data = tasks::bytes(3072, 1);
    group.bench_function("machine: one core", |b| b.iter(|| tasks::md5(&data)));
    for (name, slots) in [("20 callers, 1 slot", 1), ("20 callers, 10 slots", 10)] {
        let pool = runtime.block_on(two_workers().slots(slots).start())?;
        group.bench_function(name, |b| {
            b.iter_custom(|calls| runtime.block_on(shared_out(20, calls, digest(&pool))))
        });
        runtime.block_on(pool.shutdown());
        {
            let (pool, mut host) = runtime.block_on(elsewhere::two_workers(slots))?;
            let name = format!("{name}, over TCP");
            group.bench_function(name, |b| {
                b.iter_custom(|calls| runtime.block_on(shared_out(20, calls, digest(&pool))))
            });
            runtime.block_on(pool.shutdown());
            host.kill()?;
            host.wait()?;
        }
    }
    Ok(())
}

fn echoes(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = criterion.benchmark_group("echo");
    for (name, length) in ECHOES {
        group
            .throughput(Throughput::Bytes(length as u64))
            .sample_size(20);
        let mut memcpy = Memcpy::new(length);
        group.bench_function(format!("machine: memcpy there and back, {name}"), |b| {
            b.iter(|| {
                memcpy.once();
                memcpy.once();
            });
        });
        let pool = runtime.block_on(two_workers().start())?;
        let data = Bytes::from(tasks::bytes(length, 1));
        group.bench_function(name, |b| {
            b.iter_custom(|calls| summed(runtime, calls, || load::echo(&pool, &data)))
        });
        runtime.block_on(pool.shutdown());
    }
    Ok(())
}

fn starts(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = few(criterion, "start");
    let sum = |times: u64, once: fn() -> std::io::Result<Duration>| {
        (0..times).map(|_| once().expect("a program starts")).sum()
    };
    group.bench_function("machine: spawn a small program until it speaks", |b| {
        b.iter_custom(|times| sum(times, machine::spawn_small))
    });
    group.bench_function("machine: spawn this program until it speaks", |b| {
        b.iter_custom(|times| sum(times, machine::spawn_self))
    });
    group.bench_function("pool of 2 workers until its first answer", |b| {
        b.iter_custom(|times| summed(runtime, times, load::cold))
    });
}

fn recovery(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = few(criterion, "SIGKILL to next answer");
    let mut pingpong = PingPong::start()?;
    group.bench_function("machine: socket-pair ping-pong", |b| {
        b.iter(|| pingpong.once().expect("the peer answers"))
    });
    let cases = [
        ("the last of 2 workers", Victims::LastOfTwo),
        ("both of 2 workers", Victims::BothOfTwo),
        ("1 worker with a spare", Victims::OneWithSpare),
    ];
    for (name, victims) in cases {
        group.bench_function(name, |b| {
            b.iter_custom(|times| summed(runtime, times, || load::recover(victims)))
        });
    }
    Ok(())
}

/// The cost of a call must not depend on how many others there are.
fn growth(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let mut group = criterion.benchmark_group("growth");
    group
        .throughput(Throughput::Elements(1))
        .sampling_mode(SamplingMode::Flat);
    for queued in [10, 100, 1000, 10_000] {
        let pool = runtime.block_on(two_workers().slots(5).start())?;
        let name = format!("{queued} calls on 2 workers");
        group.bench_function(name, |b| {
            b.iter_custom(|calls| runtime.block_on(shared_out(queued, calls, noop(&pool))))
        });
        runtime.block_on(pool.shutdown());
    }
    for workers in [1, 8, 64] {
        let pool = runtime.block_on(Pool::builder().workers(workers).slots(8).start())?;
        let name = format!("512 calls on {workers} workers");
        group.bench_function(name, |b| {
            b.iter_custom(|calls| runtime.block_on(shared_out(512, calls, noop(&pool))))
        });
        runtime.block_on(pool.shutdown());
    }
    Ok(())
}

/// Has each caller make one call after the other, the given number of them; returns how long all
/// took.
async fn time_of<C, F>(callers: usize, each: u64, call: C) -> Duration
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output: Right> + Send,
{
    let began = Instant::now();
    together(callers, call, move |made| made < each).await;
    began.elapsed()
}

/// A group of slow things.
fn few<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
}

/// The time of this many calls, made by the callers in equal shares: each share is rounded up, so
/// the time is scaled back.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are small"
)]
async fn shared_out<C, F>(callers: usize, calls: u64, call: C) -> Duration
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output: Right> + Send,
{
    let each = calls.div_ceil(callers as u64);
    let took = time_of(callers, each, call).await;
    took.mul_f64(calls as f64 / (each * callers as u64) as f64)
}

/// The sum of times that are taken one by one.
fn summed<F: Future<Output = Result<Duration>>>(
    runtime: &Runtime,
    times: u64,
    mut once: impl FnMut() -> F,
) -> Duration {
    runtime.block_on(async {
        let mut sum = Duration::ZERO;
        for _ in 0..times {
            sum += once().await.expect("the measured thing works");
        }
        sum
    })
}

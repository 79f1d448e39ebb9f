//! procspawn's pool of two processes. A worker runs one task at a time; there is no setting for
//! more.

use std::collections::VecDeque;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use procspawn::{JoinHandle, Pool};
use serde_bytes::ByteBuf;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const WARM_UP: Duration = Duration::from_millis(500);
const MIN_ROUNDS: usize = 3;
const MAX_ROUNDS: usize = 15;
/// What a workload may take on top of its own time.
const PATIENCE: Duration = Duration::from_secs(30);

// What the workers run.

fn noop(_: ()) {}

fn md5(data: ByteBuf) -> (ByteBuf, String) {
    let hex = hex_md5(&data);
    (data, hex)
}

fn echo(data: ByteBuf) -> ByteBuf {
    data
}

/// The worker's process id, after some milliseconds.
#[allow(clippy::disallowed_methods)] // sleeping is what this call is for
fn pid(milliseconds: u64) -> u32 {
    thread::sleep(Duration::from_millis(milliseconds));
    std::process::id()
}

fn hex_md5(data: &[u8]) -> String {
    Md5::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

// What is measured.

/// Bytes which differ from seed to seed.
fn bytes(length: usize, seed: u32) -> ByteBuf {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut data = Vec::with_capacity(length);
    for _ in 0..length {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        data.push((x >> 24) as u8);
    }
    ByteBuf::from(data)
}

/// Inputs of `md5` with the right answers to them.
fn samples() -> Vec<(ByteBuf, String)> {
    (0..64).map(|seed| md5(bytes(3072, seed))).collect()
}

fn ensure(right: bool, what: &str) -> Result<()> {
    if right { Ok(()) } else { Err(what.into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Calls per second of no-ops, `window` of them in flight all the time, from one thread.
fn noops_in_flight(window: usize, seconds: Duration) -> Result<f64> {
    let pool = Pool::new(2)?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + seconds;
    let mut handles: VecDeque<JoinHandle<()>> = (0..window).map(|_| pool.spawn((), noop)).collect();
    let mut counted = 0_u64;
    while let Some(handle) = handles.pop_front() {
        handle.join()?;
        let now = Instant::now();
        if now < end {
            handles.push_back(pool.spawn((), noop));
            counted += u64::from(now >= begin);
        }
    }
    Ok(counted as f64 / seconds.as_secs_f64())
}

/// Calls per second of `md5` by `callers` threads, each of which waits for its answer.
fn md5_callers(callers: usize, seconds: Duration) -> Result<f64> {
    let pool = Pool::new(2)?;
    let samples = samples();
    let begin = Instant::now() + WARM_UP;
    let end = begin + seconds;
    let counted = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let caller = |k: usize| -> Result<()> {
        for (data, hex) in samples.iter().cycle().skip(k) {
            let answer = pool.spawn(data.clone(), md5).join()?;
            ensure(answer.0 == *data && answer.1 == *hex, "wrong answer")?;
            let now = Instant::now();
            if now >= end || failed.load(Ordering::Relaxed) {
                break;
            }
            counted.fetch_add(u64::from(now >= begin), Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let caller = &caller;
        let failed = &failed;
        let threads: Vec<_> = (0..callers)
            .map(|k| {
                scope
                    .spawn(move || caller(k).inspect_err(|_| failed.store(true, Ordering::Relaxed)))
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a caller panicked"))
    })?;
    Ok(counted.into_inner() as f64 / seconds.as_secs_f64())
}

/// Median time of one call at a time; `one` returns what a call took.
fn latency(seconds: Duration, mut one: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        one()?;
    }
    let end = Instant::now() + seconds;
    let mut times = vec![one()?];
    while Instant::now() < end {
        times.push(one()?);
    }
    Ok(median(times))
}

fn one_noop(seconds: Duration) -> Result<Duration> {
    let pool = Pool::new(2)?;
    latency(seconds, || {
        let start = Instant::now();
        pool.spawn((), noop).join()?;
        Ok(start.elapsed())
    })
}

fn one_echo(seconds: Duration) -> Result<Duration> {
    let pool = Pool::new(2)?;
    let mut data = bytes(16 << 20, 1);
    latency(seconds, || {
        data[0] = data[0].wrapping_add(1); // another message each time
        let argument = data.clone(); // `spawn` takes it; the copy is not part of the call
        let start = Instant::now();
        let answer = pool.spawn(argument, echo).join()?;
        let took = start.elapsed();
        ensure(answer == data, "other bytes came back")?;
        Ok(took)
    })
}

/// A process of its own for each call: calls per second of so many threads, each of which waits for
/// its answer.
fn isolated_callers(callers: usize, seconds: Duration) -> f64 {
    let (begin, end) = (Instant::now(), Instant::now() + seconds);
    let counted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while Instant::now() < end {
                    procspawn::spawn((), noop).join().expect("a no-op comes back");
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    counted.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

/// The median of the same, one call at a time with pauses.
fn one_isolated(seconds: Duration) -> Result<Duration> {
    latency(seconds, || {
        #[allow(clippy::disallowed_methods)] // the pause is what is measured after
        thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        procspawn::spawn((), noop).join()?;
        Ok(start.elapsed())
    })
}

/// Median time of a few rounds, each with a pool of its own.
fn rounds(seconds: Duration, one: impl Fn() -> Result<Duration>) -> Result<Duration> {
    let end = Instant::now() + seconds;
    let mut times = Vec::new();
    while times.len() < MIN_ROUNDS || (times.len() < MAX_ROUNDS && Instant::now() < end) {
        times.push(one()?);
    }
    Ok(median(times))
}

fn cold() -> Result<Duration> {
    let start = Instant::now();
    let pool = Pool::new(2)?;
    pool.spawn((), noop).join()?;
    Ok(start.elapsed())
}

/// kill -9 of one worker or of both, to the first right answer; failed calls are sent again.
fn recover(both: bool) -> Result<Duration> {
    let pool = Pool::new(2)?;
    // Two calls which take a while at the same time meet both workers.
    let calls = [pool.spawn(50, pid), pool.spawn(50, pid)];
    let mut victims = Vec::new();
    for call in calls {
        victims.push(call.join()?);
    }
    ensure(victims[0] != victims[1], "one worker did both calls")?;
    if !both {
        victims = vec![pool.spawn(0, pid).join()?]; // the last one to answer
    }
    let (data, hex) = md5(bytes(3072, 1));
    let start = Instant::now();
    for victim in victims {
        // SAFETY: plain system call; the process is a child that was not waited for.
        ensure(
            unsafe { libc::kill(victim as libc::pid_t, libc::SIGKILL) } == 0,
            "kill failed",
        )?;
    }
    loop {
        // `spawn` itself panics if it finds out first that the worker is gone.
        let call = AssertUnwindSafe(|| pool.spawn(data.clone(), md5).join());
        if let Ok(Ok(answer)) = catch_unwind(call) {
            let took = start.elapsed();
            ensure(answer.0 == data && answer.1 == hex, "wrong answer")?;
            return Ok(took);
        }
    }
}

/// Without a message for every panic.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let result = run();
    set_hook(hook);
    result
}

/// A call in flight holds up to four descriptors; the usual soft limit is too low for a thousand
/// calls.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only use `limit`, which outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < 8192 {
            limit.rlim_cur = limit.rlim_max.min(8192);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn run(workload: &str, seconds: Duration) -> Result<Vec<(f64, &'static str)>> {
    if workload == "isolated" {
        let median = one_isolated(seconds)?.as_secs_f64() * 1e3;
        return Ok(vec![(median, "ms"), (isolated_callers(1, seconds), "calls/s")]);
    }
    Ok(vec![run_in_pool(workload, seconds)?])
}

fn run_in_pool(workload: &str, seconds: Duration) -> Result<(f64, &'static str)> {
    let us = |time: Duration| (time.as_secs_f64() * 1e6, "us");
    let ms = |time: Duration| (time.as_secs_f64() * 1e3, "ms");
    Ok(match workload {
        "noop-1000" => (noops_in_flight(1000, seconds)?, "calls/s"),
        "noop-1" => us(one_noop(seconds)?),
        "md5-3k-1" => (md5_callers(20, seconds)?, "calls/s"),
        "echo-16m" => ms(one_echo(seconds)?),
        "cold" => ms(rounds(seconds, cold)?),
        "isolated-8" => (isolated_callers(8, seconds), "calls/s"),
        "recover" => ms(quietly(|| rounds(seconds, || recover(false)))?),
        "recover-both" => ms(quietly(|| rounds(seconds, || recover(true)))?),
        _ => return Err(format!("unknown workload {workload}").into()),
    })
}

const WORKLOADS: [&str; 7] = [
    "noop-1000",
    "noop-1",
    "md5-3k-1",
    "echo-16m",
    "cold",
    "recover",
    "recover-both",
];

/// Run only where they are named.
const ON_DEMAND: [&str; 2] = ["isolated", "isolated-8"];

/// Has the system end the program if a workload takes too long.
fn watchdog(seconds: Duration) {
    // SAFETY: plain system call; an earlier alarm is replaced.
    unsafe { libc::alarm((seconds + PATIENCE).as_secs() as libc::c_uint) };
}

fn main() -> Result<()> {
    procspawn::init();
    raise_descriptor_limit();
    let mut seconds = Duration::from_secs(3);
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().ok_or("--seconds needs a number")?;
            seconds = Duration::try_from_secs_f64(value.parse()?)?;
        } else {
            wanted.push(argument);
        }
    }
    for workload in WORKLOADS.into_iter().chain(ON_DEMAND) {
        let is_named = wanted.iter().any(|name| name == workload);
        let is_meant = wanted.is_empty() && WORKLOADS.contains(&workload);
        if !(is_named || is_meant) {
            continue;
        }
        watchdog(seconds);
        for (value, unit) in run(workload, seconds)? {
            println!(
                r#"{{"peer":"procspawn","workload":"{workload}","value":{value:.3},"unit":"{unit}"}}"#
            );
        }
    }
    Ok(())
}

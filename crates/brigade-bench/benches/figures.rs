//! Figures that the comparison needs and a benchmark library has no measure for: rates, medians,
//! memory, CPU time.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brigade::Pool;

use crate::load::{Result, Right, together, two_workers};
use crate::tasks;

/// Before calls are counted.
const WARM_UP: Duration = Duration::from_millis(500);

// -- rates

/// Calls per second that the callers make together, each one call after the other.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn rate_of<C, F>(callers: usize, time: Duration, call: C) -> f64
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output: Right> + Send,
{
    let (call, warm) = (Arc::new(call), Instant::now() + WARM_UP.min(time));
    let warming = Arc::clone(&call);
    together(
        callers,
        move |caller| warming(caller),
        move |_| Instant::now() < warm,
    )
    .await;
    let began = Instant::now();
    let end = began + time;
    let made = together(
        callers,
        move |caller| call(caller),
        move |_| Instant::now() < end,
    )
    .await;
    made as f64 / began.elapsed().as_secs_f64()
}

/// Calls per second of one caller that keeps this many in flight and awaits them in order.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) async fn rate_ahead<F: Future<Output: Right> + Unpin>(
    window: usize,
    time: Duration,
    mut call: impl FnMut() -> F,
) -> f64 {
    let begin = Instant::now() + WARM_UP.min(time);
    let end = begin + time;
    let mut flying: VecDeque<_> = (0..window).map(|_| call()).collect();
    let mut counted = 0_u64;
    while let Some(first) = flying.pop_front() {
        first.await.check();
        let now = Instant::now();
        if now < end {
            flying.push_back(call());
            counted += u64::from(now >= begin);
        }
    }
    counted as f64 / time.as_secs_f64()
}

/// MD5 of 3 KiB, again and again on this thread: calls per second.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn md5_rate(time: Duration) -> f64 {
    let samples = tasks::samples();
    let (began, mut count) = (Instant::now(), 0_u64);
    while began.elapsed() < time {
        for (data, digest) in &samples {
            assert_eq!(tasks::md5(black_box(data)), *digest);
        }
        count += samples.len() as u64;
    }
    count as f64 / began.elapsed().as_secs_f64()
}

// -- medians

/// Median time of one no-op at a time.
pub(crate) async fn noop_latency(pool: &Pool, time: Duration) -> Result<Duration> {
    let warm = Instant::now() + WARM_UP.min(time);
    while Instant::now() < warm {
        pool.call(tasks::noop()).await?;
    }
    let (end, mut times) = (Instant::now() + time, Vec::new());
    while Instant::now() < end {
        let began = Instant::now();
        pool.call(tasks::noop()).await?;
        times.push(began.elapsed());
    }
    Ok(median(times))
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

// -- memory and idleness

/// Private memory of a worker that has answered a few calls and waits, in KiB.
pub(crate) async fn idle_memory() -> Result<f64> {
    let pool = two_workers().start().await?;
    for _ in 0..100 {
        pool.call(tasks::noop()).await?;
    }
    let pid = pool.call(tasks::pid()).await?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    pool.shutdown().await;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    Ok(kib.sum())
}

/// Growth of this process for each of 100,000 waiting calls, their handles included, in bytes.
pub(crate) async fn waiting_memory() -> Result<f64> {
    const CALLS: usize = 100_000;
    let pool = Pool::builder().workers(1).queue_max(CALLS).start().await?;
    let holding = pool.call(tasks::hold());
    let before = resident_bytes()?;
    let calls: Vec<_> = (0..CALLS).map(|_| pool.call(tasks::noop())).collect();
    let after = resident_bytes()?;
    assert_eq!(pool.stats().waiting, CALLS, "all calls wait");
    holding.cancel("measured").await;
    for call in calls {
        call.await?;
    }
    pool.shutdown().await;
    Ok(after.saturating_sub(before) as f64 / CALLS as f64)
}

fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .ok_or("statm has a second field")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// CPU time of the pool's process and its workers while nothing is asked of them, in us per second.
pub(crate) async fn idle_cpu(time: Duration) -> Result<f64> {
    let pool = two_workers().start().await?;
    pool.call(tasks::noop()).await?;
    let mut pids: Vec<u32> = pool
        .workers()
        .iter()
        .filter_map(|worker| worker.pid)
        .collect();
    pids.push(std::process::id());
    // What a worker does after its last call is no idleness.
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (Instant::now(), cpu_nanos(&pids)?);
    tokio::time::sleep(time.max(Duration::from_secs(1))).await;
    let used = cpu_nanos(&pids)? - before;
    let seconds = began.elapsed().as_secs_f64();
    pool.shutdown().await;
    Ok(used as f64 / 1e3 / seconds)
}

fn cpu_nanos(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += schedstat
                .split(' ')
                .next()
                .ok_or("schedstat has a first field")?
                .parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// What this program prints when it is started with this argument: a number.
#[expect(
    clippy::disallowed_methods,
    reason = "a workload that needs a process of its own"
)]
pub(crate) fn in_fresh_process(argument: &str) -> io::Result<f64> {
    let output = Command::new("/proc/self/exe")
        .arg(argument)
        .stderr(Stdio::inherit())
        .output()?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(io::Error::other)
}

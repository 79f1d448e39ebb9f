//! The workloads, with checked answers.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brigade::{Builder, Bytes, CallHandle, Pool, WorkerState};
use rustix::process::{Pid, Signal, kill_process};

use crate::tasks;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A call that should take milliseconds ends the program after this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of a no-op.
pub(crate) trait Right: Send + 'static {
    /// Ends the program if it is not what it should be.
    fn check(self);
}

impl Right for () {
    fn check(self) {}
}

impl<E: Error + Send + 'static> Right for std::result::Result<(), E> {
    fn check(self) {
        self.expect("a no-op comes back");
    }
}

pub(crate) fn two_workers() -> Builder {
    Pool::builder().workers(2)
}

// -- many callers

/// Has each caller make one call after the other for as long as it goes on after the calls that it
/// made; returns how many all made.
pub(crate) async fn together<C, F>(
    callers: usize,
    call: C,
    goes_on: impl Fn(u64) -> bool + Send + Sync + 'static,
) -> u64
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output: Right> + Send,
{
    let shared = Arc::new((call, goes_on));
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let (call, goes_on) = &*shared;
            let mut made = 0;
            while goes_on(made) {
                call(caller).await.check();
                made += 1;
            }
            made
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// A call of nothing.
pub(crate) fn noop(pool: &Pool) -> impl Fn(usize) -> CallHandle<()> + Send + Sync + use<> {
    let pool = pool.clone();
    move |_| pool.call(tasks::noop())
}

/// The same in-process, on a thread that may block.
#[expect(
    clippy::disallowed_methods,
    reason = "measures what the library is compared with"
)]
pub(crate) fn blocking_noop(_caller: usize) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(|| ())
}

/// An echo of 3 KiB with its MD5, checked.
pub(crate) fn digest(
    pool: &Pool,
) -> impl Fn(usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + use<> {
    let (pool, samples) = (pool.clone(), tasks::samples());
    move |caller| {
        let (data, digest) = samples[caller % samples.len()].clone();
        let call = pool.call(tasks::digest(data.clone()));
        Box::pin(async move {
            assert!(
                call.await.expect("a digest") == (data, digest),
                "a wrong answer"
            )
        })
    }
}

// -- one caller

/// One echo. Comparing is not part of the time.
pub(crate) async fn echo(pool: &Pool, data: &Bytes) -> Result<Duration> {
    let began = Instant::now();
    let answer = pool.call(tasks::echo(data.clone())).await?;
    let took = began.elapsed();
    assert!(answer == *data, "other bytes came back");
    Ok(took)
}

/// From making the pool to its first answer.
pub(crate) async fn cold() -> Result<Duration> {
    let began = Instant::now();
    let pool = two_workers().start().await?;
    pool.call(tasks::noop()).await?;
    let took = began.elapsed();
    pool.shutdown().await;
    Ok(took)
}

/// Whom to kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Victims {
    /// The one of two workers that answered last.
    LastOfTwo,
    BothOfTwo,
    /// The only worker; a spare worker is ready.
    OneWithSpare,
}

/// From SIGKILL to the next right answer; calls that fail are made again.
pub(crate) async fn recover(victims: Victims) -> Result<Duration> {
    let pool = match victims {
        Victims::LastOfTwo | Victims::BothOfTwo => two_workers().start().await?,
        Victims::OneWithSpare => Pool::builder().workers(1).spares(1).start().await?,
    };
    if matches!(victims, Victims::OneWithSpare) {
        until(|| {
            pool.workers()
                .iter()
                .any(|worker| worker.state == WorkerState::Spare)
        })
        .await;
    }
    let last = pool.call(tasks::pid()).await?;
    let pids = match victims {
        Victims::BothOfTwo => pool
            .workers()
            .iter()
            .filter_map(|worker| worker.pid)
            .collect(),
        Victims::LastOfTwo | Victims::OneWithSpare => vec![last],
    };
    let (data, digest) = tasks::samples().remove(0);
    let began = Instant::now();
    for pid in pids {
        kill(pid)?;
    }
    let answer = loop {
        match pool.call(tasks::digest(data.clone())).await {
            Ok(answer) => break answer,
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => {}
        }
    };
    let took = began.elapsed();
    assert!(answer == (data, digest), "a wrong answer");
    pool.shutdown().await;
    Ok(took)
}

fn kill(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("a worker has a process id")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

async fn until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < PATIENCE,
            "what was waited for did not come"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

//! Counts and times of a pool.
//!
//! The dispatcher owns the counters and changes them in its steps; [`Stats`] is a copy of a moment.
//! Times are kept in histograms of a fixed size, so a pool that runs for years needs no more memory
//! for them.

use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

/// A moment's view of a pool. Counters run from its start.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Worker processes, starting ones included.
    pub workers: usize,
    /// Workers that are ready and run something.
    pub busy: usize,
    /// Workers that are ready and run nothing.
    pub idle: usize,
    /// Workers on their way to being ready.
    pub starting: usize,
    /// Calls that wait, delayed ones included.
    pub waiting: usize,
    /// Calls that run.
    pub running: usize,
    /// Calls that gave a value.
    pub done: u64,
    /// Calls that ended otherwise.
    pub failed: u64,
    /// Attempts that took their worker down.
    pub crashed: u64,
    /// Attempts that were stopped because the pool was over its memory budget, and whose calls are
    /// run again.
    pub interrupted: u64,
    /// Worker processes that became ready.
    pub started: u64,
    /// The memory budget and what is taken of it
    /// ([`Builder::memory_budget`](crate::Builder::memory_budget)).
    pub memory: Option<BudgetUse>,
    /// Whether workers keep failing at start, and why the last one did.
    pub degraded: Option<String>,
    /// How long attempts waited for a worker.
    pub wait: Times,
    /// How long attempts ran, as the pool saw it: from being sent to being answered.
    pub run: Times,
    /// Share of slots that were busy since the start, from 0 to 1.
    pub utilization: f64,
}

/// A memory budget and what is taken of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetUse {
    /// What the calls that run may take together.
    pub budget: u64,
    /// What they are expected to take.
    pub reserved: u64,
    /// What they take, as measured last.
    pub used: u64,
    /// The first call in line waits for memory, and those behind it with it.
    pub is_short: bool,
}

/// A distribution of times. Values are right to 1 %, from a microsecond to an hour; longer ones
/// count as an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Times {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The standard deviation.
    pub deviation: Duration,
    /// Half were at most this.
    pub p50: Duration,
    /// 90 % were at most this.
    pub p90: Duration,
    /// 99 % were at most this.
    pub p99: Duration,
    /// The largest.
    pub max: Duration,
}

/// Microseconds, two significant digits, up to an hour.
#[derive(Debug)]
pub(super) struct Clocked(Histogram<u32>);

const MICROS_MAX: u64 = 3_600_000_000;

impl Clocked {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_max(MICROS_MAX, 2).expect("the bounds are constants that fit"))
    }

    pub(super) fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MICROS_MAX);
        self.0.saturating_record(micros);
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, not negative and below an hour"
    )]
    pub(super) fn times(&self) -> Times {
        if self.0.is_empty() {
            return Times::default();
        }
        let at = |quantile| Duration::from_micros(self.0.value_at_quantile(quantile));
        Times {
            count: self.0.len(),
            min: Duration::from_micros(self.0.min()),
            mean: Duration::from_micros(self.0.mean().round() as u64),
            deviation: Duration::from_micros(self.0.stdev().round() as u64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: Duration::from_micros(self.0.max()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) crashed: u64,
    pub(super) interrupted: u64,
    pub(super) started: u64,
    pub(super) wait: Clocked,
    pub(super) run: Clocked,
    pub(super) busy_time: Duration,
    pub(super) since: Instant,
}

impl Counters {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            done: 0,
            failed: 0,
            crashed: 0,
            interrupted: 0,
            started: 0,
            wait: Clocked::new(),
            run: Clocked::new(),
            busy_time: Duration::ZERO,
            since: now,
        }
    }
}

/// One worker, as [`Pool::workers`](crate::Pool::workers) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Number within the pool, from 1; a replacement takes the number of the one it replaces.
    pub id: u32,
    /// Name of its host, as the host gives it, if the worker is a remote host.
    pub host: Option<String>,
    /// As what that host proved itself: `key`, or `certificate` and the names in it.
    pub identity: Option<String>,
    /// Process id; `None` while it starts. That of a host that joined is one of that host.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// Attempts that it may run at once.
    pub slots: u32,
    /// Attempts that it runs.
    pub running: u32,
    /// Attempts that it gave a value for.
    pub done: u64,
    /// Attempts that ended otherwise without ending it.
    pub failed: u64,
    /// Task of the attempt that it began last, while it runs.
    pub task: Option<String>,
    /// How long the way to its host and back takes, as measured last; `None` for a process of this
    /// host.
    pub latency: Option<Duration>,
    /// Since when it has been there.
    pub since: SystemTime,
    /// How long it has been there.
    pub age: Duration,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process is being started.
    Starting,
    /// It waits for a call.
    Idle,
    /// It runs at least one attempt.
    Busy,
    /// It stands by for a worker that dies.
    Spare,
    /// Something keeps its process from running: a signal (SIGSTOP, a terminal's SIGTTIN or
    /// SIGTTOU), or a debugger.
    Stopped,
    /// It gets nothing new and ends when it has finished.
    Retiring,
    /// The connection to its host is down: it gets nothing until it is back, and what it runs is
    /// waited for.
    Away,
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Spare => "spare",
            Self::Stopped => "stopped",
            Self::Retiring => "retiring",
            Self::Away => "away",
        })
    }
}

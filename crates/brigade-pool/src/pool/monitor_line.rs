//! [`MonitorLine`]: what the monitor of a pool writes, one JSON document per line. Values only.
//!
//! The pool writes them and `brigade top --pool` reads them with the same types, and so can any
//! program of the same user. A change of a field that breaks a reader raises
//! [`VERSION`](MonitorLine::VERSION); a new field does not: readers ignore fields that they do not
//! know.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::{Stats, WorkerInfo};

/// The state of a pool at a moment: one line of the socket of
/// [`Builder::monitor`](crate::Builder::monitor), as JSON.
///
/// ```
/// use brigade::MonitorLine;
///
/// fn read(line: &str) -> Result<MonitorLine, String> {
///     let line: MonitorLine = serde_json::from_str(line).map_err(|error| error.to_string())?;
///     match line.version {
///         MonitorLine::VERSION => Ok(line),
///         version => Err(format!("version {version} (supported: {})", MonitorLine::VERSION)),
///     }
/// }
/// # assert!(read("{}").is_err());
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitorLine {
    /// The form of the line: [`VERSION`](MonitorLine::VERSION) of the pool that wrote it.
    pub version: u32,
    /// The process that owns the pool.
    pub pid: u32,
    /// Counts and times of the pool.
    pub stats: MonitoredStats,
    /// The workers, with the slots of remote hosts.
    pub workers: Vec<MonitoredWorker>,
    /// The calls that run, at most 1,000 of them.
    pub calls: Vec<MonitoredCall>,
}

/// The counts and times of a [`MonitorLine`]. See [`Stats`](crate::Stats) for their meaning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitoredStats {
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
    /// Worker processes that became ready.
    pub started: u64,
    /// Why the last worker failed at its start, while workers keep failing there.
    pub degraded: Option<String>,
    /// Half of the attempts waited at most so long.
    pub wait_p50_seconds: f64,
    /// 99 % of the attempts waited at most so long.
    pub wait_p99_seconds: f64,
    /// Half of the attempts ran at most so long.
    pub run_p50_seconds: f64,
    /// 99 % of the attempts ran at most so long.
    pub run_p99_seconds: f64,
    /// Share of slots that were busy since the start, from 0 to 1.
    pub utilization: f64,
}

/// A worker of a [`MonitorLine`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitoredWorker {
    /// Its number in the pool.
    pub id: u32,
    /// The name of its host, if it is a remote one.
    pub host: Option<String>,
    /// Its process, while it has one on this host.
    pub pid: Option<u32>,
    /// [`WorkerState`](crate::WorkerState) as text.
    pub state: String,
    /// Calls that it can run at once.
    pub slots: u32,
    /// Calls that it runs.
    pub running: u32,
    /// Calls of it that gave a value.
    pub done: u64,
    /// Calls of it that ended otherwise.
    pub failed: u64,
    /// The task of its oldest call.
    pub task: Option<String>,
    /// How long it has been there.
    pub age_seconds: f64,
}

/// A call of a [`MonitorLine`], which runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitoredCall {
    /// Distinguishes it from the other calls of the pool.
    pub number: u64,
    /// The name of its task.
    pub task: String,
    /// The number of its worker.
    pub worker: u32,
    /// From 1.
    pub attempt: u32,
    /// How long the attempt has run.
    pub seconds: f64,
    /// The last progress, from 0 to 1, with its text.
    pub progress: Option<(f64, String)>,
}

impl MonitorLine {
    /// The form of the lines that this version of Brigade writes.
    pub const VERSION: u32 = 1;
    /// Calls that a line names.
    pub(super) const CALLS_MAX: usize = 1_000;
    /// Longest text of a progress.
    pub(super) const PROGRESS_BYTES_MAX: usize = 200;

    pub(super) fn new(stats: Stats, workers: Vec<WorkerInfo>, calls: Vec<MonitoredCall>) -> Self {
        Self {
            version: Self::VERSION,
            pid: std::process::id(),
            stats: MonitoredStats::new(stats),
            workers: workers.into_iter().map(MonitoredWorker::new).collect(),
            calls,
        }
    }
}

impl MonitoredStats {
    fn new(stats: Stats) -> Self {
        let seconds = Duration::as_secs_f64;
        Self {
            workers: stats.workers,
            busy: stats.busy,
            idle: stats.idle,
            starting: stats.starting,
            waiting: stats.waiting,
            running: stats.running,
            done: stats.done,
            failed: stats.failed,
            crashed: stats.crashed,
            started: stats.started,
            degraded: stats.degraded,
            wait_p50_seconds: seconds(&stats.wait.p50),
            wait_p99_seconds: seconds(&stats.wait.p99),
            run_p50_seconds: seconds(&stats.run.p50),
            run_p99_seconds: seconds(&stats.run.p99),
            utilization: stats.utilization,
        }
    }
}

impl MonitoredWorker {
    fn new(worker: WorkerInfo) -> Self {
        Self {
            id: worker.id,
            host: worker.host,
            pid: worker.pid,
            state: worker.state.to_string(),
            slots: worker.slots,
            running: worker.running,
            done: worker.done,
            failed: worker.failed,
            task: worker.task,
            age_seconds: worker.age.as_secs_f64(),
        }
    }
}

//! What the monitor of a pool writes: one JSON document per line. Values only.
//!
//! Other programs read them (`brigade top --pool`). A change of a field that breaks a reader is a
//! new [`VERSION`](MonitorLine::VERSION); a new field is none.

use std::time::Duration;

use serde::Serialize;

use super::stats::{Stats, WorkerInfo};

/// The state of a pool at a moment.
#[derive(Serialize)]
pub(super) struct MonitorLine {
    version: u32,
    /// The process that owns the pool.
    pid: u32,
    stats: MonitoredStats,
    workers: Vec<MonitoredWorker>,
    /// The calls that run, the first [`CALLS_MAX`](MonitorLine::CALLS_MAX) of them.
    calls: Vec<MonitoredCall>,
}

#[derive(Serialize)]
struct MonitoredStats {
    workers: usize,
    busy: usize,
    idle: usize,
    starting: usize,
    waiting: usize,
    running: usize,
    done: u64,
    failed: u64,
    crashed: u64,
    started: u64,
    degraded: Option<String>,
    wait_p50_seconds: f64,
    wait_p99_seconds: f64,
    run_p50_seconds: f64,
    run_p99_seconds: f64,
    utilization: f64,
}

#[derive(Serialize)]
struct MonitoredWorker {
    id: u32,
    host: Option<String>,
    pid: Option<u32>,
    state: String,
    slots: u32,
    running: u32,
    done: u64,
    failed: u64,
    task: Option<String>,
    age_seconds: f64,
}

/// A call that runs.
#[derive(Serialize)]
pub(super) struct MonitoredCall {
    /// Distinguishes it from the other calls of the pool.
    pub(super) number: u64,
    pub(super) task: String,
    /// The number of its worker.
    pub(super) worker: u32,
    /// From 1.
    pub(super) attempt: u32,
    /// How long the attempt has run.
    pub(super) seconds: f64,
    /// The last progress, from 0 to 1, with its text.
    pub(super) progress: Option<(f64, String)>,
}

impl MonitorLine {
    const VERSION: u32 = 1;
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

//! [`Event`]: one feed for logs, metrics and dashboards. Each change of state emits one event.
//!
//! The pool emits the events; every reader has its own place in the feed. Events are values that
//! own their texts, so they are cheap to clone and may outlive the pool.
//!
//! Invariants: the pool never waits for a reader. One that is too slow loses the oldest events and
//! gets [`Event::Missed`] with their number.
//!
//! Events are not stored, and no decision of the pool depends on them.

use std::sync::Arc;
use std::time::Duration;

use crate::attempt_report::{Cost, Exit};

/// Something happened in a pool. Get them from `Pool::events`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A worker process is ready for calls.
    WorkerReady {
        /// Number of the worker.
        worker: u32,
        /// Its process id.
        pid: u32,
        /// Time from the decision to start it.
        took: Duration,
    },
    /// A worker process could not be started.
    WorkerStartFailed {
        /// Number of the worker.
        worker: u32,
        /// Why, in words.
        reason: Arc<str>,
    },
    /// A worker does not answer because something keeps its process from running. It is replaced if
    /// that goes on, unless a debugger has it.
    WorkerStopped {
        /// Number of the worker.
        worker: u32,
        /// Its process id.
        pid: u32,
        /// The signal (SIGTTIN and SIGTTOU are a terminal's), or `a debugger`.
        by: Arc<str>,
    },
    /// A worker is to be replaced and gets nothing new.
    WorkerRetiring {
        /// Number of the worker.
        worker: u32,
        /// Why, in words.
        reason: Arc<str>,
    },
    /// A worker process is gone.
    WorkerGone {
        /// Number of the worker.
        worker: u32,
        /// Process id it had.
        pid: u32,
        /// How it exited.
        exit: Exit,
        /// Whether its pool had asked it to leave.
        expected: bool,
    },
    /// Processes of a worker that is over could not be ended: they run as a user whom this program
    /// may not signal, or the kernel holds them.
    ProcessesLeft {
        /// Number that the worker had.
        worker: u32,
        /// Their process ids.
        pids: Arc<[u32]>,
    },
    /// A host joined the pool, or is back after its connection was down.
    HostJoined {
        /// Number of the host among the workers.
        worker: u32,
        /// Its name, as it says.
        host: Arc<str>,
        /// As what it proved itself: `key`, or `certificate` and the names in it.
        identity: Arc<str>,
        /// Process id of the program there.
        pid: u32,
        /// Attempts that it may run at once.
        slots: u32,
        /// Whether it was known and goes on with what it ran.
        resumed: bool,
        /// Calls that it still held of a session that is over, because it was away for too long:
        /// their results are refused.
        stale: usize,
    },
    /// The connection to a host is down. What it runs is waited for.
    HostAway {
        /// Number of the host among the workers.
        worker: u32,
        /// Its name.
        host: Arc<str>,
        /// What happened, in words.
        reason: Arc<str>,
    },
    /// A host is no worker of the pool any more.
    HostLeft {
        /// Number that it had.
        worker: u32,
        /// Its name.
        host: Arc<str>,
        /// Why, in words.
        reason: Arc<str>,
        /// Calls that were lost with it.
        lost: usize,
    },
    /// A host that had the right to join was turned away.
    HostRefused {
        /// Where it came from.
        peer: Arc<str>,
        /// Why, in words.
        reason: Arc<str>,
    },
    /// Workers keep failing at start.
    Degraded {
        /// The last reason.
        reason: Arc<str>,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// A worker started again after the pool was degraded.
    Recovered,
    /// A thread of a worker panicked that was running no attempt.
    StrayPanic {
        /// Number of the worker.
        worker: u32,
        /// The panic's message.
        message: Arc<str>,
        /// `file:line:column`.
        location: Arc<str>,
    },
    /// A call waits for a worker.
    CallQueued {
        /// Id of the call.
        call: u64,
        /// Name of its task.
        task: Arc<str>,
        /// Its label.
        label: Option<Arc<str>>,
    },
    /// The first call in line waits for memory, and those behind it with it (the pool has a memory
    /// budget). Once for each wait.
    CallWaitsForMemory {
        /// Id of the call.
        call: u64,
        /// Name of its task.
        task: Arc<str>,
        /// Its label.
        label: Option<Arc<str>>,
        /// Bytes that it is expected to take.
        bytes: u64,
        /// Bytes of the budget that are free.
        free: u64,
    },
    /// The pool was over its memory budget and stopped its largest attempt. The call runs again,
    /// alone; the second time it ends.
    OverMemoryBudget {
        /// Id of the call.
        call: u64,
        /// Name of its task.
        task: Arc<str>,
        /// Its label.
        label: Option<Arc<str>>,
        /// Number of the worker.
        worker: u32,
        /// Bytes that the attempt took.
        used: u64,
        /// Bytes that all attempts took together.
        total: u64,
        /// The budget.
        budget: u64,
    },
    /// An attempt was given to a worker.
    CallStarted {
        /// Id of the call.
        call: u64,
        /// Name of its task.
        task: Arc<str>,
        /// Its label.
        label: Option<Arc<str>>,
        /// Number of the worker.
        worker: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
    },
    /// A call has its outcome.
    CallEnded {
        /// Id of the call.
        call: u64,
        /// Name of its task.
        task: Arc<str>,
        /// Its label.
        label: Option<Arc<str>>,
        /// How it ended, as [`CallError`](crate::CallError) names it, in lower case: `done`,
        /// `failed`, `crashed` ..
        outcome: &'static str,
        /// Attempts that were begun.
        attempts: u32,
        /// What its last attempt cost; `None` if it ended otherwise than by an attempt's end.
        cost: Option<Cost>,
    },
    /// No call waits any more.
    Drained,
    /// The reader was too slow; this many events are missing.
    Missed(u64),
}

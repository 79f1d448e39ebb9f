//! A worker as the dispatcher and the shell around it use it: [`WorkerConn`].
//!
//! A worker is a process of ours (`process`) or a remote host (`remote_host`). How each lives is
//! its own: `process` has a process from its start to its reaping, `remote_host` a host from its
//! handshake to its leave. Both know this trait; it knows neither of them, nor the pool that uses
//! it. What only a process of ours can do is in [`OwnProcess`].

pub(super) mod outgoing;
pub(super) mod process;
#[cfg(feature = "remote")]
pub(super) mod remote_host;

use std::any::Any;

use futures_util::future::BoxFuture;
use rustix::process::Signal;

use self::outgoing::OutgoingAttempt;
use super::ids::CallId;
use super::stop_reason::StopReason;
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::MemoryHold;
use crate::error::Error;
use crate::process::LimitedAttempt;

/// The connection to a worker.
///
/// The dispatcher calls the first two methods while it is locked: they append to memory and look at
/// it, and never wait, read, write or ask the system. All others carry out its
/// [`Effects`](super::core::Effects), without the lock.
///
/// `Any`, so that the side that made a connection can have its own type back.
pub(super) trait WorkerConn: Any + Send + Sync {
    // -- with the dispatcher locked

    /// Appends the call of an attempt to what the worker is sent.
    fn append(&self, attempt: &OutgoingAttempt<'_>);

    /// Whether it should get nothing more until it has read what it was sent.
    fn is_congested(&self) -> bool;

    // -- without the lock

    /// Writes what was appended, now if that is possible.
    fn flush(&self);

    /// Has what was appended written soon, together with what is appended until then.
    fn kick(&self);

    /// Lets it go: it has nothing more to do.
    fn let_go(&self);

    /// Asks it to stop an attempt. A remote host takes the harder steps itself then, at once if
    /// `hurry` is set.
    fn ask_to_stop(&self, call: CallId, reason: &StopReason, hurry: bool);

    /// The process that it is. `None` for a remote host.
    fn process(&self) -> Option<&dyn OwnProcess> {
        None
    }
}

/// A worker that is a process of ours: what the pool can do with it without asking it.
pub(super) trait OwnProcess: Send + Sync {
    /// Signals its process tree.
    fn signal(&self, signal: Signal);

    /// Ends it by SIGKILL. Returns when it has ended, or when it was given up because that did not
    /// end it in time.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Ends it at once because of what it did, or did not do. The first reason counts.
    fn break_off(&self, reason: &str);

    /// Whether it has ended.
    fn has_ended(&self) -> bool;

    /// Waits until it has been reaped and its tree is gone.
    fn gone(&self) -> BoxFuture<'_, ()>;

    /// Holds the limits of the attempt that it is about to be sent, in place of those of the last
    /// one. Returns what holds its memory.
    ///
    /// # Errors
    ///
    /// `Unsupported` if a limit cannot be held on this host.
    fn hold_limits(
        &self,
        limits: AttemptLimits,
        attempt: Box<dyn LimitedAttempt>,
    ) -> Result<Option<MemoryHold>, Error>;

    /// The memory that it fills itself.
    fn used_bytes(&self) -> u64;

    /// The memory that it and the processes that it started fill, beyond what it filled itself
    /// when it became ready.
    fn grown_bytes(&self) -> u64;

    /// The memory of the worker process when it became ready: kept since then.
    fn memory_at_ready(&self) -> ProcessMemory;

    /// Pings it, and looks why it did not answer the last ping.
    fn look(&self, is_in_time: bool) -> Health;

    /// Keeps what the next attempt writes, up to this many bytes of each of its two outputs.
    fn begin_capture(&self, bytes_max: usize);

    /// The last that it wrote to its standard error.
    fn stderr_tail(&self) -> String;
}

/// The memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessMemory {
    /// What it fills itself.
    pub(super) used: u64,
    /// All of it that is resident, pages of files included.
    pub(super) resident: u64,
    /// The most that was ever resident.
    pub(super) peak: u64,
}

/// What a look at a worker process found.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// For how many looks it has not answered a ping although it could have; 0 if it answers.
    pub(super) misses: u32,
    /// What keeps it from running.
    pub(super) stopped_by: Option<String>,
    /// The memory that it fills itself; 0 where that is not limited.
    pub(super) used_bytes: u64,
    /// What it has grown by since it was ready; 0 where the pool has no memory budget.
    pub(super) grown_bytes: u64,
}

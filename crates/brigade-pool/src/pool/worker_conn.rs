//! A worker as the dispatcher and the shell around it use it: [`WorkerConn`].
//!
//! A worker is a process of ours ([`WorkerProcess`]) or a remote host (`RemoteHost`). How each
//! lives is its own: `process` has a process from its start to its reaping, `remote_host` a host
//! from its handshake to its leave.

pub(super) mod process;
#[cfg(feature = "remote")]
pub(super) mod remote_host;

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::Shared;
use super::core::StopOrder;
use super::ids::CallId;
use super::stop_reason::StopReason;
use crate::call::{CallOptions, CallTarget, Request};
use crate::wire;

#[cfg(all(feature = "remote", any(test, fuzzing)))]
pub(crate) use remote_host::read_host_message;
#[cfg(feature = "remote")]
pub(super) use remote_host::{HostMessage, RemoteHost};

/// The connection to a worker.
///
/// The dispatcher calls the first two methods while it is locked: they append to memory and look at
/// it, and never wait, read, write or ask the system. All others carry out its
/// [`Effects`](super::core::Effects), without the lock. A method that a kind of worker does not
/// need has an empty default.
pub(super) trait WorkerConn: Send + Sync {
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

    /// Stops an attempt, by one step of the kill ladder after the other, in a task of its own.
    fn stop(self: Arc<Self>, shared: &Arc<Shared>, order: StopOrder);

    /// Asks it once more to stop an attempt.
    fn ask_to_stop(&self, call: CallId, reason: &StopReason, hurry: bool);

    /// Stops the attempt when its resident memory grows by more than this, from now on.
    fn watch_memory(self: Arc<Self>, shared: &Arc<Shared>, call: CallId, bytes_max: u64) {
        let _ = (shared, call, bytes_max);
    }

    /// Keeps what the next attempt writes, up to this many bytes of each of the two.
    fn begin_capture(&self, bytes_max: usize) {
        let _ = bytes_max;
    }

    /// The last that it wrote to its standard error, as far as that is known here.
    fn stderr_tail(&self) -> String {
        String::new()
    }

    /// Pings it, and looks why it did not answer the last ping. `None` if nothing can be said.
    fn look(&self, is_in_time: bool, wants_memory: bool) -> Option<Health> {
        let _ = (is_in_time, wants_memory);
        None
    }

    /// Ends it at once because of what it did, or did not do. The first reason counts.
    fn break_off(&self, reason: &str) {
        let _ = reason;
    }

    /// Kills its process, for a pool whose runtime runs nothing.
    fn kill_undriven(&self) {}

    /// Whether its process has ended.
    fn has_ended(&self) -> bool {
        false
    }

    /// The connection of a remote host.
    #[cfg(feature = "remote")]
    fn remote_host(self: Arc<Self>) -> Option<Arc<RemoteHost>> {
        None
    }
}

/// What a look at a worker process found.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// For how many looks it has not answered a ping although it could have; 0 if it answers.
    pub(super) misses: u32,
    /// What keeps it from running.
    pub(super) stopped_by: Option<String>,
    /// Its resident memory; 0 where that is not limited.
    pub(super) resident_bytes: u64,
}

/// An attempt, as its worker is sent it.
pub(super) struct OutgoingAttempt<'a> {
    pub(super) call: CallId,
    pub(super) request: &'a Request,
    /// From 1.
    pub(super) number: u32,
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "the dispatcher sees to it in our own workers")
    )]
    pub(super) alone: bool,
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "the dispatcher sees to it in our own workers")
    )]
    pub(super) fresh: bool,
    /// Whether the worker is to say when the attempt begins.
    pub(super) tell_start: bool,
    /// Whether all slots of the worker are taken.
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "only remote hosts are given more")
    )]
    pub(super) is_ahead: bool,
}

/// Longest name of a task.
pub(super) const TASK_NAME_BYTES_MAX: usize = 256;

/// What a request asks for, as it travels.
fn target_of(request: &Request) -> wire::RunTarget<'_> {
    match &request.target {
        CallTarget::Task { name } => wire::RunTarget::Task(Cow::Borrowed(name)),
        CallTarget::Function { offset, .. } => wire::RunTarget::Function(*offset),
    }
}

/// What stands before the arguments of a call: in the space that is there, unless it carries a job,
/// whose texts are of any length.
fn written<'a>(meta: &impl Serialize, options: &CallOptions, space: &'a mut [u8]) -> Cow<'a, [u8]> {
    if options.job.is_some() {
        return Cow::Owned(postcard::to_stdvec(meta).expect("flat types of our own always encode"));
    }
    Cow::Borrowed(postcard::to_slice(meta, space).expect("task names are checked to be short"))
}

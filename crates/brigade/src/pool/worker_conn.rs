//! A worker as the dispatcher sees it: a process of ours ([`WorkerProcess`]), or a host that joined
//! (`RemoteHost`).
//!
//! What both have in common is here, and all that the dispatcher needs of either: to give it a
//! call, to ask it to stop one, to let it go. How each lives is its own: `process` tells of a process
//! from its start to its reaping, `remote_host` of a host from its handshake to its leave.

pub(super) mod process;
#[cfg(feature = "remote")]
pub(super) mod remote_host;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::core::Entry;
use crate::call::{CallOptions, Request, Target};
use crate::process::Output;
use crate::wire::{self, CallMeta, kind};

pub(super) use process::{SilenceCause, WorkerProcess};
#[cfg(all(feature = "remote", any(test, fuzzing)))]
pub(crate) use remote_host::read_host_message;
#[cfg(feature = "remote")]
pub(super) use remote_host::{HostMessage, RemoteHost, TaskFacts};

#[derive(Clone)]
pub(super) enum WorkerConn {
    Process(Arc<WorkerProcess>),
    #[cfg(feature = "remote")]
    Remote(Arc<RemoteHost>),
}

/// What a worker is told with a call.
#[derive(Clone, Copy)]
pub(super) struct Assignment {
    /// To say when the attempt begins.
    pub(super) tell_start: bool,
    /// All its slots are taken.
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "only hosts are given more")
    )]
    pub(super) ahead: bool,
}

/// Longest name of a task.
pub(super) const TASK_NAME_BYTES_MAX: usize = 256;
/// Its name and a few numbers.
const META_BYTES_MAX: usize = TASK_NAME_BYTES_MAX + 64;

impl WorkerConn {
    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Process(child) => child.epoch,
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.epoch,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Process(child) => child.pid(),
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.pid,
        }
    }

    /// The process, if it is one of ours.
    pub(super) fn child(&self) -> Option<&Arc<WorkerProcess>> {
        match self {
            Self::Process(child) => Some(child),
            #[cfg(feature = "remote")]
            Self::Remote(_) => None,
        }
    }

    /// As what a host proved itself.
    pub(super) fn identity(&self) -> Option<&str> {
        match self {
            Self::Process(_) => None,
            #[cfg(feature = "remote")]
            Self::Remote(host) => Some(&host.identity),
        }
    }

    #[cfg(feature = "remote")]
    pub(super) fn remote_host(&self) -> Option<&Arc<RemoteHost>> {
        match self {
            Self::Process(_) => None,
            Self::Remote(host) => Some(host),
        }
    }

    /// Whether a host has the task of a request and the labels that it asks for. What our own
    /// workers have is no matter of one of them.
    pub(super) fn can_run(&self, request: &Request) -> Option<bool> {
        let _ = request;
        match self {
            Self::Process(_) => None,
            #[cfg(feature = "remote")]
            Self::Remote(host) => Some(host.can_run(request)),
        }
    }

    /// Puts into a request what it does not say and the worker says of its task. What our own say
    /// is known before.
    pub(super) fn fill(&self, request: &mut Request) {
        let _ = &request;
        match self {
            Self::Process(_) => {}
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.fill(request),
        }
    }

    /// How far away it is: 0 for a process of ours, then more with each doubling of the time there
    /// and back.
    pub(super) fn distance(&self) -> u8 {
        match self {
            Self::Process(_) => 0,
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.distance(),
        }
    }

    /// The time there and back, of a host.
    pub(super) fn latency(&self) -> Option<Duration> {
        match self {
            Self::Process(_) => None,
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.latency(),
        }
    }

    /// Appends a call to what it is sent.
    pub(super) fn give(&self, call: u64, entry: &Entry, how: Assignment) {
        match self {
            Self::Process(child) => give_child(child, call, entry, how.tell_start),
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.give(call, entry, how.ahead),
        }
    }

    /// How many calls it may be given beyond its slots.
    pub(super) fn ahead(&self) -> u32 {
        match self {
            Self::Process(_) => 0,
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.ahead(),
        }
    }

    /// Whether it should get nothing more until it has read what it was sent.
    pub(super) fn is_congested(&self) -> bool {
        match self {
            // Bounded by its slots.
            Self::Process(_) => false,
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.outbox.is_congested(),
        }
    }

    /// Writes what was appended, now if that is possible.
    pub(super) fn flush(&self) {
        match self {
            Self::Process(child) => child.data.flush(),
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.outbox.kick(),
        }
    }

    /// Has what was appended written soon, together with what is appended until then.
    pub(super) fn kick(&self) {
        match self {
            Self::Process(child) => child.data.kick(),
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.outbox.kick(),
        }
    }

    /// Lets it go: it has nothing more to do.
    pub(super) fn let_go(&self) {
        match self {
            Self::Process(child) => child.retire.cancel(),
            #[cfg(feature = "remote")]
            Self::Remote(host) => host.leave.cancel(),
        }
    }

    /// Keeps what an attempt writes that is alone in it.
    pub(super) fn begin_capture(&self, bytes_max: usize) {
        if let Some(child) = self.child() {
            child.stdout.begin_capture(bytes_max);
            child.stderr.begin_capture(bytes_max);
        }
    }

    pub(super) fn end_capture(&self) -> Option<Output> {
        let child = self.child()?;
        Some(Output {
            stdout: child.stdout.end_capture(),
            stderr: child.stderr.end_capture(),
        })
    }

    /// The last that it wrote to its standard error, as far as that is known here.
    pub(super) fn stderr_tail(&self) -> String {
        self.child()
            .map(|child| child.stderr.tail())
            .unwrap_or_default()
    }

    /// The host it is on, if that is another one.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Process(_) => None,
            #[cfg(feature = "remote")]
            Self::Remote(host) => Some(&host.name),
        }
    }
}

/// What a request asks for, as it travels.
pub(super) fn target_of(request: &Request) -> wire::Target<'_> {
    match &request.target {
        Target::Task { name } => wire::Target::Task(Cow::Borrowed(name)),
        Target::Function { offset, .. } => wire::Target::Function(*offset),
    }
}

/// What stands before the arguments of a call: in the space that is there, unless it tells of a
/// job, too, whose texts are of any length.
pub(super) fn written<'a>(
    meta: &impl Serialize,
    options: &CallOptions,
    space: &'a mut [u8],
) -> Cow<'a, [u8]> {
    if options.job.is_some() {
        return Cow::Owned(postcard::to_stdvec(meta).expect("flat types of our own always encode"));
    }
    Cow::Borrowed(postcard::to_slice(meta, space).expect("task names are checked to be short"))
}

fn give_child(child: &WorkerProcess, call: u64, entry: &Entry, tell_start: bool) {
    let options = entry.request.options();
    let origin = options.origin;
    let meta = CallMeta {
        target: target_of(&entry.request),
        attempt: origin.map_or(entry.attempt, |origin| origin.attempt),
        codec: entry.request.codec,
        timeout: options.timeout,
        memory: options.memory,
        tell_start,
        tick: options.tick,
        number: origin.map(|origin| origin.call),
        job: options.job.as_deref().map(Cow::Borrowed),
    };
    let mut space = [0; META_BYTES_MAX];
    let meta = written(&meta, options, &mut space);
    let payload = entry
        .request
        .payload
        .as_ref()
        .expect("a call that could not be encoded is not admitted");
    child.data.append(kind::CALL, call, &meta, payload);
}

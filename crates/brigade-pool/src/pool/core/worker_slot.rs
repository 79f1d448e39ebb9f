//! The slot of a worker in the dispatcher: plain data, and questions that it answers alone.
//!
//! A slot belongs to one worker, a process of ours or a remote host. `workers`, `hosts` and
//! `scaling` move it from stage to stage, `attempts` changes what it runs, `choice` its rank. A
//! slot of a remote host also holds the host's state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::ids::{CallId, WorkerId};
use super::super::worker_conn::WorkerConn;
#[cfg(feature = "remote")]
use super::host_info::HostState;
use crate::request::Request;
use crate::sandbox::Sandbox;

/// A worker of the pool: a process of ours, or a remote host.
pub(super) struct WorkerSlot {
    pub(super) id: WorkerId,
    pub(super) since: Instant,
    pub(super) stage: WorkerStage,
    /// `None` while its process starts.
    conn: Option<Arc<dyn WorkerConn>>,
    /// Process id; 0 while its process starts.
    pub(super) pid: u32,
    /// Attempts that it may run at once.
    pub(super) capacity: u32,
    /// How it stands among those that can take one more attempt, while it can.
    pub(super) rank: Option<Rank>,
    /// What is known of it if it is a remote host.
    #[cfg(feature = "remote")]
    pub(super) host: Option<Box<HostState>>,
    /// What keeps its process from running, as found at the last look.
    pub(super) stopped_by: Option<String>,
    /// The sandbox that it has for the rest of its life, or was sent an attempt to take it on with.
    pub(super) sandbox: Option<Sandbox>,
    /// Calls whose attempts it runs.
    pub(super) running: Vec<CallId>,
    /// Whether the attempt that it was given last had limits that are held from outside.
    pub(super) is_limited: bool,
    /// The most that its process has been known to have resident.
    pub(super) memory_peak: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Attempts until it is replaced.
    pub(super) lives: Option<u64>,
    /// When it is replaced for its age.
    pub(super) retire_at: Option<Instant>,
    pub(super) idle_since: Instant,
    /// Notified when nothing but attempts that are being stopped is left.
    pub(super) when_alone: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerStage {
    Starting,
    Spare,
    Ready,
    Retiring,
    /// Its host is lost and its calls are being seen to, within one step.
    #[cfg(feature = "remote")]
    Lost,
}

impl WorkerSlot {
    pub(super) fn new(id: WorkerId, capacity: u32, now: Instant) -> Self {
        Self {
            id,
            since: now,
            stage: WorkerStage::Starting,
            conn: None,
            pid: 0,
            capacity,
            rank: None,
            #[cfg(feature = "remote")]
            host: None,
            stopped_by: None,
            sandbox: None,
            running: Vec::new(),
            is_limited: false,
            memory_peak: 0,
            done: 0,
            failed: 0,
            lives: None,
            retire_at: None,
            idle_since: now,
            when_alone: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, conn: Arc<dyn WorkerConn>, pid: u32) {
        (self.conn, self.pid) = (Some(conn), pid);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    #[track_caller]
    pub(super) fn conn(&self) -> &Arc<dyn WorkerConn> {
        self.conn
            .as_ref()
            .expect("invariant: a worker that is past its start has a connection")
    }

    pub(super) fn connected(&self) -> Option<&Arc<dyn WorkerConn>> {
        self.conn.as_ref()
    }

    /// How many attempts it runs.
    pub(super) fn load(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Whether it has run nothing yet, and may still take on any sandbox.
    pub(super) fn is_fresh(&self) -> bool {
        self.done + self.failed == 0 && self.running.is_empty() && self.sandbox.is_none()
    }

    /// Whether an attempt with this sandbox, or without one, may begin in it now. A worker takes a
    /// sandbox on while it runs nothing else. A remote host has workers of its own for each.
    pub(super) fn fits_sandbox(&self, sandbox: Option<&Sandbox>) -> bool {
        self.is_remote()
            || self.sandbox.as_ref() == sandbox
            || self.sandbox.is_none() && self.running.is_empty()
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

#[cfg(feature = "remote")]
impl WorkerSlot {
    pub(super) fn is_remote(&self) -> bool {
        self.host.is_some()
    }

    pub(super) fn is_away(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.away.is_some())
    }

    /// Whether a remote host has the task and the labels of a request; `None` for our own workers.
    pub(super) fn host_can_run(&self, request: &Request) -> Option<bool> {
        self.host.as_ref().map(|host| host.info.can_run(request))
    }

    /// How many calls it may be given beyond its slots.
    pub(super) fn ahead(&self) -> u32 {
        let host = self.host.as_ref();
        host.map_or(0, |host| host.pace.ahead(self.capacity))
    }

    /// How far away it is: 0 for a process of ours, then more with each doubling of the round trip.
    pub(super) fn distance(&self) -> u8 {
        self.host.as_ref().map_or(0, |host| host.pace.distance())
    }

    /// The round trip to a remote host.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.host.as_ref()?.pace.latency()
    }

    /// Name of the host it is on, if that is another one.
    pub(super) fn host_name(&self) -> Option<&str> {
        self.host.as_ref().map(|host| &*host.info.name)
    }

    /// As what a remote host proved itself.
    pub(super) fn identity(&self) -> Option<&str> {
        self.host.as_ref().map(|host| &*host.info.identity)
    }
}

#[cfg(not(feature = "remote"))]
#[expect(clippy::unused_self, reason = "as with remote hosts")]
impl WorkerSlot {
    pub(super) fn is_remote(&self) -> bool {
        false
    }

    pub(super) fn is_away(&self) -> bool {
        false
    }

    pub(super) fn host_can_run(&self, _request: &Request) -> Option<bool> {
        None
    }

    pub(super) fn ahead(&self) -> u32 {
        0
    }

    pub(super) fn distance(&self) -> u8 {
        0
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        None
    }

    pub(super) fn host_name(&self) -> Option<&str> {
        None
    }

    pub(super) fn identity(&self) -> Option<&str> {
        None
    }
}

/// Where a worker stands among those that can take one more attempt: the emptiest first, then the
/// nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// How much of its slots is taken, in parts of `LOAD_FULL`; more than that, if it is given
    /// calls ahead of their turn.
    pub(super) load: u32,
    pub(super) distance: u8,
    pub(super) worker: WorkerId,
}

//! The entry of a call in the dispatcher: plain data.
//!
//! An entry lives from the admission of its call to its end and is in one [`Phase`] at a time. The
//! files that change phases (`admission`, `waiting`, `dispatch`, `attempts`) also move the call
//! into or out of the queue and its worker.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::super::cell::Cell;
use super::super::deadlines::DueKey;
use super::super::ids::WorkerId;
use super::super::queue::QueuePosition;
use super::super::stop_reason::StopReason;
use super::attempt_span::StartedSpan;
use super::budget::CallMemory;
use crate::attempt_report::{Cost, LimitHit, MemoryHold, Step};
use crate::request::Request;

/// How often a call is given to a worker that dies before it reads it.
pub(super) const UNDELIVERED_MAX: u32 = 3;

/// A call that has not ended.
pub(in super::super) struct CallEntry {
    pub(super) generation: u32,
    pub(super) cell: Arc<Cell>,
    pub(in super::super) request: Request,
    pub(super) phase: Phase,
    /// Attempts that were begun.
    pub(super) attempt: u32,
    /// How often it was given to a worker, also where that did not count as an attempt.
    pub(super) starts: u32,
    pub(super) crashes: u32,
    /// Workers that died before they read it, and hosts that were lost with it.
    pub(super) undelivered: u32,
    /// Workers that passed it, and why.
    pub(super) passes: Vec<(WorkerId, String)>,
    /// Must run alone in its worker.
    pub(super) alone: bool,
    /// Must run in a worker that has run nothing before it.
    pub(super) fresh: bool,
    /// Whether its attempt's call was appended to its worker's channel.
    pub(super) is_sent: bool,
    /// Whether it holds a place of the queue.
    pub(super) has_place: bool,
    /// When it was made.
    pub(super) made: Instant,
    /// When it began to wait.
    pub(super) since: Instant,
    pub(super) timer: Option<DueKey>,
    pub(super) stop: Option<Box<OngoingStop>>,
    pub(super) progress: Option<(f64, String)>,
    /// The span of its attempt.
    pub(super) span: Option<StartedSpan>,
    /// Its part of the memory budget.
    pub(super) memory: CallMemory,
    /// What its attempt cost, if its worker measured that.
    pub(super) cost: Option<Cost>,
    /// What holds the memory limit of its attempt.
    pub(super) memory_hold: Option<MemoryHold>,
    /// A limit that its attempt met and that did not end it.
    pub(super) limit_met: Option<LimitHit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Just admitted: it waits nowhere and runs nowhere yet.
    New,
    Queued(QueuePosition),
    /// Waits outside of the queue: a worker passed it, or it needs a fresh worker.
    Aside,
    Delayed,
    Running {
        worker: WorkerId,
        /// Its place among the attempts of the worker.
        index: usize,
        since: Instant,
    },
}

/// A stop that is under way.
pub(super) struct OngoingStop {
    pub(super) reason: StopReason,
    /// The step that has been taken.
    pub(super) step: Step,
    /// Cancelled when the attempt has ended.
    pub(super) ended: CancellationToken,
    /// Cancelled when the softer steps are not waited for any more.
    pub(super) hurry: CancellationToken,
    pub(super) asked_at: Instant,
}

impl CallEntry {
    /// Which worker its attempt runs on.
    pub(super) fn runs_on(&self) -> Option<WorkerId> {
        match self.phase {
            Phase::Running { worker, .. } => Some(worker),
            _ => None,
        }
    }
}

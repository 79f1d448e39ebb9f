//! Calls: their entries in the dispatcher, how they are looked up, and how they are admitted.
//!
//! An entry lives from its admission to its end and is in one [`Phase`] at a time; a change
//! of phase also moves the call into or out of the queue. A call is admitted to a worker if one is
//! free and no call waits, otherwise to the queue if it has a place; its worker is chosen once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::cell::Cell;
use super::super::config::Neighbours;
use super::super::deadlines::DueKey;
use super::super::queue::QueuePosition;
use super::choice::Requirements;
use super::stops::OngoingStop;
use super::{CallId, Core, Effects, Stage, WorkerId};
use crate::call::Request;
use crate::error::Error;

/// A call that has not ended.
pub(in super::super) struct CallEntry {
    generation: u32,
    pub(super) cell: Arc<Cell>,
    pub(in super::super) request: Request,
    pub(super) phase: Phase,
    /// Attempts that were begun.
    pub(super) attempt: u32,
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

/// What became of a new call.
pub(in super::super) enum Admission {
    Admitted(CallId),
    /// The queue is full; here is the request back.
    Full(Request),
    Refused(Error),
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

impl Core {
    /// The entry of a call that an outside id names, if it has not ended.
    pub(super) fn find(&self, call: CallId) -> Option<&CallEntry> {
        let entry = self.calls.get(call.key())?;
        (entry.generation == call.generation()).then_some(entry)
    }

    pub(super) fn find_mut(&mut self, call: CallId) -> Option<&mut CallEntry> {
        let entry = self.calls.get_mut(call.key())?;
        (entry.generation == call.generation()).then_some(entry)
    }

    /// The entry of a call that the dispatcher itself holds.
    #[track_caller]
    pub(super) fn entry(&self, call: CallId) -> &CallEntry {
        self.find(call)
            .expect("invariant: a call that waits or runs has an entry")
    }

    #[track_caller]
    pub(super) fn entry_mut(&mut self, call: CallId) -> &mut CallEntry {
        self.find_mut(call)
            .expect("invariant: a call that waits or runs has an entry")
    }

    /// Every call that has not ended and of which this is true.
    pub(super) fn calls_where(&self, is_wanted: impl Fn(&CallEntry) -> bool) -> Vec<CallId> {
        self.calls
            .iter()
            .filter(|(_, entry)| is_wanted(entry))
            .map(|(key, entry)| CallId::new(entry.generation, key))
            .collect()
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// For how long a time of its own that a call is waited for has been over: its timeout, or that
    /// in the queue.
    pub(in super::super) fn overdue_by(&self, call: CallId) -> Duration {
        let timer = self.find(call).and_then(|entry| entry.timer);
        timer
            .map(|timer| self.now.saturating_duration_since(timer.at()))
            .unwrap_or_default()
    }

    /// Admits a call, if there is room for it to wait or a worker to run it now. A caller that
    /// waited for a place of the queue has one.
    pub(in super::super) fn admit(
        &mut self,
        request: Request,
        cell: &Arc<Cell>,
        has_place: bool,
        effects: &mut Effects,
    ) -> Admission {
        if self.stage != Stage::Open {
            return Admission::Refused(self.closed());
        }
        if let Some(error) = self.cannot_start() {
            return Admission::Refused(error);
        }
        let delay = request.options().delay;
        let alone = self.wants_to_be_alone(&request);
        let worker = if delay.is_none() && self.may_run_at_once(has_place) {
            self.pick(&Requirements {
                request: &request,
                alone,
                fresh: request.options().fresh,
                passes: &[],
            })
        } else {
            None
        };
        let mut has_place = has_place;
        if worker.is_none() && !has_place {
            match self.room.try_acquire() {
                Ok(place) => place.forget(),
                Err(_) => return Admission::Full(request),
            }
            has_place = true;
        }
        let call = self.insert(request, Arc::clone(cell), alone, has_place);
        match (worker, delay) {
            (Some(worker), _) => self.assign(call, worker, effects),
            (None, Some(delay)) => self.delay(call, delay),
            (None, None) => self.enqueue(call),
        }
        if worker.is_none() {
            self.settle(effects);
        }
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
        Admission::Admitted(call)
    }

    /// Whether no call waits that a new one would overtake.
    fn may_run_at_once(&self, has_place: bool) -> bool {
        // A call that runs may wait again, and would then owe one more place.
        self.queue.is_empty() && self.aside.is_empty() && (has_place || self.places_owed == 0)
    }

    fn insert(
        &mut self,
        request: Request,
        cell: Arc<Cell>,
        alone: bool,
        has_place: bool,
    ) -> CallId {
        self.generation = self.generation.wrapping_add(1);
        let fresh = request.options().fresh;
        let key = self.calls.insert(CallEntry {
            generation: self.generation,
            cell,
            request,
            phase: Phase::New,
            attempt: 0,
            crashes: 0,
            undelivered: 0,
            passes: Vec::new(),
            alone,
            fresh,
            is_sent: false,
            has_place,
            made: self.now,
            since: self.now,
            timer: None,
            stop: None,
            progress: None,
        });
        CallId::new(self.generation, key)
    }

    fn wants_to_be_alone(&self, request: &Request) -> bool {
        let options = request.options();
        let would_hurt = options.timeout.is_some() || options.memory.is_some();
        self.config.slots > 1
            && (options.alone
                || options.capture_bytes.is_some()
                || options.memory.is_some()
                || (would_hurt && self.config.neighbours == Neighbours::Spare))
    }
}

//! Admission of calls.
//!
//! A call is admitted to a worker if one is free and no call waits, otherwise to the queue if it
//! has a place; its worker is chosen once. `call_entry` has what the dispatcher keeps of it from
//! then on. Where the workers are another program, what a call leaves open is filled in here, once
//! that program has said it.

use std::sync::Arc;
use std::time::Duration;

use super::super::cell::Cell;
use super::super::config::Neighbours;
use super::super::ids::CallId;
use super::super::program_tasks::ProgramTasks;
use super::budget::CallMemory;
use super::call_entry::{CallEntry, Phase};
use super::choice::Requirements;
use super::effects::{Effects, EndDetails};
use super::{Core, Stage};
use crate::error::Error;
use crate::request::Request;

/// What became of a new call.
pub(in super::super) enum Admission {
    Admitted(CallId),
    /// The queue is full; here is the request back.
    Full(Request),
    Refused(Error),
}

impl Core {
    /// Takes what the program of the workers says of its tasks. Calls that wait are given it now,
    /// later ones when they are admitted.
    pub(in super::super) fn on_program_tasks(
        &mut self,
        tasks: ProgramTasks,
        effects: &mut Effects,
    ) {
        if self.program_tasks == tasks {
            return;
        }
        for call in self.calls_where(|entry| entry.runs_on().is_none()) {
            tasks.fill(&mut self.entry_mut(call).request);
            let request = &self.entry(call).request;
            if let Err(error) = self.config.check_call(request) {
                self.end(call, Err(error.into()), EndDetails::default(), effects);
                continue;
            }
            let alone = self.wants_to_be_alone(request);
            self.entry_mut(call).alone |= alone;
            self.wait_by_options(call);
        }
        self.program_tasks = tasks;
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
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
        mut request: Request,
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
        self.program_tasks.fill(&mut request);
        if let Err(error) = self.config.check_call(&request) {
            return Admission::Refused(error);
        }
        let delay = request.options().delay;
        let alone = self.wants_to_be_alone(&request);
        let worker = if delay.is_none() && self.may_run_at_once(has_place) {
            self.pick(&Requirements {
                request: &request,
                alone,
                fresh: request.attempt_of().fresh,
                has_memory: self.has_memory_for(&request),
                sandbox: self.sandbox_of(&request),
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
        // Never 0, so that no id is 0 in frames.
        self.generation = self.generation.wrapping_add(1).max(1);
        let fresh = request.attempt_of().fresh;
        let key = self.calls.insert(CallEntry {
            generation: self.generation,
            cell,
            request,
            phase: Phase::New,
            attempt: 0,
            starts: 0,
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
            span: None,
            memory: CallMemory::default(),
            cost: None,
            memory_hold: None,
            limit_met: None,
        });
        CallId::new(self.generation, key)
    }

    fn wants_to_be_alone(&self, request: &Request) -> bool {
        let options = request.options();
        let defaults = options.default_limits.or(self.config.limits);
        let has_limits = !options.limits().or(defaults).is_empty();
        let would_hurt = options.timeout.is_some() || has_limits;
        self.config.slots > 1
            && (options.alone
                || options.capture_bytes.is_some()
                || has_limits
                || (would_hurt && self.config.neighbours == Neighbours::Spare))
    }
}

//! Calls that wait: in the queue, set aside, or delayed; and the end of every call.
//!
//! Each waiting call holds a place of the queue; one that ran before may owe it. A call leaves
//! where it waits by `leave_queue`, which also takes its timer back. `end` is the only way out of
//! the dispatcher.

use std::sync::Arc;
use std::time::Duration;

use super::super::cell::EncodedOutcome;
use super::super::deadlines::{DueEvent, after};
use super::super::ids::CallId;
use super::call_entry::Phase;
use super::effects::{CallEnd, Effects, EndDetails};
use super::{Core, Stage};
use crate::event::Event;
use crate::outcome::{CallError, TimedOut};

impl Core {
    /// Lets a call wait for its turn.
    pub(super) fn enqueue(&mut self, call: CallId) {
        if self.must_wait_aside(call) {
            return self.set_aside(call);
        }
        let (lane, priority) = (self.lane_of(call), self.priority(call));
        let position = self.queue.push(lane, priority, call);
        self.entry_mut(call).phase = Phase::Queued(position);
        self.arm_queue_timeout(call);
        self.emit_queued(call);
    }

    /// Puts a call back where it was, before all others of its priority.
    pub(super) fn requeue(&mut self, call: CallId) {
        self.take_place(call);
        if self.must_wait_aside(call) {
            return self.set_aside(call);
        }
        let (lane, priority) = (self.lane_of(call), self.priority(call));
        let position = self.queue.push_front(lane, priority, call);
        let now = self.now;
        let entry = self.entry_mut(call);
        entry.since = now;
        entry.phase = Phase::Queued(position);
        self.arm_queue_timeout(call);
        self.emit_queued(call);
    }

    /// Has a call wait as its options say now, which were filled in since it began to: at the same
    /// place among the calls of its priority.
    pub(super) fn wait_by_options(&mut self, call: CallId) {
        match self.entry(call).phase {
            Phase::Queued(position) => {
                let (lane, priority) = (self.lane_of(call), self.priority(call));
                let position = self.queue.change(position, lane, priority);
                self.entry_mut(call).phase = Phase::Queued(position);
            }
            Phase::Aside => {}
            // Its timer is that of its delay.
            Phase::Delayed | Phase::New | Phase::Running { .. } => return,
        }
        self.cancel_timer(call);
        self.arm_queue_timeout(call);
    }

    /// Whether a call waits for a worker that may have to be started first, or for another one than
    /// those that passed it: no other call waits behind it for that. Where there is no other worker
    /// the passes count no more.
    fn must_wait_aside(&mut self, call: CallId) -> bool {
        let entry = self.entry(call);
        if entry.fresh || !entry.passes.is_empty() && self.others_may_take(call) {
            return true;
        }
        self.entry_mut(call).passes.clear();
        false
    }

    pub(super) fn set_aside(&mut self, call: CallId) {
        self.take_place(call);
        let now = self.now;
        let entry = self.entry_mut(call);
        entry.phase = Phase::Aside;
        entry.since = now;
        self.aside.push_back(call);
        self.arm_queue_timeout(call);
    }

    pub(super) fn delay(&mut self, call: CallId, delay: Duration) {
        self.take_place(call);
        let key = self
            .deadlines
            .insert(after(self.now, delay), DueEvent::Delay(call));
        let entry = self.entry_mut(call);
        entry.phase = Phase::Delayed;
        entry.timer = Some(key);
        self.delayed += 1;
    }

    pub(super) fn on_delay_over(&mut self, call: CallId, effects: &mut Effects) {
        let now = self.now;
        let entry = self.entry_mut(call);
        entry.timer = None;
        entry.since = now;
        self.delayed -= 1;
        self.enqueue(call);
        effects.changed = true;
    }

    pub(super) fn on_queue_timeout(&mut self, call: CallId, effects: &mut Effects) {
        let entry = self.entry_mut(call);
        entry.timer = None;
        assert!(
            entry.runs_on().is_none(),
            "invariant: the queue timeout of a call ends with its wait"
        );
        let waited = entry.request.options().queue_timeout.unwrap_or_default();
        let error = CallError::TimedOut(TimedOut::Queue(waited));
        self.end(call, Err(error), EndDetails::default(), effects);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.aside.len() + self.delayed
    }

    fn priority(&self, call: CallId) -> i32 {
        self.entry(call).request.options().priority.unwrap_or(0)
    }

    fn arm_queue_timeout(&mut self, call: CallId) {
        let entry = self.entry(call);
        if let Some(timeout) = entry.request.options().queue_timeout {
            let at = after(entry.since, timeout);
            let key = self.deadlines.insert(at, DueEvent::QueueTimeout(call));
            self.entry_mut(call).timer = Some(key);
        }
    }

    pub(super) fn cancel_timer(&mut self, call: CallId) {
        if let Some(timer) = self.entry_mut(call).timer.take() {
            self.deadlines.remove(timer);
        }
    }

    /// Has a call that waits again take a place of the queue, as it gave its own up when it began
    /// to run. Where none is free it owes one: the queue may exceed its limit by the number of
    /// calls that workers were holding, and no new call is admitted before that is paid.
    fn take_place(&mut self, call: CallId) {
        if std::mem::replace(&mut self.entry_mut(call).has_place, true) {
            return;
        }
        match self.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(_) => self.places_owed += 1,
        }
    }

    /// Takes a call out of wherever it waits.
    pub(super) fn leave_queue(&mut self, call: CallId, effects: &mut Effects) {
        self.cancel_timer(call);
        let entry = self.entry_mut(call);
        let phase = entry.phase;
        if std::mem::take(&mut entry.has_place) {
            match self.places_owed.checked_sub(1) {
                Some(left) => self.places_owed = left,
                None => effects.room += 1,
            }
        }
        match phase {
            Phase::Queued(position) => {
                self.queue.remove(position);
            }
            Phase::Aside => self.aside.retain(|aside| *aside != call),
            Phase::Delayed => self.delayed -= 1,
            Phase::New | Phase::Running { .. } => {}
        }
    }

    // -- the end

    /// Ends a call: the only way out.
    pub(super) fn end(
        &mut self,
        call: CallId,
        outcome: EncodedOutcome,
        details: EndDetails,
        effects: &mut Effects,
    ) {
        self.leave_queue(call, effects);
        let name = outcome.as_ref().map_or_else(CallError::outcome, |_| "done");
        let attempts = self.entry(call).attempt;
        let report = outcome.as_ref().err().and_then(CallError::report);
        let cost = report
            .map(|report| report.cost)
            .or_else(|| details.attempt.as_ref().map(|attempt| attempt.cost));
        self.emit_call(call, |call, task, label| Event::CallEnded {
            call,
            task,
            label,
            outcome: name,
            attempts,
            cost,
        });
        self.release_span(call, effects);
        effects.note_span_error(call, outcome.as_ref().err(), &details);
        let mut entry = self.calls.remove(call.key());
        if let Some(caller) = entry.request.caller.take() {
            effects.drop_span(call, *caller);
        }
        if outcome.is_ok() {
            self.counters.done += 1;
        } else {
            self.counters.failed += 1;
        }
        effects.changed |= self.stage != Stage::Open;
        effects.ends.push(CallEnd {
            cell: entry.cell,
            outcome,
            details,
        });
    }

    // -- events of calls

    fn emit_queued(&self, call: CallId) {
        self.emit_call(call, |call, task, label| Event::CallQueued {
            call,
            task,
            label,
        });
    }

    pub(super) fn emit_call(
        &self,
        call: CallId,
        event: impl FnOnce(u64, Arc<str>, Option<Arc<str>>) -> Event,
    ) {
        self.emit(|| {
            let request = &self.entry(call).request;
            let label = request.options().label.as_deref().map(Into::into);
            event(call.number(), request.task_name().into(), label)
        });
    }
}

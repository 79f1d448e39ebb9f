//! Stops: what becomes of a call that its caller, a clock or a limit wants to end.
//!
//! A call that waits ends at once. One that runs is marked, and an order to stop its attempt comes
//! out, which the shell carries out step by step (`pool::stop`); the dispatcher notes each step
//! before it is taken. The call ends when its worker answers or dies.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::call_entry::{OngoingStop, Phase};
use super::effects::{Effects, EndDetails, StopOrder};
use super::{Core, Stage};
use crate::attempt_report::{LimitHit, Step};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled};

impl Core {
    /// Stops a call because its caller wants that; calls that waited behind it may go on.
    pub(in super::super) fn cancel(&mut self, call: CallId, reason: String, effects: &mut Effects) {
        self.stop(call, StopReason::Cancel(reason), effects);
        self.settle(effects);
    }

    /// Stops a call wherever it is. If it runs, an order to stop its attempt comes out.
    pub(in super::super) fn stop(
        &mut self,
        call: CallId,
        reason: StopReason,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.find(call) else {
            return;
        };
        let Phase::Running { worker, .. } = entry.phase else {
            return self.stop_waiting(call, reason, effects);
        };
        if let Some(stop) = &entry.stop {
            let is_harder = matches!(reason, StopReason::Cancel(_) | StopReason::Shutdown);
            if stop.reason == StopReason::Budget && is_harder {
                // It must not run again.
                self.change_stop(call, reason);
            }
            return;
        }
        let slot = self.worker(worker);
        #[cfg(feature = "remote")]
        if reason == StopReason::Shutdown && slot.is_away() {
            // Its host cannot be asked, and the pool ends before it may come back.
            return self.lose(call, "the pool was shut down while it was away", effects);
        }
        let conn = Arc::clone(slot.conn());
        let (ended, hurry) = (CancellationToken::new(), CancellationToken::new());
        let stop = OngoingStop {
            reason: reason.clone(),
            step: Step::Asked,
            ended: ended.clone(),
            hurry: hurry.clone(),
            asked_at: self.now,
        };
        self.entry_mut(call).stop = Some(Box::new(stop));
        let start = self.entry(call).starts;
        effects.stops.push(StopOrder {
            call,
            start,
            reason,
            conn,
            ended,
            hurry,
        });
    }

    /// Has a stop that is under way end its call for another reason.
    fn change_stop(&mut self, call: CallId, reason: StopReason) {
        let now = self.now;
        if let Some(stop) = &mut self.entry_mut(call).stop {
            (stop.reason, stop.asked_at) = (reason, now);
        }
    }

    /// An attempt went over a limit. `false` if it has ended.
    pub(in super::super) fn on_over_limit(
        &mut self,
        (call, worker): (CallId, WorkerId),
        hit: LimitHit,
        effects: &mut Effects,
    ) -> bool {
        if !self.runs_on(call, worker) {
            return false;
        }
        if self.entry(call).stop.is_some() {
            // It is asked to stop already, and there is no time for that.
            self.hurry(call);
        } else {
            self.stop(call, StopReason::Limit(hit), effects);
        }
        true
    }

    /// Takes a limit that an attempt met, before its answer: it ends the attempt, or is noted for
    /// its report.
    pub(in super::super) fn on_limit_met(
        &mut self,
        attempt: (CallId, WorkerId),
        hit: LimitHit,
        effects: &mut Effects,
    ) {
        if matches!(hit, LimitHit::Memory { .. }) {
            self.on_over_limit(attempt, hit, effects);
        } else if self.runs_on(attempt.0, attempt.1) {
            self.entry_mut(attempt.0).limit_met = Some(hit);
        }
    }

    /// Ends a call that waits.
    fn stop_waiting(&mut self, call: CallId, reason: StopReason, effects: &mut Effects) {
        let error = match reason {
            StopReason::Cancel(reason) => CallError::Cancelled(Cancelled::new(reason, None)),
            StopReason::Shutdown => CallError::Rejected(Error::new(
                ErrorKind::Closed,
                "run a call: the pool was shut down before its turn",
            )),
            // Its attempt ended in the meantime.
            StopReason::Timeout
            | StopReason::Limit(_)
            | StopReason::Budget
            | StopReason::BudgetAlone => return,
        };
        let details = EndDetails {
            stopped: Some((Step::NotStarted, Duration::ZERO)),
            ..EndDetails::default()
        };
        self.end(call, Err(error), details, effects);
    }

    /// Makes a stop that is under way take its last step at once.
    pub(in super::super) fn hurry(&mut self, call: CallId) {
        if let Some(stop) = self.find(call).and_then(|entry| entry.stop.as_ref()) {
            stop.hurry.cancel();
        }
    }

    /// Notes that a harder step is being taken. `false` if the attempt has ended.
    pub(in super::super) fn take_step(&mut self, call: CallId, start: u32, step: Step) -> bool {
        let entry = self.find_mut(call).filter(|entry| entry.starts == start);
        let stop = entry.and_then(|entry| entry.stop.as_mut());
        stop.map(|stop| stop.step = step).is_some()
    }

    /// Stops every call.
    pub(in super::super) fn stop_all(&mut self, effects: &mut Effects) {
        for call in self.calls_where(|_| true) {
            self.stop(call, StopReason::Shutdown, effects);
        }
    }

    /// Stops the calls that wait; returns how many.
    pub(in super::super) fn cancel_waiting(
        &mut self,
        reason: &str,
        effects: &mut Effects,
    ) -> usize {
        let calls = self.calls_where(|entry| entry.runs_on().is_none());
        for call in &calls {
            self.stop(*call, StopReason::Cancel(reason.to_owned()), effects);
        }
        self.settle(effects);
        calls.len()
    }

    /// Ends every call at once, because nothing of the pool will run any more.
    pub(in super::super) fn give_up(&mut self, error: &Error, effects: &mut Effects) {
        self.stage = Stage::Closed;
        self.has_runtime = false;
        for call in self.calls_where(|_| true) {
            let error = Error::new(error.kind(), error.to_string());
            let error = Err(CallError::Rejected(error));
            self.end(call, error, EndDetails::default(), effects);
        }
        for worker in self.connected_workers() {
            self.expect_no_more(worker);
        }
        // Their processes are ended and reaped when the last owner drops them.
        let workers = self.workers.iter().flatten();
        let conns = workers.filter_map(|slot| slot.connected().cloned());
        effects.dropped.extend(conns);
        self.workers.clear();
        self.free.clear();
        self.counts_are_stale();
        effects.changed = true;
    }

    /// Why no call is admitted any more.
    pub(in super::super) fn closed(&self) -> Error {
        if self.has_runtime {
            Error::new(ErrorKind::Closed, "call a pool that was shut down")
        } else {
            Self::runtime_ended()
        }
    }
}

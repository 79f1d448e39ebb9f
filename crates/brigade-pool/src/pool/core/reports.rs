//! Reports of attempts, as far as the dispatcher knows what they say.

use std::time::{Duration, Instant};

use super::super::answered::AnsweredAttempt;
use super::super::ids::CallId;
use super::super::stop_reason::StopReason;
use super::Core;
use super::call_entry::{OngoingStop, Phase};
use super::effects::EndDetails;
use crate::attempt_report::{AttemptOutcome, AttemptReport, Cost, LimitHit};
use crate::outcome::{CallError, Cancelled, TimedOut};

impl Core {
    /// How long an attempt has run.
    pub(super) fn wall(&self, call: CallId) -> Duration {
        match self.entry(call).phase {
            Phase::Running { since, .. } => self.now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// What is kept of an attempt that runs and was answered just now.
    pub(super) fn answered(&self, call: CallId, has_failed: bool) -> AnsweredAttempt {
        let entry = self.entry(call);
        let Phase::Running { worker, .. } = entry.phase else {
            unreachable!("invariant: only an attempt that runs is answered")
        };
        let slot = self.worker(worker);
        AnsweredAttempt {
            worker: worker.number,
            pid: slot.pid,
            host: slot.host_name().map(str::to_owned),
            target: entry.request.target.clone(),
            call: call.number(),
            number: entry.request.attempt(entry.attempt),
            has_failed,
            cost: entry.cost.unwrap_or_else(|| {
                let wall = self.wall(call);
                // A process of ours would have measured a longer one.
                Cost::of_wall(if slot.is_remote() {
                    wall
                } else {
                    wall.min(Cost::MEASURED_FROM)
                })
            }),
            progress: entry.progress.clone(),
            limit: entry.limit_met.filter(|_| has_failed),
            memory_hold: entry.memory_hold,
        }
    }

    /// The report of an attempt that runs and has just ended. What the worker wrote to its standard
    /// error is added outside of the lock.
    pub(super) fn report(&self, call: CallId, ended: AttemptOutcome) -> Box<AttemptReport> {
        let entry = self.entry(call);
        let Phase::Running { worker, .. } = entry.phase else {
            unreachable!("invariant: only an attempt that runs is reported")
        };
        let slot = self.worker(worker);
        let attempt = entry.request.attempt(entry.attempt);
        let mut report = AttemptReport::new(entry.request.task_name(), attempt, ended);
        (report.worker, report.pid) = (worker.number, slot.pid);
        report.host = slot.host_name().map(str::to_owned);
        report.call = call.number();
        report.cost = entry.cost.unwrap_or_default();
        report.cost.wall = self.wall(call);
        report.progress = entry.progress.clone();
        report.limit = entry.limit_met;
        report.memory_hold = entry.memory_hold;
        Box::new(report)
    }

    /// The report of an attempt that runs and was stopped for this reason.
    pub(super) fn stopped_report(&self, call: CallId, reason: &StopReason) -> Box<AttemptReport> {
        let outcome = reason.outcome(self.entry(call).memory_hold);
        let mut report = self.report(call, outcome);
        report.limit = reason.limit();
        report
    }
}

/// The outcome of an attempt that was stopped. Notifies the stop that the attempt has ended.
pub(super) fn stopped(
    stop: OngoingStop,
    mut report: Box<AttemptReport>,
    now: Instant,
) -> (CallError, EndDetails) {
    stop.ended.cancel();
    report.step = Some(stop.step);
    let details = EndDetails {
        stopped: Some((stop.step, now.saturating_duration_since(stop.asked_at))),
        ..EndDetails::default()
    };
    let cancelled = |reason, report| CallError::Cancelled(Cancelled::new(reason, Some(report)));
    let error = match stop.reason {
        StopReason::Timeout => CallError::TimedOut(TimedOut::Run(report)),
        StopReason::Cancel(reason) => cancelled(reason, report),
        StopReason::Shutdown => cancelled("the pool was shut down".to_owned(), report),
        StopReason::Limit(LimitHit::Cpu { .. }) => CallError::TimedOut(TimedOut::Cpu(report)),
        StopReason::Limit(_) | StopReason::BudgetAlone => CallError::Crashed(report),
        StopReason::Budget => {
            unreachable!("invariant: a call that the budget interrupts waits again")
        }
    };
    (error, details)
}

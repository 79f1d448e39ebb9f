//! Reports of attempts, as far as the dispatcher knows what they say.

use std::time::{Duration, Instant};

use super::effects::EndDetails;
use super::stops::OngoingStop;
use super::{CallId, Core, Phase, StopReason};
use crate::attempt_report::{AttemptOutcome, AttemptReport, Cost, MemoryLimit};
use crate::outcome::{CallError, Cancelled, TimedOut};

impl Core {
    /// How long an attempt has run.
    pub(super) fn wall(&self, call: CallId) -> Duration {
        match self.entry(call).phase {
            Phase::Running { since, .. } => self.now.saturating_duration_since(since),
            _ => Duration::ZERO,
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
        let cost = Cost {
            wall: self.wall(call),
            ..Cost::default()
        };
        Box::new(AttemptReport {
            worker: worker.number,
            pid: slot.pid,
            host: slot.host_name().map(str::to_owned),
            thread: None,
            task: entry.request.task_name().to_owned(),
            call: call.number(),
            attempt: entry.request.attempt(entry.attempt),
            ended,
            exit: None,
            step: None,
            cost,
            progress: entry.progress.clone(),
            stderr: String::new(),
            stopped_by: None,
        })
    }
}

/// How an attempt ended that was stopped for this reason.
pub(super) fn ended_by(reason: &StopReason) -> AttemptOutcome {
    match reason {
        StopReason::Timeout => AttemptOutcome::TimedOut,
        StopReason::Cancel(_) => AttemptOutcome::Cancelled,
        StopReason::Memory => AttemptOutcome::OutOfMemory(MemoryLimit::Resident),
        StopReason::Shutdown => AttemptOutcome::Shutdown,
    }
}

/// The report that an outcome carries.
pub(super) fn report_mut(error: &mut CallError) -> Option<&mut AttemptReport> {
    match error {
        CallError::Panicked(report) | CallError::Crashed(report) | CallError::Lost(report) => {
            Some(report)
        }
        CallError::TimedOut(TimedOut::Run(report)) => Some(report),
        CallError::Cancelled(cancelled) => cancelled.report.as_deref_mut(),
        CallError::Failed(_)
        | CallError::Passed(_)
        | CallError::Rejected(_)
        | CallError::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) => None,
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
    let cancelled = |reason, report| {
        CallError::Cancelled(Cancelled {
            reason,
            report: Some(report),
        })
    };
    let error = match stop.reason {
        StopReason::Timeout => CallError::TimedOut(TimedOut::Run(report)),
        StopReason::Cancel(reason) => cancelled(reason, report),
        StopReason::Shutdown => cancelled("the pool was shut down".to_owned(), report),
        StopReason::Memory => CallError::Crashed(report),
    };
    (error, details)
}

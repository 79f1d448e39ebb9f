//! What remote hosts say of their attempts.
//!
//! A host is a pool itself: it looks after time, memory and stops, and its answer brings the report
//! of the attempt. What this pool knows better, the ids, is put in here. An answer counts only from
//! the session that the call was given to.

use bytes::Bytes;

use super::super::ids::{CallId, WorkerId};
use super::super::worker_conn::remote_host::message::HostMessage;
use super::Core;
use super::call_entry::OngoingStop;
use super::effects::{Effects, EndDetails};
use super::reports::stopped;
use crate::attempt_report::{AttemptOutcome, AttemptReport, Cost, Step};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, RetryAdvice, TimedOut};
use crate::output::Output;
use crate::policy::ChargedEnd;
use crate::wire::remote::{RefusalKind, RemoteOutcome};
use brigade_core::span::AttemptEnd;

impl Core {
    /// Takes what a host says. Returns whether it was an answer, which the host may forget then.
    ///
    /// # Errors
    ///
    /// `Protocol` if it answers what it was not asked; the host must go.
    pub(in super::super) fn on_host_message(
        &mut self,
        worker: WorkerId,
        call: CallId,
        message: HostMessage,
        effects: &mut Effects,
    ) -> Result<bool, Error> {
        if !self.has_worker(worker) {
            return Ok(false);
        }
        let runs_here = self.runs_on(call, worker);
        match message {
            // Progress may have been on its way when its call was given up.
            HostMessage::Progress(_) if !runs_here => {}
            HostMessage::Progress(update) => self.on_progress(call, &update, effects),
            HostMessage::Leaving => self.retire(worker, "its host leaves", effects),
            HostMessage::Answer { .. } if !runs_here => {
                let id = call.to_wire();
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("it answered call {id}, which it does not run"),
                ));
            }
            HostMessage::Answer {
                ending,
                output,
                cost,
                result,
            } => {
                let details = self.details_there(call, &ending, output, cost);
                self.on_host_answer(worker, call, (ending, details, result), effects);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn on_host_answer(
        &mut self,
        worker: WorkerId,
        call: CallId,
        (ending, mut details, result): (RemoteOutcome, EndDetails, Bytes),
        effects: &mut Effects,
    ) {
        self.note_host_answer(worker, call, &ending);
        self.cancel_timer(call);
        if let Some(stop) = self.entry_mut(call).stop.take() {
            return self.on_stopped_there(call, *stop, ending, details, effects);
        }
        let ending = ending
            .map_report(|report| complete(&self.report(call, AttemptOutcome::Unknown), report));
        let may_run_twice =
            matches!(ending, RemoteOutcome::Stopped { .. }) && self.may_run_twice(call);
        self.vacate(call, effects);
        match ending {
            RemoteOutcome::Done => self.end(call, Ok(result), details, effects),
            RemoteOutcome::Failed(failure) => self.on_failed(call, failure, details, effects),
            RemoteOutcome::Panicked(report)
            | RemoteOutcome::Crashed(report)
            | RemoteOutcome::Lost(report) => {
                self.on_died_there(call, report, details, effects);
            }
            RemoteOutcome::TimedOut(report) => {
                details.stopped = Some((report.step.unwrap_or(Step::Asked), report.cost.wall));
                let error = CallError::TimedOut(TimedOut::of_report(report));
                self.end(call, Err(error), details, effects);
            }
            RemoteOutcome::Passed(reasons) => self.on_passed(call, worker, reasons, effects),
            RemoteOutcome::Stopped {
                report: Some(mut report),
                ..
            } if !may_run_twice => {
                // This pool did not ask for that: the host had to, because it ends.
                report.ended = AttemptOutcome::HostLost("its host stopped it".to_owned());
                let error = Err(CallError::Lost(report));
                self.end(call, error, EndDetails::default(), effects);
            }
            RemoteOutcome::Returned | RemoteOutcome::Stopped { .. } => {
                effects.note_span_end(call, || AttemptEnd::given_back("returned"));
                self.entry_mut(call).attempt -= 1;
                self.requeue(call);
            }
            RemoteOutcome::Refused { why, text } => {
                let error = Error::new(why.kind(), text);
                self.end(call, Err(error.into()), details, effects);
            }
        }
    }

    /// What comes with the outcome of an attempt that a host has answered.
    fn details_there(
        &mut self,
        call: CallId,
        ending: &RemoteOutcome,
        output: Option<Output>,
        cost: Option<(u32, Cost)>,
    ) -> EndDetails {
        self.entry_mut(call).cost = cost.map(|(_, cost)| cost);
        let has_failed = match ending {
            RemoteOutcome::Done => Some(false),
            RemoteOutcome::Failed(_) => Some(true),
            _ => None,
        };
        let mut attempt = has_failed.map(|has_failed| self.answered(call, has_failed));
        if let (Some(attempt), Some((pid, _))) = (&mut attempt, cost) {
            attempt.pid = pid;
        }
        EndDetails {
            output,
            attempt,
            ..EndDetails::default()
        }
    }

    fn note_host_answer(&mut self, worker: WorkerId, call: CallId, ending: &RemoteOutcome) {
        let wall = self.wall(call);
        let slot = self.worker_mut(worker);
        match ending {
            RemoteOutcome::Done => slot.done += 1,
            RemoteOutcome::Returned => {}
            _ => slot.failed += 1,
        }
        let pace = &mut self.host_mut(worker).pace;
        match ending {
            RemoteOutcome::Returned => pace.note_return(),
            _ => pace.note_answer(wall),
        }
    }

    /// An attempt ended that this pool wanted stopped.
    fn on_stopped_there(
        &mut self,
        call: CallId,
        mut stop: OngoingStop,
        ending: RemoteOutcome,
        details: EndDetails,
        effects: &mut Effects,
    ) {
        let own = self.stopped_report(call, &stop.reason);
        self.vacate(call, effects);
        let (report, step) = ending.stopped();
        stop.step = stop.step.max(step.unwrap_or(stop.step));
        let report = match report {
            Some(report) => {
                let mut report = complete(&own, report);
                report.ended = own.ended.clone();
                report
            }
            None => own,
        };
        let (error, stopped) = stopped(stop, report, self.now);
        let details = EndDetails {
            stopped: stopped.stopped,
            ..details
        };
        self.end(call, Err(error), details, effects);
    }

    fn on_died_there(
        &mut self,
        call: CallId,
        report: Box<AttemptReport>,
        details: EndDetails,
        effects: &mut Effects,
    ) {
        let error = CallError::from_report(report);
        // A panic that unwound has left its process whole.
        let is_crash = !matches!(error, CallError::Lost(_))
            && error.report().is_some_and(|report| report.exit.is_some());
        let end = if is_crash {
            let entry = self.entry_mut(call);
            (entry.alone, entry.fresh) = (true, true);
            ChargedEnd::Crashed
        } else {
            ChargedEnd::Failed(RetryAdvice::Policy)
        };
        self.retry_or_end(call, error, end, details, effects);
    }
}

/// What a host says of an attempt, with what this pool knows better.
fn complete(own: &AttemptReport, mut report: Box<AttemptReport>) -> Box<AttemptReport> {
    report.worker = own.worker;
    report.host.clone_from(&own.host);
    report.call = own.call;
    report.attempt = own.attempt;
    report.task.clone_from(&own.task);
    if report.progress.is_none() {
        report.progress.clone_from(&own.progress);
    }
    report
}

impl RemoteOutcome {
    /// The same, with its report changed, if it has one.
    fn map_report(self, change: impl FnOnce(Box<AttemptReport>) -> Box<AttemptReport>) -> Self {
        match self {
            Self::Panicked(report) => Self::Panicked(change(report)),
            Self::Crashed(report) => Self::Crashed(change(report)),
            Self::TimedOut(report) => Self::TimedOut(change(report)),
            Self::Lost(report) => Self::Lost(change(report)),
            Self::Stopped { report, step } => Self::Stopped {
                report: report.map(change),
                step,
            },
            other => other,
        }
    }

    /// What an ending says of an attempt that was stopped: its report, and which step did it.
    fn stopped(self) -> (Option<Box<AttemptReport>>, Option<Step>) {
        match self {
            Self::Stopped { report, step } => (report, Some(step)),
            Self::Returned => (None, Some(Step::NotStarted)),
            Self::Panicked(report)
            | Self::Crashed(report)
            | Self::TimedOut(report)
            | Self::Lost(report) => {
                let step = report.step;
                (Some(report), step)
            }
            Self::Done | Self::Failed(_) | Self::Passed(_) | Self::Refused { .. } => (None, None),
        }
    }
}

impl RefusalKind {
    fn kind(self) -> ErrorKind {
        match self {
            Self::UnknownTask => ErrorKind::UnknownTask,
            Self::BadArguments => ErrorKind::BadArguments,
            Self::OtherBuild => ErrorKind::OtherBuild,
            Self::Encode => ErrorKind::Encode,
            Self::TooLarge => ErrorKind::TooLarge,
            Self::Other => ErrorKind::Unsupported,
        }
    }
}

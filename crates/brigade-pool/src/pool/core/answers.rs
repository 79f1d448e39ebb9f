//! What worker processes say of their attempts, and what becomes of a call then: it ends, waits
//! for another worker, or is tried again later.
//!
//! An answer is taken only from the worker that runs the call, so it counts once. The attempt is
//! taken off its worker before its call goes on. A passed call is not given to the same worker
//! again while another one may take it.

use std::sync::Arc;

use bytes::Bytes;

use super::super::deadlines::after;
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::call_entry::OngoingStop;
use super::effects::{Effects, EndDetails};
use super::reports::stopped;
use super::{Core, Stage};
use crate::attempt_report::{AttemptOutcome, Cost};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Failure, RetryAdvice};
use crate::output::Output;
use crate::policy::{Charged, ChargedEnd, RetryDecision, RetryRule};
use crate::progress::{PROGRESS_BYTES_MAX, Progress};
use crate::refused::Refused;
use crate::wire::{Frame, PanicNote, kind};
use brigade_core::span::AttemptEnd;

/// Passed calls that may wait for another worker: all of them are looked at for each worker that
/// becomes free.
const ASIDE_MAX: usize = 1024;

/// What a worker says at the end of an attempt.
enum WorkerAnswer {
    Done(Bytes),
    Failed(Box<Failure>),
    Panicked(PanicNote),
    Passed(String),
    Returned,
    Refused(Refused),
}

impl WorkerAnswer {
    fn parse(frame: &Frame) -> Result<Self, Error> {
        Ok(match frame.kind {
            kind::DONE => Self::Done(frame.body.clone()),
            kind::FAILED => Self::Failed(Codec::Postcard.decode(&frame.body)?),
            kind::PANICKED => Self::Panicked(Codec::Postcard.decode(&frame.body)?),
            kind::PASSED => Self::Passed(String::from_utf8_lossy(&frame.body).into_owned()),
            kind::RETURNED => Self::Returned,
            kind::REFUSED => Self::Refused(Codec::Postcard.decode(&frame.body)?),
            unknown => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("it sent a frame of unknown kind {unknown}"),
                ));
            }
        })
    }
}

impl WorkerAnswer {
    fn is_of_an_attempt_that_ran(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Panicked(_))
    }
}

/// Whether a frame is to end an attempt.
pub(in super::super) fn is_answer(frame: &Frame) -> bool {
    !matches!(
        frame.kind,
        kind::PROGRESS | kind::STARTED | kind::RETIRE | kind::COST
    )
}

impl Core {
    /// Takes a frame of a worker process. With the answer of an attempt whose output was captured
    /// comes that output.
    ///
    /// # Errors
    ///
    /// `Protocol` if it makes no sense; the worker must be ended.
    pub(in super::super) fn on_frame(
        &mut self,
        worker: WorkerId,
        frame: &Frame,
        output: Option<Output>,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        if !self.has_worker(worker) {
            return Ok(());
        }
        if frame.kind == kind::RETIRE {
            self.retire(worker, &String::from_utf8_lossy(&frame.body), effects);
            return Ok(());
        }
        let call = CallId::from_wire(frame.id);
        let runs_here = self.runs_on(call, worker);
        match frame.kind {
            // Another thread of the task may speak while its answer is on the way.
            kind::PROGRESS | kind::STARTED | kind::COST if !runs_here => {}
            kind::PROGRESS => self.on_progress(call, &frame.body, effects),
            kind::STARTED => self.on_started(call),
            kind::COST => {
                let cost: Cost = Codec::Postcard.decode(&frame.body)?;
                self.entry_mut(call).cost = Some(cost.bounded());
            }
            _ if !runs_here => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("it answered call {}, which it does not run", frame.id),
                ));
            }
            _ => self.on_answer(call, worker, frame, output, effects)?,
        }
        Ok(())
    }

    /// Ends a batch of frames.
    pub(in super::super) fn on_frames_over(&mut self, effects: &mut Effects) {
        self.settle(effects);
    }

    /// An attempt began in a worker that it shares: its time runs from now on.
    fn on_started(&mut self, call: CallId) {
        let entry = self.entry(call);
        let timeout = entry.request.options().timeout;
        if let Some(timeout) = timeout
            && !entry.alone
            && self.config.slots > 1
        {
            self.arm_run_timeout(call, after(self.now, timeout));
        }
    }

    fn on_answer(
        &mut self,
        call: CallId,
        worker: WorkerId,
        frame: &Frame,
        output: Option<Output>,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        let answer = WorkerAnswer::parse(frame)?;
        self.early_exits = 0;
        let slot = self.worker_mut(worker);
        match &answer {
            WorkerAnswer::Done(_) => slot.done += 1,
            WorkerAnswer::Returned => {}
            _ => slot.failed += 1,
        }
        let conn = Arc::clone(slot.conn());
        self.cancel_timer(call);
        if answer.is_of_an_attempt_that_ran() {
            let cost = self.entry(call).cost;
            self.learn_memory(call, cost.and_then(|cost| cost.memory_peak));
        }
        if let Some(stop) = self.take_stop(call) {
            let report = self.stopped_report(call, &stop.reason);
            self.vacate(call, effects);
            let (error, mut details) = stopped(*stop, report, self.now);
            (details.output, details.stderr_of) = (output, Some(conn));
            self.end(call, Err(error), details, effects);
            return Ok(());
        }
        let mut details = EndDetails {
            output,
            attempt: match &answer {
                WorkerAnswer::Done(_) => Some(self.answered(call, false)),
                WorkerAnswer::Failed(_) => Some(self.answered(call, true)),
                _ => None,
            },
            ..EndDetails::default()
        };
        let panicked = match &answer {
            WorkerAnswer::Panicked(note) => {
                details.stderr_of = Some(conn);
                let (message, location) = (note.message.clone(), note.location.clone());
                Some(self.report(call, AttemptOutcome::Panicked { message, location }))
            }
            _ => None,
        };
        self.vacate(call, effects);
        match (answer, panicked) {
            (WorkerAnswer::Done(result), _) => self.end(call, Ok(result), details, effects),
            (WorkerAnswer::Failed(failure), _) => self.on_failed(call, failure, details, effects),
            (WorkerAnswer::Panicked(_), report) => {
                let report = report.expect("invariant: a panic was reported");
                let error = CallError::Panicked(report);
                let end = ChargedEnd::Failed(RetryAdvice::Policy);
                self.retry_or_end(call, error, end, details, effects);
            }
            (WorkerAnswer::Passed(reason), _) => {
                self.on_passed(call, worker, vec![reason], effects)
            }
            (WorkerAnswer::Returned, _) => {
                effects.note_span_end(call, || AttemptEnd::given_back("returned"));
                self.entry_mut(call).attempt -= 1;
                self.requeue(call);
            }
            (WorkerAnswer::Refused(refused), _) => {
                let error = refused.into_error(self.entry(call).request.task_name());
                self.end(call, Err(error.into()), details, effects);
            }
        }
        Ok(())
    }

    /// The stop of an attempt that was answered, if it counts: for the memory budget the answer
    /// does, because it came before the kill.
    fn take_stop(&mut self, call: CallId) -> Option<Box<OngoingStop>> {
        let stop = self.entry_mut(call).stop.take()?;
        if stop.reason != StopReason::Budget {
            return Some(stop);
        }
        stop.ended.cancel();
        None
    }

    pub(super) fn on_failed(
        &mut self,
        call: CallId,
        failure: Box<Failure>,
        details: EndDetails,
        effects: &mut Effects,
    ) {
        let end = ChargedEnd::Failed(failure.retry());
        self.retry_or_end(call, CallError::Failed(failure), end, details, effects);
    }

    /// Gives the call to another worker. It ends when all workers that are there have passed it.
    pub(super) fn on_passed(
        &mut self,
        call: CallId,
        worker: WorkerId,
        reasons: Vec<String>,
        effects: &mut Effects,
    ) {
        effects.note_span_end(call, || AttemptEnd::given_back("passed"));
        let bound = self.config.workers_max + self.remote_hosts();
        let entry = self.entry_mut(call);
        entry.attempt -= 1;
        entry.passes.push((worker, reasons.join("; ")));
        // A pool whose workers come and go would find a new one each time: its size is the bound.
        let all_passed = entry.passes.len() >= bound || !self.others_may_take(call);
        if !all_passed && self.aside.len() < ASIDE_MAX {
            return self.set_aside(call);
        }
        let passes = std::mem::take(&mut self.entry_mut(call).passes);
        let reasons = passes.into_iter().map(|(_, reason)| reason).collect();
        let error = Err(CallError::Passed(reasons));
        self.end(call, error, EndDetails::default(), effects);
    }

    /// Tries again later if the policy says so.
    pub(super) fn retry_or_end(
        &mut self,
        call: CallId,
        error: CallError,
        end: ChargedEnd,
        details: EndDetails,
        effects: &mut Effects,
    ) {
        let decision = self.decide_retry(call, end);
        if end == ChargedEnd::Crashed {
            self.counters.crashed += 1;
            self.entry_mut(call).crashes += 1;
        }
        match decision {
            RetryDecision::Retry(pause) if self.stage == Stage::Open => {
                effects.note_span_error(call, Some(&error), &details);
                self.delay(call, pause);
            }
            RetryDecision::Retry(_) | RetryDecision::Stop(_) => {
                self.end(call, Err(error), details, effects);
            }
        }
    }

    /// What the policy of calls says of an attempt that has just ended.
    fn decide_retry(&mut self, call: CallId, end: ChargedEnd) -> RetryDecision {
        let jitter = self.random.jitter(0.5);
        let entry = self.entry(call);
        let options = entry.request.options();
        let retry = options.retry.unwrap_or(self.config.retry);
        let rule = RetryRule::of_call(options.retries.unwrap_or(0), retry);
        let before = Charged {
            failed: entry.attempt.saturating_sub(1 + entry.crashes),
            crashed: entry.crashes,
        };
        let age = self.now - entry.made;
        let left = retry.within.map(|within| within.saturating_sub(age));
        rule.decide(before, end, left, jitter)
    }

    /// Passes progress on to the caller.
    pub(super) fn on_progress(&mut self, call: CallId, body: &Bytes, effects: &mut Effects) {
        if body.len() > 9 + PROGRESS_BYTES_MAX {
            return;
        }
        let (Some(fraction), Some(codec)) = (body.first_chunk::<8>(), body.get(8)) else {
            return;
        };
        let fraction = f64::from_le_bytes(*fraction);
        let Some(codec) = Codec::of_number(*codec) else {
            return;
        };
        let payload = body.slice(9..);
        let text = codec.decode::<String>(&payload).unwrap_or_default();
        let entry = self.entry_mut(call);
        entry.progress = Some((fraction, text));
        let update = Progress {
            fraction,
            codec,
            payload,
        };
        effects.updates.push((Arc::clone(&entry.cell), update));
    }
}

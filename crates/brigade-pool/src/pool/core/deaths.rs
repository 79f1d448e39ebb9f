//! How attempts end by the death of their worker process.
//!
//! The attempt that ended its worker is the *culprit*. Where that is not known, every attempt of
//! the worker is a suspect. What a worker had not read when it died goes back to the queue.
//! All that the worker wrote before it died has been taken by then (`process::finish`).

use std::cmp::Reverse;
use std::time::Duration;

use super::super::config::Neighbours;
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::Core;
use super::call_entry::UNDELIVERED_MAX;
use super::effects::{Effects, EndDetails};
use super::reports::stopped;
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::{AttemptOutcome, Cost, Exit, LimitHit, MemoryLimit, Step};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{CallError, RetryAdvice};
use crate::output::Output;
use crate::policy::ChargedEnd;
use crate::process::Death;
use crate::wire::{CrashNote, PanicNote};
use brigade_core::span::AttemptEnd;

/// What is known of a worker process that has ended.
#[derive(Debug)]
pub(in super::super) struct WorkerExit {
    pub(in super::super) pid: u32,
    pub(in super::super) death: Death,
    /// What its signal handler said, and of which attempt.
    pub(in super::super) crash_note: Option<(CallId, CrashNote)>,
    /// The thread whose handler it was.
    pub(in super::super) thread: Option<String>,
    /// What kept it from running when it was ended.
    pub(in super::super) stopped_by: Option<String>,
    /// Its last panic, and in which attempt.
    pub(in super::super) panic: Option<(CallId, PanicNote)>,
    /// How it broke its link, if that was why it was ended.
    pub(in super::super) broken: Option<String>,
    /// The kernel ended a process of its control group for lack of memory: the limit.
    pub(in super::super) oom_kill: Option<LimitHit>,
    pub(in super::super) stderr: String,
    /// What the attempt wrote whose output was captured.
    pub(in super::super) output: Option<Output>,
    /// It died before it had read all that it was sent.
    pub(in super::super) unread: bool,
    pub(in super::super) expected: bool,
}

/// A worker that ends by itself at this age without having done anything is counted; more of them
/// in a row count as failed starts.
const EARLY_EXIT_AGE: Duration = Duration::from_secs(1);
const EARLY_EXITS_MAX: u32 = 10;
/// Processes that could not be ended and that a shutdown names.
const LEFT_MAX: usize = 1024;

impl Core {
    /// Takes the end of a worker process.
    pub(in super::super) fn on_gone(
        &mut self,
        worker: WorkerId,
        mut exit: WorkerExit,
        effects: &mut Effects,
    ) {
        let event = Event::WorkerGone {
            worker: worker.number,
            pid: exit.pid,
            exit: exit.death.exit,
            expected: exit.expected,
        };
        self.emit_and_log(event, effects);
        effects.changed = true;
        if !self.has_worker(worker) {
            return self.settle(effects);
        }
        // Newest first, so that what is put back stands in the order in which it was handed out.
        let mut running = self.worker(worker).running.clone();
        running.sort_unstable_by_key(|call| Reverse(*call));
        self.count_early_exit(worker, &exit, effects);
        self.retire(worker, "its process ended", effects);
        let culprit = self.culprit(&running, &exit);
        // Of several calls it is not known which of them was not read.
        let is_unread = exit.unread && running.len() == 1;
        for call in running {
            let was_unread = is_unread || !self.entry(call).is_sent;
            if !(was_unread && self.take_back(call, effects)) {
                self.on_attempt_died(call, culprit, &mut exit, effects);
            }
        }
        // `vacate` has removed the worker if it had attempts, `retire` if it had none; not if it
        // was retiring before and waits to be left alone.
        if self.has_worker(worker) {
            self.remove_worker(worker);
        }
        self.settle(effects);
    }

    /// A worker that was ready and ended before it had done anything. Once may be chance; if that
    /// goes on, the next one would end as well.
    fn count_early_exit(&mut self, worker: WorkerId, exit: &WorkerExit, effects: &mut Effects) {
        let slot = self.worker(worker);
        if !slot.is_fresh() || slot.age(self.now) >= EARLY_EXIT_AGE || exit.expected {
            return;
        }
        self.early_exits += 1;
        if self.early_exits > EARLY_EXITS_MAX {
            let how = exit.death.exit;
            let text = format!("start workers: they end just after their start ({how})");
            self.note_failed_start(&Error::new(ErrorKind::CannotStart, text), effects);
        }
    }

    /// Puts back a call that its worker had died too early to read: it has not run. `false` if it
    /// is being stopped, or if that has happened to it too often to be chance.
    fn take_back(&mut self, call: CallId, effects: &mut Effects) -> bool {
        let entry = self.entry_mut(call);
        if entry.stop.is_some() || entry.undelivered == UNDELIVERED_MAX {
            return false;
        }
        entry.undelivered += 1;
        entry.attempt -= 1;
        self.cancel_timer(call);
        self.vacate(call, effects);
        effects.note_span_end(call, || AttemptEnd::given_back("not read"));
        self.requeue(call);
        true
    }

    /// Which attempt ended the worker, if that is known.
    fn culprit(&self, running: &[CallId], exit: &WorkerExit) -> Option<CallId> {
        let is_forced = |call: &&CallId| {
            let stop = self.entry(**call).stop.as_ref();
            stop.is_some_and(|stop| stop.step > Step::Asked)
        };
        if let Some(forced) = running.iter().find(is_forced) {
            return Some(*forced);
        }
        let noted = exit.crash_note.map(|(call, _)| call);
        let aborted = exit.death.exit == Exit::Signal(libc::SIGABRT);
        let panicked = exit.panic.as_ref().filter(|_| aborted);
        let panicked = panicked.map(|(call, _)| *call);
        let only = (running.len() == 1).then(|| running[0]);
        let mut named = noted.into_iter().chain(panicked);
        named.find(|call| running.contains(call)).or(only)
    }

    fn on_attempt_died(
        &mut self,
        call: CallId,
        culprit: Option<CallId>,
        exit: &mut WorkerExit,
        effects: &mut Effects,
    ) {
        self.cancel_timer(call);
        let runs_again = self.config.neighbours == Neighbours::RunAgain;
        let entry = self.entry_mut(call);
        let captures = entry.request.options().capture_bytes.is_some();
        let output = if captures { exit.output.take() } else { None };
        let limits = entry.request.options().limits();
        let stop = entry.stop.take();
        let is_culprit = culprit == Some(call);
        if stop.is_none() && !is_culprit && runs_again {
            // Where it is not known which attempt it was, all are suspects: the next attempt is
            // alone and shows it.
            entry.alone |= culprit.is_none();
            entry.attempt -= 1;
            self.vacate(call, effects);
            effects.note_span_end(call, || AttemptEnd::given_back("neighbour crashed"));
            return self.requeue(call);
        }
        self.learn_memory(call, exit.death.memory_peak);
        if let Some(stop) = stop
            .as_ref()
            .filter(|stop| stop.reason == StopReason::Budget)
        {
            stop.ended.cancel();
            return self.interrupt(call, effects);
        }
        let ended = match &stop {
            Some(stop) => stop.reason.outcome(self.entry(call).memory_hold),
            None if is_culprit => exit.ended(call, &limits),
            None => AttemptOutcome::Neighbour,
        };
        let mut report = self.report(call, ended);
        report.exit = Some(exit.death.exit);
        report.cost = exit.cost(report.cost.wall);
        report.stderr.clone_from(&exit.stderr);
        report.stopped_by.clone_from(&exit.stopped_by);
        report.limit = match &stop {
            Some(stop) => stop.reason.limit(),
            None if is_culprit => exit.limit(&report.ended, &limits).or(report.limit),
            None => None,
        };
        if is_culprit {
            report.thread.clone_from(&exit.thread);
        }
        self.vacate(call, effects);
        let is_crash = stop.as_ref().is_some_and(|stop| stop.reason.is_crash());
        let mut details = EndDetails::default();
        if let Some(mut stop) = stop {
            // Another's stop may have taken this one along before its own came to force.
            stop.step = stop.step.max(exit.step());
            report.step = Some(stop.step);
            if !is_crash {
                let (error, mut details) = stopped(*stop, report, self.now);
                details.output = output;
                return self.end(call, Err(error), details, effects);
            }
            stop.ended.cancel();
        }
        details.output = output;
        let end = if is_culprit || is_crash {
            self.want_fresh_worker(call);
            ChargedEnd::Crashed
        } else {
            ChargedEnd::Failed(RetryAdvice::Policy)
        };
        let error = CallError::from_report(report);
        self.retry_or_end(call, error, end, details, effects);
    }

    /// A call took its worker down: its next attempt runs alone in a fresh one.
    fn want_fresh_worker(&mut self, call: CallId) {
        let alone = self.config.slots > 1;
        let entry = self.entry_mut(call);
        entry.alone = alone;
        entry.fresh = true;
    }

    /// Notes processes that could not be ended, for the shutdown of the pool. Returns whether
    /// descendants could not be looked for, for the first time.
    pub(in super::super) fn note_left(
        &mut self,
        worker: WorkerId,
        pids: &[u32],
        is_unknown: bool,
        effects: &mut Effects,
    ) -> bool {
        let is_news = is_unknown && !std::mem::replace(&mut self.left_unseen, true);
        if !pids.is_empty() {
            let event = Event::ProcessesLeft {
                worker: worker.number,
                pids: pids.into(),
            };
            self.emit_and_log(event, effects);
            let room = LEFT_MAX.saturating_sub(self.left.len());
            self.left.extend(pids.iter().take(room));
        }
        is_news
    }
}

impl WorkerExit {
    /// How this attempt, which ended the worker, came to do so.
    fn ended(&self, call: CallId, limits: &AttemptLimits) -> AttemptOutcome {
        let note = self.crash_note.map(|(_, note)| note);
        // The last panic may be an old one of another attempt: it counts only where it was the same
        // thread that aborted.
        let aborted = self.crash_note.map_or(call, |(attempt, _)| attempt);
        let panic = self.panic.as_ref().filter(|(attempt, _)| {
            *attempt == aborted && self.death.exit == Exit::Signal(libc::SIGABRT)
        });
        match (note, panic, self.death.exit) {
            _ if self.oom_kill.is_some()
                && matches!(self.death.exit, Exit::Signal(libc::SIGKILL) | Exit::Unknown) =>
            {
                AttemptOutcome::OutOfMemory(MemoryLimit::Cgroup)
            }
            (Some(CrashNote::StackOverflow), ..) => AttemptOutcome::StackOverflow,
            (Some(CrashNote::OutOfMemory), ..) => {
                AttemptOutcome::OutOfMemory(MemoryLimit::AddressSpace)
            }
            (_, Some((_, note)), _) => AttemptOutcome::Panicked {
                message: note.message.clone(),
                location: note.location.clone(),
            },
            _ if self.broken.is_some() => {
                AttemptOutcome::LinkBroken(self.broken.clone().unwrap_or_default())
            }
            (.., Exit::Signal(libc::SIGXFSZ)) if limits.file_size.is_some() => {
                AttemptOutcome::OverLimit
            }
            (Some(CrashNote::Signal), ..) | (.., Exit::Signal(_)) => AttemptOutcome::Signalled,
            (.., Exit::Code(_)) => AttemptOutcome::Exited,
            // `Exit::Unknown` or `Exit::Alive`, without a note. `Exit` is non-exhaustive.
            (None, None, _) => AttemptOutcome::Unknown,
        }
    }

    /// The limit that made it end so.
    fn limit(&self, ended: &AttemptOutcome, limits: &AttemptLimits) -> Option<LimitHit> {
        match ended {
            AttemptOutcome::OutOfMemory(MemoryLimit::Cgroup) => self.oom_kill,
            AttemptOutcome::OutOfMemory(MemoryLimit::AddressSpace) => limits
                .address_space
                .map(|allowed| LimitHit::AddressSpace { allowed }),
            AttemptOutcome::OverLimit => limits
                .file_size
                .map(|allowed| LimitHit::FileSize { allowed }),
            _ => None,
        }
    }

    /// The step that a process ended by this signal had come to.
    fn step(&self) -> Step {
        match self.death.exit {
            Exit::Signal(libc::SIGTERM) => Step::Terminated,
            Exit::Signal(libc::SIGKILL) | Exit::Alive => Step::Killed,
            // Another signal, a code, or unknown. `Exit` is non-exhaustive.
            _ => Step::Asked,
        }
    }

    fn cost(&self, wall: Duration) -> Cost {
        Cost::of_wall(wall).with_process(self.death.cpu, self.death.memory_peak)
    }
}

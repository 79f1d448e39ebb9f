//! How attempts end: by what their worker says, or by its death.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::builder::Neighbours;
use super::super::deadlines::after;
use super::super::worker_conn::{WorkerConn, WorkerProcess};
use super::calls::number_of;
use super::stops::Stop;
use super::{Core, Effects, Phase, StopReason};
use crate::attempt_report::{AttemptReport, Cost, Ended, Exit, MemoryLimit, Step, StopReceipt};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{CallError, Cancelled, Failure, RetryAdvice, TimedOut};
use crate::process::{Death, Output};
use crate::refused::Refused;
use crate::wire::{CrashNote, Frame, PanicNote, kind};

/// What is known of a dead worker.
pub(in super::super) struct WorkerExit {
    pub(in super::super) death: Death,
    /// What its signal handler said, and of which attempt.
    pub(in super::super) words: Option<(u64, CrashNote)>,
    /// The thread whose handler it was.
    pub(in super::super) thread: Option<String>,
    /// What kept it from running when it was ended.
    pub(in super::super) stopped_by: Option<String>,
    /// Its last panic, and in which attempt.
    pub(in super::super) panic: Option<(u64, PanicNote)>,
    /// How it broke its link, if that was why it was ended.
    pub(in super::super) broken: Option<String>,
    pub(in super::super) cgroup_oom: bool,
    pub(in super::super) stderr: String,
    /// It died before it had read all that it was sent.
    pub(in super::super) unread: bool,
    pub(in super::super) expected: bool,
}

/// A worker that ends by itself at this age, having done nothing, is counted; more of them in a row
/// count as failed starts.
const EARLY_EXIT_AGE: Duration = Duration::from_secs(1);
const EARLY_EXITS_MAX: u32 = 10;
/// How often a call is given to a worker that dies before it reads it.
pub(super) const UNDELIVERED_MAX: u32 = 3;
/// Passed calls that may wait for another worker: all of them are looked at for each worker that
/// becomes free.
const ASIDE_MAX: usize = 1024;
/// A call that took two workers down ends there.
const CRASHES_MAX: u32 = 2;
/// Processes that could not be ended and are told of by a shutdown.
const LEFT_MAX: usize = 1024;

impl Core {
    /// Takes what a worker says of its attempts.
    ///
    /// # Errors
    ///
    /// `Protocol` if it makes no sense; the worker must go.
    pub(in super::super) fn on_frame(
        &mut self,
        number: u32,
        epoch: u64,
        frame: &Frame,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        if self.slot_of(number, epoch).is_none() {
            return Ok(());
        }
        if frame.kind == kind::RETIRE {
            self.retire(number, &String::from_utf8_lossy(&frame.body));
            return Ok(());
        }
        let call = frame.id;
        let runs_here = self.entry(call).is_some_and(
            |entry| matches!(entry.phase, Phase::Running { slot, .. } if slot == number),
        );
        if !runs_here && matches!(frame.kind, kind::PROGRESS | kind::STARTED) {
            // Another thread of the task may speak while its answer is on the way.
            return Ok(());
        }
        if !runs_here {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("it spoke of call {call}, which it does not run"),
            ));
        }
        match frame.kind {
            kind::PROGRESS => self.on_progress(call, &frame.body, effects),
            kind::STARTED => {
                let wants = |entry: &mut super::Entry| {
                    entry.request.options().timeout.filter(|_| !entry.alone)
                };
                if let Some(timeout) = self
                    .entry(call)
                    .and_then(wants)
                    .filter(|_| self.config.slots > 1)
                {
                    self.arm_run_timeout(call, after(now, timeout));
                }
            }
            _ => self.on_answer(number, frame, now, effects)?,
        }
        Ok(())
    }

    /// Ends a batch of frames.
    pub(in super::super) fn on_frames_over(&mut self, effects: &mut Effects) {
        self.settle(effects);
    }

    fn on_answer(
        &mut self,
        number: u32,
        frame: &Frame,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), Error> {
        let call = frame.id;
        let answer = Answer::parse(frame)?;
        let Some(conn) = self.conn(number) else {
            return Ok(());
        };
        self.early_exits = 0;
        let output = self.captured(call, &conn);
        if let Some(slot) = self.slot(number) {
            match &answer {
                Answer::Done(_) => slot.done += 1,
                Answer::Returned => {}
                _ => slot.failed += 1,
            }
        }
        let wall = self.wall(call, now);
        self.cancel_timer(call);
        let Some(entry) = self.entry(call) else {
            return Ok(());
        };
        let stop = entry.stop.take();
        self.vacate(call, now);
        if let Some(stop) = stop {
            stop.ended.cancel();
            let report = self.report(call, number, &conn, Ended::from_reason(&stop.why), wall);
            let (outcome, receipt) = stopped(&stop, report);
            self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
            return Ok(());
        }
        match answer {
            Answer::Done(result) => self.end_with_output(call, Ok(result), None, output, effects),
            Answer::Failed(failure) => self.on_failed(call, failure, output, effects),
            Answer::Panicked(note) => {
                let ended = Ended::Panicked {
                    message: note.message,
                    location: note.location,
                };
                let report = self.report(call, number, &conn, ended, wall);
                self.retry_or_end(
                    call,
                    CallError::Panicked(report),
                    RetryAdvice::Policy,
                    output,
                    effects,
                );
            }
            Answer::Passed(reason) => {
                self.on_passed(call, number, conn.epoch(), vec![reason], effects)
            }
            Answer::Returned => {
                if let Some(entry) = self.entry(call) {
                    entry.attempt -= 1;
                }
                self.requeue(call);
            }
            Answer::Refused(refused) => {
                let task = self
                    .entry(call)
                    .map(|entry| entry.request.task_name().to_owned())
                    .unwrap_or_default();
                self.end_with_output(
                    call,
                    Err(refused.into_error(&task).into()),
                    None,
                    output,
                    effects,
                );
            }
        }
        Ok(())
    }

    pub(super) fn on_failed(
        &mut self,
        call: u64,
        failure: Box<Failure>,
        output: Option<Output>,
        effects: &mut Effects,
    ) {
        let advice = failure.retry();
        self.retry_or_end(call, CallError::Failed(failure), advice, output, effects);
    }

    /// Gives the call to another worker. When all that are there have passed it, the caller is
    /// told.
    pub(super) fn on_passed(
        &mut self,
        call: u64,
        number: u32,
        epoch: u64,
        reasons: Vec<String>,
        effects: &mut Effects,
    ) {
        let bound = self.config.workers_max + self.hosts();
        let Some(entry) = self.entry(call) else {
            return;
        };
        entry.attempt -= 1;
        entry.passes.push((number, epoch, reasons.join("; ")));
        let passes = entry.passes.clone();
        // A pool whose workers come and go would find a new one each time: its size is the bound.
        let all_asked = passes.len() >= bound || !self.others_may_take(call, &passes);
        if !all_asked && self.aside.len() < ASIDE_MAX {
            self.set_aside(call);
        } else {
            let reasons = passes.into_iter().map(|(.., reason)| reason).collect();
            self.end(call, Err(CallError::Passed(reasons)), None, effects);
        }
    }

    /// Tries again later if the call has attempts left.
    pub(super) fn retry_or_end(
        &mut self,
        call: u64,
        error: CallError,
        advice: RetryAdvice,
        output: Option<Output>,
        effects: &mut Effects,
    ) {
        let (default, is_open) = (self.config.retry, self.stage == super::Stage::Open);
        let Some(entry) = self.entry(call) else {
            return;
        };
        let policy = entry.request.options().retry.unwrap_or(default);
        let left = entry.attempt <= entry.request.options().retries.unwrap_or(0)
            && entry.crashes < CRASHES_MAX;
        let pause = match advice {
            RetryAdvice::Permanent => None,
            RetryAdvice::In(pause) => Some(pause),
            RetryAdvice::Policy => Some(policy.pause_after(entry.attempt)),
        };
        let in_time = |pause: Duration| {
            policy
                .within
                .is_none_or(|within| entry.made.elapsed().saturating_add(pause) <= within)
        };
        match pause.filter(|pause| left && is_open && in_time(*pause)) {
            Some(pause) => self.delay(call, pause),
            None => self.end_with_output(call, Err(error), None, output, effects),
        }
    }

    // -- death

    /// Takes the end of a worker process.
    pub(in super::super) fn on_gone(
        &mut self,
        number: u32,
        child: &Arc<WorkerProcess>,
        worker_exit: &WorkerExit,
        effects: &mut Effects,
    ) {
        let (pid, exit, epoch) = (child.pid(), worker_exit.death.exit, child.epoch);
        self.emit(|| Event::WorkerGone {
            worker: number,
            pid,
            exit,
            expected: worker_exit.expected,
        });
        tracing::debug!(worker = number, pid, %exit, expected = worker_exit.expected, "worker gone");
        effects.changed = true;
        let Some(slot) = self.slot_of(number, epoch) else {
            return self.settle(effects);
        };
        // Newest first, so that what is put back stands in the order in which it was handed out.
        let mut running = slot.running.clone();
        running.sort_unstable_by_key(|call| std::cmp::Reverse(number_of(*call)));
        let (served, age) = (slot.done + slot.failed, slot.age());
        self.retire(number, "its process ended");
        if running.is_empty() && served == 0 && age < EARLY_EXIT_AGE && !worker_exit.expected {
            // It was ready and fell over before it had done anything. Once may be chance; if that
            // goes on, the next would, too.
            self.early_exits += 1;
            if self.early_exits > EARLY_EXITS_MAX {
                let text = format!("start workers: they end just after their start ({exit})");
                self.note_failed_start(&Error::new(ErrorKind::CannotStart, text), effects);
            }
        }
        let culprit = self.culprit(&running, worker_exit);
        let now = Instant::now();
        // Of several calls nobody knows which of them was not read.
        let undelivered = running
            .first()
            .copied()
            .filter(|_| worker_exit.unread && running.len() == 1);
        for call in running {
            if undelivered == Some(call) && self.take_back(call, now) {
                continue;
            }
            self.on_attempt_died(
                call,
                number,
                &WorkerConn::Process(Arc::clone(child)),
                culprit,
                worker_exit,
                now,
                effects,
            );
        }
        // `vacate` has let the slot go if it had attempts; here if it had none.
        if self.slot_of(number, epoch).is_some() {
            self.empty(number);
        }
        self.settle(effects);
    }

    /// Puts back a call that its worker had died too early to read: it has not run. `false` if it
    /// is being stopped, or if that has happened to it too often to be chance.
    fn take_back(&mut self, call: u64, now: Instant) -> bool {
        let Some(entry) = self.entry(call) else {
            return false;
        };
        if entry.stop.is_some() || entry.undelivered == UNDELIVERED_MAX {
            return false;
        }
        entry.undelivered += 1;
        entry.attempt -= 1;
        self.cancel_timer(call);
        self.vacate(call, now);
        self.requeue(call);
        true
    }

    /// Notes processes that could not be ended, for whoever shuts the pool down.
    pub(in super::super) fn note_left(&mut self, number: u32, pids: &[u32], is_unknown: bool) {
        if is_unknown && !std::mem::replace(&mut self.left_unseen, true) {
            tracing::warn!(
                "descendants of workers cannot be looked for: /proc is not mounted, or is that of \
                    another PID namespace"
            );
        }
        if pids.is_empty() {
            return;
        }
        tracing::warn!(
            worker = number,
            ?pids,
            "processes of a worker could not be ended: they run as another user, or the kernel \
                holds them"
        );
        self.emit(|| Event::ProcessesLeft {
            worker: number,
            pids: pids.into(),
        });
        let room = LEFT_MAX.saturating_sub(self.left.len());
        self.left.extend(pids.iter().take(room));
    }

    /// Whether an attempt of this worker is being stopped.
    pub(in super::super) fn is_stopping(&mut self, number: u32, epoch: u64) -> bool {
        let Some(slot) = self.slot_of(number, epoch) else {
            return false;
        };
        let running = slot.running.clone();
        running
            .iter()
            .any(|call| self.entry(*call).is_some_and(|entry| entry.stop.is_some()))
    }

    /// Which attempt ended the worker, if that is known.
    fn culprit(&mut self, running: &[u64], worker_exit: &WorkerExit) -> Option<u64> {
        let told = worker_exit.words.map(|(call, _)| call);
        let panicked = worker_exit
            .panic
            .as_ref()
            .map(|(call, _)| *call)
            .filter(|_| worker_exit.death.exit == Exit::Signal(libc::SIGABRT));
        let forced = running.iter().copied().find(|call| {
            let stop = self.entry(*call).and_then(|entry| entry.stop.as_ref());
            stop.is_some_and(|stop| stop.step > Step::Asked)
        });
        let only = (running.len() == 1).then(|| running[0]);
        forced
            .or_else(|| {
                told.into_iter()
                    .chain(panicked)
                    .find(|call| running.contains(call))
            })
            .or(only)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one dead attempt and all that is known of its worker"
    )]
    fn on_attempt_died(
        &mut self,
        call: u64,
        number: u32,
        conn: &WorkerConn,
        culprit: Option<u64>,
        worker_exit: &WorkerExit,
        now: Instant,
        effects: &mut Effects,
    ) {
        let output = self.captured(call, conn);
        let wall = self.wall(call, now);
        self.cancel_timer(call);
        let neighbours = self.config.neighbours;
        let Some(entry) = self.entry(call) else {
            return;
        };
        let stop = entry.stop.take();
        let is_culprit = culprit == Some(call);
        let run_again = stop.is_none() && !is_culprit && neighbours == Neighbours::RunAgain;
        if run_again {
            // Where nobody knows who it was, all are suspects: the next attempt is alone and shows
            // it.
            entry.alone |= culprit.is_none();
            entry.attempt -= 1;
        }
        self.vacate(call, now);
        if run_again {
            return self.requeue(call);
        }
        let ended = match &stop {
            Some(stop) => Ended::from_reason(&stop.why),
            None if is_culprit => worker_exit.ended(call),
            None => Ended::Neighbour,
        };
        let mut report = self.report(call, number, conn, ended, wall);
        report.exit = Some(worker_exit.death.exit);
        report.cost = worker_exit.cost(wall);
        report.stderr.clone_from(&worker_exit.stderr);
        if is_culprit {
            report.thread.clone_from(&worker_exit.thread);
        }
        report.stopped_by.clone_from(&worker_exit.stopped_by);
        let over_memory = stop
            .as_ref()
            .is_some_and(|stop| stop.why == StopReason::Memory);
        if let Some(mut stop) = stop {
            stop.ended.cancel();
            // Another's stop may have taken this one along before its own came to force.
            stop.step = stop.step.max(worker_exit.step());
            report.step = Some(stop.step);
            if !over_memory {
                let (outcome, receipt) = stopped(&stop, report);
                return self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
            }
        }
        if is_culprit || over_memory {
            self.counters.crashed += 1;
            let alone = self.config.slots > 1;
            if let Some(entry) = self.entry(call) {
                entry.crashes += 1;
                entry.alone = alone;
                entry.fresh = true;
            }
        }
        self.retry_or_end(
            call,
            CallError::from_report(report),
            RetryAdvice::Policy,
            output,
            effects,
        );
    }

    // -- reports

    pub(super) fn report(
        &mut self,
        call: u64,
        worker: u32,
        conn: &WorkerConn,
        ended: Ended,
        wall: Duration,
    ) -> Box<AttemptReport> {
        let entry = self.entry(call);
        let (task, attempt, progress) = entry
            .map(|entry| {
                (
                    entry.request.task_name().to_owned(),
                    entry.request.attempt(entry.attempt),
                    entry.progress.clone(),
                )
            })
            .unwrap_or_default();
        let cost = Cost {
            wall,
            ..Cost::default()
        };
        let stderr = conn.stderr_tail();
        Box::new(AttemptReport {
            worker,
            pid: conn.pid(),
            host: conn.host().map(str::to_owned),
            thread: None,
            task,
            call: number_of(call),
            attempt,
            ended,
            exit: None,
            step: None,
            cost,
            progress,
            stderr,
            stopped_by: None,
        })
    }

    pub(super) fn wall(&mut self, call: u64, now: Instant) -> Duration {
        match self.entry(call).map(|entry| entry.phase) {
            Some(Phase::Running { since, .. }) => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    fn captured(&mut self, call: u64, conn: &WorkerConn) -> Option<Output> {
        self.entry(call)?.request.options().capture_bytes?;
        conn.end_capture()
    }
}

/// What a worker says at the end of an attempt.
enum Answer {
    Done(bytes::Bytes),
    Failed(Box<Failure>),
    Panicked(PanicNote),
    Passed(String),
    Returned,
    Refused(Refused),
}

impl Answer {
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

impl Ended {
    pub(super) fn from_reason(why: &StopReason) -> Self {
        match why {
            StopReason::Timeout => Self::TimedOut,
            StopReason::Cancel(_) => Self::Cancelled,
            StopReason::Memory => Self::OutOfMemory(MemoryLimit::Resident),
            StopReason::Shutdown => Self::Shutdown,
        }
    }
}

/// The outcome and the receipt of an attempt that was stopped.
pub(super) fn stopped(stop: &Stop, mut report: Box<AttemptReport>) -> (CallError, StopReceipt) {
    report.step = Some(stop.step);
    let receipt = StopReceipt::new(stop.step, stop.asked_at.elapsed());
    let outcome = match &stop.why {
        StopReason::Timeout => CallError::TimedOut(TimedOut::Run(report)),
        StopReason::Cancel(reason) => CallError::Cancelled(Cancelled {
            reason: reason.clone(),
            report: Some(report),
        }),
        StopReason::Shutdown => CallError::Cancelled(Cancelled {
            reason: "the pool was shut down".to_owned(),
            report: Some(report),
        }),
        StopReason::Memory => CallError::Crashed(report),
    };
    (outcome, receipt)
}

impl WorkerExit {
    /// How this attempt, which ended the worker, came to do so.
    fn ended(&self, call: u64) -> Ended {
        let words = self.words.map(|(_, words)| words);
        // The last panic may be an old one of another attempt: it counts only where it was the same
        // thread that aborted.
        let aborted = self.words.map_or(call, |(attempt, _)| attempt);
        let panic = self.panic.as_ref().filter(|(attempt, _)| {
            *attempt == aborted && self.death.exit == Exit::Signal(libc::SIGABRT)
        });
        match (words, panic, self.death.exit) {
            _ if self.cgroup_oom
                && matches!(self.death.exit, Exit::Signal(libc::SIGKILL) | Exit::Unknown) =>
            {
                Ended::OutOfMemory(MemoryLimit::Cgroup)
            }
            (Some(CrashNote::StackOverflow), ..) => Ended::StackOverflow,
            (Some(CrashNote::OutOfMemory), ..) => Ended::OutOfMemory(MemoryLimit::AddressSpace),
            (_, Some((_, note)), _) => Ended::Panicked {
                message: note.message.clone(),
                location: note.location.clone(),
            },
            _ if self.broken.is_some() => {
                Ended::LinkBroken(self.broken.clone().unwrap_or_default())
            }
            (Some(CrashNote::Signal), ..) | (.., Exit::Signal(_)) => Ended::Signalled,
            (.., Exit::Code(_)) => Ended::Exited,
            (.., Exit::Unknown | Exit::Alive) => Ended::Unknown,
        }
    }

    /// The step that a process ended by this signal had come to.
    fn step(&self) -> Step {
        match self.death.exit {
            Exit::Signal(libc::SIGTERM) => Step::Terminated,
            Exit::Signal(libc::SIGKILL) | Exit::Alive => Step::Killed,
            Exit::Signal(_) | Exit::Code(_) | Exit::Unknown => Step::Asked,
        }
    }

    fn cost(&self, wall: Duration) -> Cost {
        let Death {
            cpu_user,
            cpu_system,
            memory_peak,
            ..
        } = self.death;
        Cost {
            wall,
            cpu_user,
            cpu_system,
            memory_peak,
        }
    }
}

//! Hosts that joined: how they come, go away, come back and leave, and what becomes of their calls.
//!
//! A host sits in a slot for as long as its *session* lasts, which outlives its connections. While
//! no connection is up it is *away*: it gets nothing, what it runs is waited for, and a deadline
//! runs. When it is back it says what it holds. What it was sent and does not hold never reached it
//! and waits again; what it holds and was given up in the meantime it is told to drop. When the
//! deadline comes first the session is over: what the host ran is run elsewhere if it may run
//! twice, and lost otherwise, and nothing that it brings later counts, because nobody knows its
//! session any more. So an answer is accepted at most once, and only from the session that the call
//! was given to.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::deadlines::{Due, after};
use super::super::worker_conn::{HostMessage, RemoteHost, TaskFacts, WorkerConn};
use super::calls::number_of;
use super::endings::{UNDELIVERED_MAX, stopped};
use super::workers::{SlotStage, WorkerSlot};
use super::{Core, Effects, Phase, Stage, StopReason};
use crate::attempt_report::{AttemptReport, Ended, Step};
use crate::call::Target;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{CallError, RetryAdvice, TimedOut};
use crate::process::Output;
use crate::registry;
use crate::wire::remote::{Ending, Mark, Refusal};

/// Hosts that one pool takes in.
const HOSTS_MAX: usize = 4096;

/// A host that wants to join, as it introduced itself.
pub(in super::super) struct HostInfo {
    pub(in super::super) session: Mark,
    /// As what it proved itself, for people.
    pub(in super::super) identity: Box<str>,
    pub(in super::super) name: Box<str>,
    pub(in super::super) pid: u32,
    pub(in super::super) slots: u32,
    pub(in super::super) labels: Vec<Box<str>>,
    /// Whether it runs plain functions of this build.
    pub(in super::super) functions: bool,
    /// The tasks that it has.
    pub(in super::super) tasks: HashMap<Box<str>, TaskFacts>,
}

/// What a host brings when its connection is up.
pub(in super::super) struct HostArrival {
    pub(in super::super) number: u32,
    /// Where its connection comes from.
    pub(in super::super) peer: Box<str>,
    /// Calls that it holds, each with its attempt.
    pub(in super::super) held: Vec<(u64, u32)>,
    /// It begins nothing more.
    pub(in super::super) leaving: bool,
}

impl Core {
    /// Finds the slot of a host's session, or gives it one.
    ///
    /// # Errors
    ///
    /// Why it cannot join, in words.
    pub(in super::super) fn receive(
        &mut self,
        info: HostInfo,
        effects: &mut Effects,
    ) -> Result<(u32, Arc<RemoteHost>), String> {
        if self.stage == Stage::Closed {
            return Err("the pool is shutting down".to_owned());
        }
        let known = (1..).zip(&self.slots).find_map(|(number, slot)| {
            let host = slot.as_ref()?.conn.as_ref()?.remote_host()?;
            (host.session == info.session).then(|| (number, Arc::clone(host)))
        });
        if let Some((number, host)) = known {
            if host.identity != info.identity {
                return Err(format!(
                    "its session is that of {}, and it is {}",
                    host.identity, info.identity
                ));
            }
            return Ok((number, host));
        }
        if self.stage != Stage::Open {
            return Err("the pool is shutting down".to_owned());
        }
        if self.hosts() >= HOSTS_MAX {
            return Err(format!("{HOSTS_MAX} hosts have joined already"));
        }
        self.epochs += 1;
        let (epoch, now) = (self.epochs, Instant::now());
        let mut slot = WorkerSlot::new(epoch, info.slots, now);
        let host = Arc::new(RemoteHost::new(epoch, info));
        slot.conn = Some(WorkerConn::Remote(Arc::clone(&host)));
        let number = self.add_slot(slot);
        self.expect_back(number, now);
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
        Ok((number, host))
    }

    /// Marks a host as away, and when it is given up.
    fn expect_back(&mut self, number: u32, now: Instant) {
        self.take_off(number);
        let keep = self.config.hosts.keep;
        let Some(epoch) = self.epoch(number) else {
            return;
        };
        let key = self
            .deadlines
            .insert(after(now, keep), Due::HostLost(number, epoch));
        let before = self.slot(number).and_then(|slot| slot.away.replace(key));
        if let Some(before) = before {
            self.deadlines.remove(before);
        }
    }

    /// A host's connection is up: welcomes it and goes on where both know of it. `false` if its
    /// session is over.
    pub(in super::super) fn on_host_up(
        &mut self,
        arrival: &HostArrival,
        host: &RemoteHost,
        effects: &mut Effects,
    ) -> bool {
        let number = arrival.number;
        let Some(slot) = self.slot_of(number, host.epoch) else {
            return false;
        };
        let (away, is_new) = (slot.away.take(), slot.stage == SlotStage::Starting);
        let running = slot.running.clone();
        if let Some(away) = away {
            self.deadlines.remove(away);
        }
        // An earlier attempt of a call that runs there again is not that one: its answer came, and
        // was not acknowledged.
        let attempt = |call: &u64| Some((*call, self.entry_ref(*call)?.attempt));
        let expected: HashSet<(u64, u32)> = running.iter().filter_map(attempt).collect();
        let drop: Vec<u64> = arrival
            .held
            .iter()
            .filter(|held| !expected.contains(held))
            .map(|(call, _)| *call)
            .collect();
        // Of a session that goes on, what is not running was answered, and the host has yet to hear
        // that its answer came.
        let stale = if is_new { drop.len() } else { 0 };
        host.welcome(number, &self.config, !is_new, drop);
        if is_new {
            self.counters.started += 1;
            self.open_for_calls(number);
        }
        let held: HashSet<(u64, u32)> = arrival.held.iter().copied().collect();
        self.put_back(
            expected.difference(&held).map(|(call, _)| *call).collect(),
            effects,
        );
        self.stop_again(number, host);
        self.offer(number);
        let (host, identity, pid, slots) = (&*host.name, &*host.identity, host.pid, host.slots);
        tracing::info!(
            worker = number,
            host,
            identity,
            peer = &*arrival.peer,
            pid,
            slots,
            resumed = !is_new,
            stale,
            "host joined"
        );
        self.emit(|| Event::HostJoined {
            worker: number,
            host: host.into(),
            identity: identity.into(),
            pid,
            slots,
            resumed: !is_new,
            stale,
        });
        if arrival.leaving {
            self.retire(number, "its host leaves");
        }
        effects.changed = true;
        self.settle(effects);
        true
    }

    /// Tells a host that is back which of its attempts are to be stopped: it may not have heard.
    fn stop_again(&mut self, number: u32, host: &RemoteHost) {
        let running = self
            .slot(number)
            .map(|slot| slot.running.clone())
            .unwrap_or_default();
        for call in running {
            if let Some(stop) = self.entry(call).and_then(|entry| entry.stop.as_ref()) {
                host.stop(call, stop.why.told(), stop.hurry.is_cancelled());
            }
        }
    }

    /// A host's connection is down. Of `unseen` calls not a byte had been sent.
    pub(in super::super) fn on_host_down(
        &mut self,
        number: u32,
        host: &RemoteHost,
        reason: &str,
        unseen: &[u64],
        effects: &mut Effects,
    ) {
        let Some(slot) = self.slot_of(number, host.epoch) else {
            return;
        };
        let running = slot.running.clone();
        self.expect_back(number, Instant::now());
        self.put_back(
            running
                .iter()
                .copied()
                .filter(|call| unseen.contains(call))
                .collect(),
            effects,
        );
        tracing::debug!(worker = number, host = &*host.name, reason, "host away");
        self.emit(|| Event::HostAway {
            worker: number,
            host: (*host.name).into(),
            reason: reason.into(),
        });
        effects.changed = true;
        if self.stage == Stage::Closed {
            return self.part_with(number, host.epoch, "the pool was shut down", effects);
        }
        for call in running {
            let why = self
                .entry(call)
                .and_then(|entry| entry.stop.as_ref())
                .map(|stop| stop.why.clone());
            if why == Some(StopReason::Shutdown) {
                self.lose(call, "the pool was shut down while it was away", effects);
            }
        }
        self.settle(effects);
    }

    /// Lets calls wait again that never reached their host. The newest first, so that they stand in
    /// the order in which they were given.
    fn put_back(&mut self, mut calls: Vec<u64>, effects: &mut Effects) {
        calls.sort_unstable_by_key(|call| Reverse(number_of(*call)));
        let now = Instant::now();
        for call in calls {
            let Some(entry) = self.entry(call) else {
                continue;
            };
            entry.attempt -= 1;
            let stop = entry.stop.take();
            let Phase::Running { slot, .. } = entry.phase else {
                continue;
            };
            let Some(conn) = self.conn(slot) else {
                continue;
            };
            self.cancel_timer(call);
            self.vacate(call, now);
            match stop {
                None => self.requeue(call),
                Some(mut stop) => {
                    stop.ended.cancel();
                    stop.step = Step::NotStarted;
                    let report = self.report(
                        call,
                        slot,
                        &conn,
                        Ended::from_reason(&stop.why),
                        std::time::Duration::ZERO,
                    );
                    let (outcome, receipt) = stopped(&stop, report);
                    self.end(call, Err(outcome), Some(receipt), effects);
                }
            }
        }
    }

    /// The deadline of a host that is away.
    pub(super) fn on_host_lost(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        let reason = format!("it was away for more than {:?}", self.config.hosts.keep);
        if self
            .slot_of(number, epoch)
            .is_some_and(|slot| slot.is_away())
        {
            self.part_with(number, epoch, &reason, effects);
        }
    }

    /// Ends a host's session. What it ran is run elsewhere if it may run twice, and lost otherwise.
    pub(in super::super) fn part_with(
        &mut self,
        number: u32,
        epoch: u64,
        reason: &str,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.slot_of(number, epoch) else {
            return;
        };
        let Some(host) = slot
            .conn
            .as_ref()
            .and_then(|conn| conn.remote_host().cloned())
        else {
            return;
        };
        let mut running = slot.running.clone();
        running.sort_unstable_by_key(|call| Reverse(number_of(*call)));
        slot.stage = SlotStage::Lost;
        self.take_off(number);
        let mut lost = 0;
        for call in running {
            if !self.move_on(call, &host) {
                lost += 1;
                self.lose(call, reason, effects);
            }
        }
        host.leave.cancel();
        self.empty(number);
        tracing::warn!(
            worker = number,
            host = &*host.name,
            reason,
            lost,
            "host lost"
        );
        self.emit(|| Event::HostLeft {
            worker: number,
            host: (*host.name).into(),
            reason: reason.into(),
            lost,
        });
        effects.changed = true;
        self.settle(effects);
    }

    /// Lets a call wait again whose host is lost, if it may run twice and nobody wants it stopped.
    fn move_on(&mut self, call: u64, host: &RemoteHost) -> bool {
        let closed = self.stage == Stage::Closed;
        let Some(entry) = self.entry(call) else {
            return true;
        };
        let twice = match &entry.request.target {
            Target::Task { name } => {
                host.is_idempotent(name) || registry::find(name).is_some_and(|task| task.idempotent)
            }
            Target::Function { .. } => false,
        };
        if closed || !twice || entry.stop.is_some() || entry.undelivered == UNDELIVERED_MAX {
            return false;
        }
        entry.undelivered += 1;
        entry.attempt -= 1;
        self.cancel_timer(call);
        self.vacate(call, Instant::now());
        self.requeue(call);
        true
    }

    /// Ends a call whose host is lost.
    pub(super) fn lose(&mut self, call: u64, reason: &str, effects: &mut Effects) {
        let Some(Phase::Running { slot, .. }) = self.entry(call).map(|entry| entry.phase) else {
            return;
        };
        let (now, Some(conn)) = (Instant::now(), self.conn(slot)) else {
            return;
        };
        let wall = self.wall(call, now);
        let report = self.report(call, slot, &conn, Ended::HostLost(reason.to_owned()), wall);
        if let Some(stop) = self.entry(call).and_then(|entry| entry.stop.take()) {
            stop.ended.cancel();
        }
        self.cancel_timer(call);
        self.vacate(call, now);
        self.end(call, Err(CallError::Lost(report)), None, effects);
    }

    pub(super) fn is_away(&self, number: u32) -> bool {
        self.slots
            .get(number as usize - 1)
            .and_then(Option::as_ref)
            .is_some_and(WorkerSlot::is_away)
    }

    /// A host takes what it is sent faster again, or its distance is known better.
    pub(in super::super) fn on_relieved(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        if self.slot_of(number, epoch).is_some() {
            self.offer(number);
            self.settle(effects);
        }
    }

    /// Whether this call runs at that host.
    pub(in super::super) fn runs_at(&mut self, call: u64, number: u32, epoch: u64) -> bool {
        let runs = self.entry(call).is_some_and(
            |entry| matches!(entry.phase, Phase::Running { slot, .. } if slot == number),
        );
        runs && self.slot_of(number, epoch).is_some()
    }

    /// Takes what a host says. Whether it was an answer, which it may forget then.
    ///
    /// # Errors
    ///
    /// `Protocol` if it answers what it was not asked; the host must go.
    pub(in super::super) fn on_word(
        &mut self,
        (number, epoch): (u32, u64),
        call: u64,
        message: HostMessage,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<bool, Error> {
        if self.slot_of(number, epoch).is_none() {
            return Ok(false);
        }
        let runs_here = self.runs_at(call, number, epoch);
        match message {
            // Progress may have been on its way when its call was given up.
            HostMessage::Progress(_) if !runs_here => {}
            HostMessage::Progress(update) => self.on_progress(call, &update, effects),
            HostMessage::Leaving => self.retire(number, "its host leaves"),
            HostMessage::Answer { .. } if !runs_here => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("it answered call {call}, which it does not run"),
                ));
            }
            HostMessage::Answer {
                ending,
                output,
                result,
            } => {
                self.on_host_answer(number, call, (ending, output, result), now, effects);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn on_host_answer(
        &mut self,
        number: u32,
        call: u64,
        (ending, output, result): (Ending, Option<Output>, Bytes),
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(conn) = self.conn(number) else {
            return;
        };
        if let Some(slot) = self.slot(number) {
            match &ending {
                Ending::Done => slot.done += 1,
                Ending::Returned => {}
                _ => slot.failed += 1,
            }
        }
        let wall = self.wall(call, now);
        if let Some(host) = conn.remote_host() {
            match &ending {
                // Those before it take long: nothing more goes ahead until it is known how long.
                Ending::Returned => host.turned_back(),
                _ => host.took(wall),
            }
        }
        self.cancel_timer(call);
        let Some(stop) = self.entry(call).map(|entry| entry.stop.take()) else {
            return;
        };
        self.vacate(call, now);
        if let Some(mut stop) = stop {
            stop.ended.cancel();
            let (told, step) = ending.stopped();
            stop.step = stop.step.max(step.unwrap_or(stop.step));
            let own = self.report(call, number, &conn, Ended::from_reason(&stop.why), wall);
            let report = match told {
                Some(told) => Box::new(AttemptReport {
                    ended: own.ended.clone(),
                    ..*sign(call, &own, told)
                }),
                None => own,
            };
            let (outcome, receipt) = stopped(&stop, report);
            return self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
        }
        match ending {
            Ending::Done => self.end_with_output(call, Ok(result), None, output, effects),
            Ending::Failed(failure) => self.on_failed(call, failure, output, effects),
            Ending::Panicked(told) | Ending::Crashed(told) | Ending::Lost(told) => {
                let report = self.signed(call, number, &conn, told, wall);
                self.on_attempt_died_there(call, report, output, effects);
            }
            Ending::TimedOut(told) => {
                let report = self.signed(call, number, &conn, told, wall);
                let receipt = crate::attempt_report::StopReceipt::new(
                    report.step.unwrap_or(Step::Asked),
                    report.cost.wall,
                );
                let outcome = CallError::TimedOut(TimedOut::Run(report));
                self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
            }
            Ending::Passed(reasons) => self.on_passed(call, number, conn.epoch(), reasons, effects),
            Ending::Returned | Ending::Stopped { report: None, .. } => {
                if let Some(entry) = self.entry(call) {
                    entry.attempt -= 1;
                }
                self.requeue(call);
            }
            // Nobody here asked for that: the host had to, because it ends.
            Ending::Stopped {
                report: Some(told), ..
            } => {
                let mut report = self.signed(call, number, &conn, told, wall);
                report.ended = Ended::HostLost("its host stopped it".to_owned());
                self.on_interrupted(call, report, &conn, effects);
            }
            Ending::Refused { why, text } => {
                let error = Error::new(why.kind(), text);
                self.end_with_output(call, Err(error.into()), None, output, effects);
            }
        }
    }

    /// What a host says of an attempt, with what this pool knows better.
    fn signed(
        &mut self,
        call: u64,
        number: u32,
        conn: &WorkerConn,
        told: Box<AttemptReport>,
        wall: Duration,
    ) -> Box<AttemptReport> {
        let own = self.report(call, number, conn, told.ended.clone(), wall);
        sign(call, &own, told)
    }

    fn on_attempt_died_there(
        &mut self,
        call: u64,
        report: Box<AttemptReport>,
        output: Option<Output>,
        effects: &mut Effects,
    ) {
        let outcome = CallError::from_report(report);
        // A panic that unwound has left its process whole.
        let crashed = !matches!(outcome, CallError::Lost(_))
            && outcome.report().is_some_and(|report| report.exit.is_some());
        if crashed {
            self.counters.crashed += 1;
            if let Some(entry) = self.entry(call) {
                entry.crashes += 1;
                (entry.alone, entry.fresh) = (true, true);
            }
        }
        self.retry_or_end(call, outcome, RetryAdvice::Policy, output, effects);
    }

    /// An attempt that its host stopped because it had to end. It was taken off its slot.
    fn on_interrupted(
        &mut self,
        call: u64,
        report: Box<AttemptReport>,
        conn: &WorkerConn,
        effects: &mut Effects,
    ) {
        let twice = match self.entry(call).map(|entry| &entry.request.target) {
            Some(Target::Task { name }) => {
                conn.remote_host()
                    .is_some_and(|host| host.is_idempotent(name))
                    || registry::find(name).is_some_and(|task| task.idempotent)
            }
            _ => false,
        };
        if !twice {
            return self.end(call, Err(CallError::Lost(report)), None, effects);
        }
        if let Some(entry) = self.entry(call) {
            entry.attempt -= 1;
        }
        self.requeue(call);
    }
}

/// What a host says of an attempt, with what this pool knows better.
fn sign(call: u64, own: &AttemptReport, mut told: Box<AttemptReport>) -> Box<AttemptReport> {
    told.worker = own.worker;
    told.host.clone_from(&own.host);
    told.call = number_of(call);
    told.attempt = own.attempt;
    told.task.clone_from(&own.task);
    if told.progress.is_none() {
        told.progress.clone_from(&own.progress);
    }
    told
}

impl Ending {
    /// What an ending tells of an attempt that was stopped: its report, and which step did it.
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

impl Refusal {
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

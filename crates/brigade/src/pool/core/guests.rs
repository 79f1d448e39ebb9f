//! Hosts that joined: how they come, go away, come back and leave, and what becomes of their calls.
//!
//! A host sits in a seat for as long as its *session* lasts, which outlives its connections. While
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
use super::super::member::{Guest, HostMessage, Member, TaskFacts};
use super::calls::number_of;
use super::endings::{UNDELIVERED_MAX, stopped};
use super::seats::{Seat, SeatStage};
use super::{Core, Effects, Phase, Stage, Why};
use crate::call::Target;
use crate::certificate::{Certificate, Ended, Step};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{CallError, RetryAdvice, TimedOut};
use crate::process::Output;
use crate::registry;
use crate::wire::remote::{Ending, Mark, Refusal};

/// Hosts that one pool takes in.
const GUESTS_MAX: usize = 4096;

/// A host that wants to join, as it introduced itself.
pub(in super::super) struct Newcomer {
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
pub(in super::super) struct Arrival {
    pub(in super::super) number: u32,
    /// Where its connection comes from.
    pub(in super::super) peer: Box<str>,
    /// Calls that it holds, each with its attempt.
    pub(in super::super) held: Vec<(u64, u32)>,
    /// It begins nothing more.
    pub(in super::super) leaving: bool,
}

impl Core {
    /// Finds the seat of a host's session, or gives it one.
    ///
    /// # Errors
    ///
    /// Why it cannot join, in words.
    pub(in super::super) fn receive(
        &mut self,
        newcomer: Newcomer,
        effects: &mut Effects,
    ) -> Result<(u32, Arc<Guest>), String> {
        if self.stage == Stage::Closed {
            return Err("the pool is shutting down".to_owned());
        }
        let known = (1..).zip(&self.seats).find_map(|(number, seat)| {
            let guest = seat.as_ref()?.member.as_ref()?.guest()?;
            (guest.session == newcomer.session).then(|| (number, Arc::clone(guest)))
        });
        if let Some((number, guest)) = known {
            if guest.identity != newcomer.identity {
                return Err(format!(
                    "its session is that of {}, and it is {}",
                    guest.identity, newcomer.identity
                ));
            }
            return Ok((number, guest));
        }
        if self.stage != Stage::Open {
            return Err("the pool is shutting down".to_owned());
        }
        if self.guests() >= GUESTS_MAX {
            return Err(format!("{GUESTS_MAX} hosts have joined already"));
        }
        self.epochs += 1;
        let (epoch, now) = (self.epochs, Instant::now());
        let mut seat = Seat::new(epoch, newcomer.slots, now);
        let guest = Arc::new(Guest::new(epoch, newcomer));
        seat.member = Some(Member::Guest(Arc::clone(&guest)));
        let number = self.seat_down(seat);
        self.expect_back(number, now);
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
        Ok((number, guest))
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
        let before = self.seat(number).and_then(|seat| seat.away.replace(key));
        if let Some(before) = before {
            self.deadlines.remove(before);
        }
    }

    /// A host's connection is up: welcomes it and goes on where both know of it. `false` if its
    /// session is over.
    pub(in super::super) fn on_host_up(
        &mut self,
        arrival: &Arrival,
        guest: &Guest,
        effects: &mut Effects,
    ) -> bool {
        let number = arrival.number;
        let Some(seat) = self.seat_of(number, guest.epoch) else {
            return false;
        };
        let (away, is_new) = (seat.away.take(), seat.stage == SeatStage::Starting);
        let running = seat.running.clone();
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
        guest.welcome(number, &self.config, !is_new, drop);
        if is_new {
            self.counters.started += 1;
            self.open_for_calls(number);
        }
        let held: HashSet<(u64, u32)> = arrival.held.iter().copied().collect();
        self.put_back(
            expected.difference(&held).map(|(call, _)| *call).collect(),
            effects,
        );
        self.stop_again(number, guest);
        self.offer(number);
        let (host, identity, pid, slots) = (&*guest.name, &*guest.identity, guest.pid, guest.slots);
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
    fn stop_again(&mut self, number: u32, guest: &Guest) {
        let running = self
            .seat(number)
            .map(|seat| seat.running.clone())
            .unwrap_or_default();
        for call in running {
            if let Some(stop) = self.entry(call).and_then(|entry| entry.stop.as_ref()) {
                guest.stop(call, stop.why.told(), stop.hurry.is_cancelled());
            }
        }
    }

    /// A host's connection is down. Of `unseen` calls not a byte had been sent.
    pub(in super::super) fn on_host_down(
        &mut self,
        number: u32,
        guest: &Guest,
        reason: &str,
        unseen: &[u64],
        effects: &mut Effects,
    ) {
        let Some(seat) = self.seat_of(number, guest.epoch) else {
            return;
        };
        let running = seat.running.clone();
        self.expect_back(number, Instant::now());
        self.put_back(
            running
                .iter()
                .copied()
                .filter(|call| unseen.contains(call))
                .collect(),
            effects,
        );
        tracing::debug!(worker = number, host = &*guest.name, reason, "host away");
        self.emit(|| Event::HostAway {
            worker: number,
            host: (*guest.name).into(),
            reason: reason.into(),
        });
        effects.changed = true;
        if self.stage == Stage::Closed {
            return self.part_with(number, guest.epoch, "the pool was shut down", effects);
        }
        for call in running {
            let why = self
                .entry(call)
                .and_then(|entry| entry.stop.as_ref())
                .map(|stop| stop.why.clone());
            if why == Some(Why::Shutdown) {
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
            let Phase::Running { seat, .. } = entry.phase else {
                continue;
            };
            let Some(member) = self.member(seat) else {
                continue;
            };
            self.cancel_timer(call);
            self.vacate(call, now);
            match stop {
                None => self.requeue(call),
                Some(mut stop) => {
                    stop.ended.cancel();
                    stop.step = Step::NotStarted;
                    let certificate = self.certificate(
                        call,
                        seat,
                        &member,
                        Ended::from_why(&stop.why),
                        std::time::Duration::ZERO,
                    );
                    let (outcome, receipt) = stopped(&stop, certificate);
                    self.end(call, Err(outcome), Some(receipt), effects);
                }
            }
        }
    }

    /// The deadline of a host that is away.
    pub(super) fn on_host_lost(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        let reason = format!("it was away for more than {:?}", self.config.hosts.keep);
        if self
            .seat_of(number, epoch)
            .is_some_and(|seat| seat.is_away())
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
        let Some(seat) = self.seat_of(number, epoch) else {
            return;
        };
        let Some(guest) = seat
            .member
            .as_ref()
            .and_then(|member| member.guest().cloned())
        else {
            return;
        };
        let mut running = seat.running.clone();
        running.sort_unstable_by_key(|call| Reverse(number_of(*call)));
        seat.stage = SeatStage::Lost;
        self.take_off(number);
        let mut lost = 0;
        for call in running {
            if !self.move_on(call, &guest) {
                lost += 1;
                self.lose(call, reason, effects);
            }
        }
        guest.leave.cancel();
        self.empty(number);
        tracing::warn!(
            worker = number,
            host = &*guest.name,
            reason,
            lost,
            "host lost"
        );
        self.emit(|| Event::HostLeft {
            worker: number,
            host: (*guest.name).into(),
            reason: reason.into(),
            lost,
        });
        effects.changed = true;
        self.settle(effects);
    }

    /// Lets a call wait again whose host is lost, if it may run twice and nobody wants it stopped.
    fn move_on(&mut self, call: u64, guest: &Guest) -> bool {
        let closed = self.stage == Stage::Closed;
        let Some(entry) = self.entry(call) else {
            return true;
        };
        let twice = match &entry.request.target {
            Target::Task { name } => {
                guest.is_idempotent(name)
                    || registry::find(name).is_some_and(|task| task.idempotent)
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
        let Some(Phase::Running { seat, .. }) = self.entry(call).map(|entry| entry.phase) else {
            return;
        };
        let (now, Some(member)) = (Instant::now(), self.member(seat)) else {
            return;
        };
        let wall = self.wall(call, now);
        let certificate = self.certificate(
            call,
            seat,
            &member,
            Ended::HostLost(reason.to_owned()),
            wall,
        );
        if let Some(stop) = self.entry(call).and_then(|entry| entry.stop.take()) {
            stop.ended.cancel();
        }
        self.cancel_timer(call);
        self.vacate(call, now);
        self.end(call, Err(CallError::Lost(certificate)), None, effects);
    }

    pub(super) fn is_away(&self, number: u32) -> bool {
        self.seats
            .get(number as usize - 1)
            .and_then(Option::as_ref)
            .is_some_and(Seat::is_away)
    }

    /// A host takes what it is sent faster again, or its distance is known better.
    pub(in super::super) fn on_relieved(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        if self.seat_of(number, epoch).is_some() {
            self.offer(number);
            self.settle(effects);
        }
    }

    /// Whether this call runs at that host.
    pub(in super::super) fn runs_at(&mut self, call: u64, number: u32, epoch: u64) -> bool {
        let runs = self.entry(call).is_some_and(
            |entry| matches!(entry.phase, Phase::Running { seat, .. } if seat == number),
        );
        runs && self.seat_of(number, epoch).is_some()
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
        if self.seat_of(number, epoch).is_none() {
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
                self.on_answer_of_guest(number, call, (ending, output, result), now, effects);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn on_answer_of_guest(
        &mut self,
        number: u32,
        call: u64,
        (ending, output, result): (Ending, Option<Output>, Bytes),
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(member) = self.member(number) else {
            return;
        };
        if let Some(seat) = self.seat(number) {
            match &ending {
                Ending::Done => seat.done += 1,
                Ending::Returned => {}
                _ => seat.failed += 1,
            }
        }
        let wall = self.wall(call, now);
        if let Some(guest) = member.guest() {
            match &ending {
                // Those before it take long: nothing more goes ahead until it is known how long.
                Ending::Returned => guest.turned_back(),
                _ => guest.took(wall),
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
            let own = self.certificate(call, number, &member, Ended::from_why(&stop.why), wall);
            let certificate = match told {
                Some(told) => Box::new(Certificate {
                    ended: own.ended.clone(),
                    ..*sign(call, &own, told)
                }),
                None => own,
            };
            let (outcome, receipt) = stopped(&stop, certificate);
            return self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
        }
        match ending {
            Ending::Done => self.end_with_output(call, Ok(result), None, output, effects),
            Ending::Failed(failure) => self.on_failed(call, failure, output, effects),
            Ending::Panicked(told) | Ending::Crashed(told) | Ending::Lost(told) => {
                let certificate = self.signed(call, number, &member, told, wall);
                self.on_attempt_died_there(call, certificate, output, effects);
            }
            Ending::TimedOut(told) => {
                let certificate = self.signed(call, number, &member, told, wall);
                let receipt = crate::certificate::Receipt::new(
                    certificate.step.unwrap_or(Step::Asked),
                    certificate.cost.wall,
                );
                let outcome = CallError::TimedOut(TimedOut::Run(certificate));
                self.end_with_output(call, Err(outcome), Some(receipt), output, effects);
            }
            Ending::Passed(reasons) => {
                self.on_passed(call, number, member.epoch(), reasons, effects)
            }
            Ending::Returned
            | Ending::Stopped {
                certificate: None, ..
            } => {
                if let Some(entry) = self.entry(call) {
                    entry.attempt -= 1;
                }
                self.requeue(call);
            }
            // Nobody here asked for that: the host had to, because it ends.
            Ending::Stopped {
                certificate: Some(told),
                ..
            } => {
                let mut certificate = self.signed(call, number, &member, told, wall);
                certificate.ended = Ended::HostLost("its host stopped it".to_owned());
                self.on_interrupted(call, certificate, &member, effects);
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
        member: &Member,
        told: Box<Certificate>,
        wall: Duration,
    ) -> Box<Certificate> {
        let own = self.certificate(call, number, member, told.ended.clone(), wall);
        sign(call, &own, told)
    }

    fn on_attempt_died_there(
        &mut self,
        call: u64,
        certificate: Box<Certificate>,
        output: Option<Output>,
        effects: &mut Effects,
    ) {
        let outcome = CallError::from_certificate(certificate);
        // A panic that unwound has left its process whole.
        let crashed = !matches!(outcome, CallError::Lost(_))
            && outcome
                .certificate()
                .is_some_and(|certificate| certificate.exit.is_some());
        if crashed {
            self.counters.crashed += 1;
            if let Some(entry) = self.entry(call) {
                entry.crashes += 1;
                (entry.alone, entry.fresh) = (true, true);
            }
        }
        self.retry_or_end(call, outcome, RetryAdvice::Policy, output, effects);
    }

    /// An attempt that its host stopped because it had to end. It was taken off its seat.
    fn on_interrupted(
        &mut self,
        call: u64,
        certificate: Box<Certificate>,
        member: &Member,
        effects: &mut Effects,
    ) {
        let twice = match self.entry(call).map(|entry| &entry.request.target) {
            Some(Target::Task { name }) => {
                member
                    .guest()
                    .is_some_and(|guest| guest.is_idempotent(name))
                    || registry::find(name).is_some_and(|task| task.idempotent)
            }
            _ => false,
        };
        if !twice {
            return self.end(call, Err(CallError::Lost(certificate)), None, effects);
        }
        if let Some(entry) = self.entry(call) {
            entry.attempt -= 1;
        }
        self.requeue(call);
    }
}

/// What a host says of an attempt, with what this pool knows better.
fn sign(call: u64, own: &Certificate, mut told: Box<Certificate>) -> Box<Certificate> {
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
    /// What an ending tells of an attempt that was stopped: its certificate, and which step did it.
    fn stopped(self) -> (Option<Box<Certificate>>, Option<Step>) {
        match self {
            Self::Stopped { certificate, step } => (certificate, Some(step)),
            Self::Returned => (None, Some(Step::NotStarted)),
            Self::Panicked(certificate)
            | Self::Crashed(certificate)
            | Self::TimedOut(certificate)
            | Self::Lost(certificate) => {
                let step = certificate.step;
                (Some(certificate), step)
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

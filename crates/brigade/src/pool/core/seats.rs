//! Seats: which workers there are, how many there should be, and who is free.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::super::deadlines::{Due, after};
use super::super::member::Member;
use super::super::stats::{Stats, WorkerInfo, WorkerState};
use super::{Core, Effects, Phase, Stage};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::CallError;
use crate::process::resident_bytes;
use crate::retry::jitter;
use crate::wire::kind;

/// A place for one worker process.
pub(in super::super) struct Seat {
    pub(super) epoch: u64,
    since: Instant,
    pub(super) stage: SeatStage,
    pub(super) member: Option<Arc<Member>>,
    /// Calls whose attempts it runs.
    pub(super) running: Vec<u64>,
    /// Its one attempt must stay alone.
    alone: bool,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Attempts until it is replaced.
    lives: Option<u64>,
    idle_since: Instant,
    /// Told when nothing but attempts that are being stopped is left.
    pub(super) when_alone: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatStage {
    Starting,
    Spare,
    Ready,
    Retiring,
}

impl Core {
    fn seat(&mut self, number: u32) -> Option<&mut Seat> {
        self.seats.get_mut(number as usize - 1)?.as_mut()
    }

    /// The seat, if it still holds that very process.
    pub(super) fn seat_of(&mut self, number: u32, epoch: u64) -> Option<&mut Seat> {
        self.seat(number).filter(|seat| seat.epoch == epoch)
    }

    pub(super) fn epoch(&self, number: u32) -> Option<u64> {
        Some(self.seats.get(number as usize - 1)?.as_ref()?.epoch)
    }

    pub(super) fn member(&self, number: u32) -> Option<Arc<Member>> {
        self.seats.get(number as usize - 1)?.as_ref()?.member.clone()
    }

    // -- how many

    /// Starts the workers that are missing.
    pub(super) fn maintain(&mut self, effects: &mut Effects) {
        if self.stage == Stage::Closed {
            return;
        }
        let slots = self.config.slots as usize;
        let (mut usable, mut starting, mut spares) = (0, 0, 0);
        for seat in self.seats.iter().flatten() {
            match seat.stage {
                SeatStage::Starting => starting += 1,
                SeatStage::Spare => spares += 1,
                SeatStage::Ready => usable += 1,
                SeatStage::Retiring => {}
            }
        }
        let queued = self.queue.len() + self.aside.len();
        let wanted_for_calls = if self.free.is_empty() || queued > 0 { usable + queued.div_ceil(slots) } else { usable };
        let wanted = wanted_for_calls.clamp(self.config.workers_min, self.config.workers_max).max(usable);
        while usable < wanted && spares > 0 {
            spares -= 1;
            usable += 1;
            self.promote_spare(effects);
        }
        let spares_wanted = if usable > 0 || self.config.workers_min > 0 { self.config.spares } else { 0 };
        let total_wanted = wanted + spares_wanted;
        let mut missing = total_wanted.saturating_sub(usable + spares + starting);
        if missing == 0 || self.stage == Stage::Draining && queued == 0 {
            return;
        }
        let now = Instant::now();
        if !self.restart.may_start(now) {
            return;
        }
        if self.restart.is_probing() {
            missing = missing.min(1_usize.saturating_sub(starting));
        }
        for _ in 0..missing {
            self.start_one(now, effects);
        }
    }

    fn start_one(&mut self, now: Instant, effects: &mut Effects) {
        self.epochs += 1;
        let seat = Seat {
            epoch: self.epochs,
            since: now,
            stage: SeatStage::Starting,
            member: None,
            running: Vec::new(),
            alone: false,
            done: 0,
            failed: 0,
            lives: self.config.recycle_calls.map(lives),
            idle_since: now,
            when_alone: Vec::new(),
        };
        let index = self.seats.iter().position(Option::is_none).unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.seats[index] = Some(seat);
        let number = u32::try_from(index + 1).expect("the number of workers is limited");
        effects.starts.push((number, self.epochs));
        effects.changed = true;
    }

    fn promote_spare(&mut self, effects: &mut Effects) {
        let spare = self.seats.iter().position(|seat| seat.as_ref().is_some_and(|seat| seat.stage == SeatStage::Spare));
        if let Some(index) = spare {
            self.open_for_calls(u32::try_from(index + 1).expect("the number of workers is limited"));
            self.dispatch(effects);
        }
    }

    fn open_for_calls(&mut self, number: u32) {
        let Some(seat) = self.seat(number) else { return };
        seat.stage = SeatStage::Ready;
        seat.idle_since = Instant::now();
        self.free.insert((0, number));
    }

    pub(in super::super) fn on_ready(&mut self, number: u32, epoch: u64, member: Arc<Member>, effects: &mut Effects) {
        let (wanted, closed) = (self.config.workers_max, self.stage == Stage::Closed);
        let usable = self.seats.iter().flatten().filter(|seat| seat.stage == SeatStage::Ready).count();
        let demand = self.config.workers_min.max(usable + self.queue.len() + self.aside.len()).min(wanted);
        let is_spare = self.config.spares > 0 && usable >= demand.max(1);
        let Some(seat) = self.seat_of(number, epoch) else { return member.retire.cancel() };
        let (pid, took) = (member.pid(), seat.since.elapsed());
        seat.member = Some(Arc::clone(&member));
        if closed {
            return member.retire.cancel();
        }
        if is_spare {
            seat.stage = SeatStage::Spare;
        } else {
            self.open_for_calls(number);
        }
        self.counters.started += 1;
        self.emit(|| Event::WorkerReady { worker: number, pid, took });
        tracing::debug!(worker = number, pid, ?took, "worker ready");
        if self.restart.succeeded() {
            self.emit(|| Event::Recovered);
            tracing::info!("workers start again");
        }
        effects.changed = true;
        self.settle(effects);
    }

    pub(in super::super) fn on_start_failed(&mut self, number: u32, epoch: u64, error: &Error, effects: &mut Effects) {
        if self.seat_of(number, epoch).is_none() {
            return;
        }
        self.seats[number as usize - 1] = None;
        effects.changed = true;
        if self.stage == Stage::Closed {
            return;
        }
        let (now, reason): (_, Arc<str>) = (Instant::now(), error.to_string().into());
        let pause = self.restart.failed(now, error.kind(), Arc::clone(&reason));
        self.deadlines.insert(now + pause, Due::Restart);
        self.emit(|| Event::WorkerStartFailed { worker: number, reason: Arc::clone(&reason) });
        tracing::warn!(worker = number, %reason, "a worker could not be started");
        if self.restart.is_degraded() {
            self.emit(|| Event::Degraded { reason, retry_in: pause });
            self.reject_waiting(effects);
        }
        self.settle(effects);
    }

    /// Why no call can be taken: workers keep failing at start and none is there.
    pub(super) fn cannot_start(&self) -> Option<Error> {
        let nobody = !self.seats.iter().flatten().any(|seat| seat.member.is_some());
        if !(self.restart.is_degraded() && nobody) {
            return None;
        }
        let reason = self.restart.reason.as_deref().unwrap_or("unknown");
        let kind = if self.restart.is_unsupported { ErrorKind::Unsupported } else { ErrorKind::CannotStart };
        Some(Error::new(kind, format!("start workers: {reason}")))
    }

    fn reject_waiting(&mut self, effects: &mut Effects) {
        let is_waiting = |entry: &super::Entry| !matches!(entry.phase, Phase::Running { .. } | Phase::Delayed);
        let waiting: Vec<usize> = self.calls.iter().filter(|(_, entry)| is_waiting(entry)).map(|(key, _)| key).collect();
        for key in waiting {
            if let Some(error) = self.cannot_start()
                && let Some(call) = self.call_at(key)
            {
                self.end(call, Err(CallError::Rejected(error)), None, effects);
            }
        }
    }

    // -- who runs what

    /// Gives the seat one more attempt. Returns its member and the attempt's index there.
    pub(super) fn occupy(&mut self, number: u32, call: u64, alone: bool) -> Option<(Arc<Member>, usize)> {
        let slots = self.config.slots;
        let seat = self.seat(number)?;
        let load = u32::try_from(seat.running.len()).unwrap_or(u32::MAX);
        seat.running.push(call);
        seat.alone = alone;
        if let Some(lives) = &mut seat.lives {
            *lives = lives.saturating_sub(1);
        }
        let spent = seat.lives == Some(0);
        let member = seat.member.clone()?;
        let room = !alone && load + 1 < slots && !spent;
        self.free.remove(&(load, number));
        if room {
            self.free.insert((load + 1, number));
        }
        Some((member, load as usize))
    }

    /// Takes an attempt off its seat.
    pub(super) fn vacate(&mut self, call: u64, now: Instant) {
        let Some(entry) = self.entry(call) else { return };
        let Phase::Running { seat: number, index, since } = entry.phase else { return };
        let slots = self.config.slots;
        let Some(seat) = self.seat(number) else { return };
        let load = u32::try_from(seat.running.len()).unwrap_or(u32::MAX);
        seat.running.swap_remove(index);
        seat.alone = false;
        seat.idle_since = now;
        let moved = seat.running.get(index).copied();
        let open = seat.stage == SeatStage::Ready && seat.lives != Some(0);
        if let Some(moved) = moved
            && let Some(Phase::Running { index: moved_index, .. }) = self.entry(moved).map(|entry| &mut entry.phase)
        {
            *moved_index = index;
        }
        if open {
            self.free.remove(&(load, number));
            if load - 1 < slots {
                self.free.insert((load - 1, number));
            }
        }
        self.counters.run.record(now - since);
        self.counters.busy_time += now - since;
        self.after_vacate(number);
    }

    /// A seat whose attempts ended may be due to leave, or somebody waits until only stopped attempts are left.
    fn after_vacate(&mut self, number: u32) {
        let Some(seat) = self.seat(number) else { return };
        let (running, spent) = (seat.running.clone(), seat.lives == Some(0));
        if !seat.when_alone.is_empty() && self.all_stopping(&running) {
            let waiting = self.seat(number).map(|seat| std::mem::take(&mut seat.when_alone)).unwrap_or_default();
            for waiter in waiting {
                waiter.send(()).ok();
            }
        }
        if spent {
            self.retire(number, "it has done its number of calls");
        }
        self.let_go_if_done(number);
    }

    fn all_stopping(&mut self, calls: &[u64]) -> bool {
        calls.iter().all(|call| self.entry(*call).is_some_and(|entry| entry.stop.is_some()))
    }

    /// Gives a worker nothing new; it ends when it has finished.
    pub(in super::super) fn retire(&mut self, number: u32, reason: &str) {
        let Some(seat) = self.seat(number) else { return };
        if seat.stage == SeatStage::Retiring || seat.member.is_none() {
            return;
        }
        let load = u32::try_from(seat.running.len()).unwrap_or(u32::MAX);
        seat.stage = SeatStage::Retiring;
        self.free.remove(&(load, number));
        self.emit(|| Event::WorkerRetiring { worker: number, reason: reason.into() });
        self.let_go_if_done(number);
    }

    /// Retires that very worker, to be replaced.
    pub(in super::super) fn recycle(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        if self.seat_of(number, epoch).is_some() {
            self.retire(number, "it is being recycled");
            self.settle(effects);
            effects.changed = true;
        }
    }

    /// Lets every worker go; those that are still starting end when they are ready.
    pub(in super::super) fn retire_all(&mut self, effects: &mut Effects) {
        for (number, _) in self.members() {
            self.retire(number, "the pool shuts down");
        }
        effects.changed = true;
    }

    /// Tells a retiring worker that has finished to end. Its seat is free for the next one at once.
    fn let_go_if_done(&mut self, number: u32) {
        let Some(seat) = self.seat(number) else { return };
        if seat.stage == SeatStage::Retiring && seat.running.is_empty() && seat.when_alone.is_empty() {
            if let Some(member) = &seat.member {
                member.retire.cancel();
            }
            self.seats[number as usize - 1] = None;
        }
    }

    /// Gives the attempt's worker nothing new, because it is about to be ended by force. The receiver is told when
    /// it would hurt no other attempt, which is at once unless neighbours are to be spared.
    pub(in super::super) fn condemn(&mut self, call: u64, spare_neighbours: bool) -> Option<oneshot::Receiver<()>> {
        let Phase::Running { seat: number, .. } = self.entry(call)?.phase else { return None };
        let (tell, told) = oneshot::channel();
        let load = {
            let seat = self.seat(number)?;
            seat.stage = SeatStage::Retiring;
            u32::try_from(seat.running.len()).unwrap_or(u32::MAX)
        };
        self.free.remove(&(load, number));
        let running = self.seat(number)?.running.clone();
        if !spare_neighbours || self.all_stopping(&running) {
            tell.send(()).ok();
        } else {
            self.seat(number)?.when_alone.push(tell);
        }
        Some(told)
    }

    // -- the tick

    pub(super) fn on_tick(&mut self, now: Instant, effects: &mut Effects) {
        self.deadlines.insert(after(now, self.config.check_interval), Due::Tick);
        let numbers: Vec<u32> = (1..).zip(&self.seats).filter(|(_, seat)| seat.is_some()).map(|(number, _)| number).collect();
        let mut surplus = self.ready_count().saturating_sub(self.config.workers_min);
        for number in numbers.into_iter().rev() {
            surplus = self.look_after(number, now, surplus);
        }
        effects.changed = true;
    }

    /// Looks after one worker between two calls. Returns how many may still be sent home for want of work.
    fn look_after(&mut self, number: u32, now: Instant, surplus: usize) -> usize {
        let config = Arc::clone(&self.config);
        let Some(seat) = self.seat(number) else { return surplus };
        let Some(member) = seat.member.clone() else { return surplus };
        if !seat.running.is_empty() || !matches!(seat.stage, SeatStage::Ready | SeatStage::Spare) {
            return surplus;
        }
        let (idle, age, spare) = (now - seat.idle_since, now - seat.since, seat.stage == SeatStage::Spare);
        if member.pulse.ask() {
            // It is as good as dead: a call that it got now would be killed with it.
            seat.stage = SeatStage::Retiring;
            self.free.remove(&(0, number));
            member.break_off("it did not answer a ping");
            return surplus;
        }
        member.control.send(kind::PING, 0, &[]);
        if surplus > 0 && !spare && config.idle_timeout.is_some_and(|timeout| idle >= timeout) {
            self.retire(number, "it had nothing to do");
            return surplus - 1;
        }
        if config.recycle_age.is_some_and(|limit| age >= limit) {
            self.retire(number, "it is old");
        } else if config.recycle_memory.is_some_and(|limit| resident_bytes(member.pid()) > limit) {
            self.retire(number, "it uses much memory");
        }
        surplus
    }

    // -- looking

    pub(in super::super) fn ready_count(&self) -> usize {
        self.seats.iter().flatten().filter(|seat| seat.stage == SeatStage::Ready).count()
    }

    /// Numbers and epochs of all workers.
    pub(in super::super) fn members(&self) -> Vec<(u32, u64)> {
        (1..).zip(&self.seats).filter_map(|(number, seat)| Some((number, seat.as_ref()?.epoch))).collect()
    }

    pub(in super::super) fn degraded(&self) -> Option<Error> {
        self.cannot_start()
    }

    pub(in super::super) fn workers(&mut self) -> Vec<WorkerInfo> {
        let tasks: Vec<Option<String>> = (0..self.seats.len()).map(|index| self.last_task(index)).collect();
        let slots = self.config.slots;
        let seats = (1..).zip(&self.seats).zip(tasks);
        seats.filter_map(|((id, seat), task)| Some(seat.as_ref()?.info(id, slots, task))).collect()
    }

    fn last_task(&mut self, index: usize) -> Option<String> {
        let call = *self.seats[index].as_ref()?.running.last()?;
        Some(self.entry(call)?.request.task_name().to_owned())
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    pub(in super::super) fn stats(&self) -> Stats {
        let count = |stage| self.seats.iter().flatten().filter(|seat| seat.stage == stage).count();
        let idle = self.seats.iter().flatten().filter(|seat| seat.stage == SeatStage::Ready && seat.running.is_empty()).count();
        let running: usize = self.seats.iter().flatten().map(|seat| seat.running.len()).sum();
        let workers = self.seats.iter().flatten().count();
        let capacity = self.counters.since.elapsed().as_secs_f64() * (workers.max(1) as f64) * f64::from(self.config.slots);
        Stats {
            workers,
            busy: count(SeatStage::Ready) - idle,
            idle,
            starting: count(SeatStage::Starting),
            waiting: self.waiting(),
            running,
            done: self.counters.done,
            failed: self.counters.failed,
            crashed: self.counters.crashed,
            started: self.counters.started,
            degraded: self.restart.reason.as_deref().filter(|_| self.restart.is_degraded()).map(str::to_owned),
            wait: self.counters.wait.times(),
            run: self.counters.run.times(),
            utilization: (self.counters.busy_time.as_secs_f64() / capacity).min(1.0),
        }
    }
}

impl Seat {
    fn info(&self, id: u32, slots: u32, task: Option<String>) -> WorkerInfo {
        let state = match self.stage {
            SeatStage::Starting => WorkerState::Starting,
            SeatStage::Spare => WorkerState::Spare,
            SeatStage::Ready if self.running.is_empty() => WorkerState::Idle,
            SeatStage::Ready => WorkerState::Busy,
            SeatStage::Retiring => WorkerState::Retiring,
        };
        WorkerInfo {
            id,
            pid: self.member.as_ref().map(|member| member.pid()),
            state,
            slots,
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            done: self.done,
            failed: self.failed,
            task,
            age: Instant::now() - self.since,
        }
    }
}

/// A worker's number of calls, from the upper fifth.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an approximate number by design")]
fn lives(calls: u64) -> u64 {
    ((calls as f64 * jitter(0.2)).round() as u64).max(1)
}

//! Seats: which workers there are, how many there should be, and who is free.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

#[cfg(feature = "remote")]
use super::super::deadlines::DueKey;
use super::super::deadlines::{Due, after};
use super::super::worker_conn::{WorkerConn, WorkerProcess};

use super::choice::Rank;
use super::{Core, Effects, Phase, Stage};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::CallError;
use crate::retry::jitter;

/// A place for one worker: a process of ours, or a host that joined.
pub(in super::super) struct WorkerSlot {
    pub(super) epoch: u64,
    pub(super) since: Instant,
    pub(super) stage: SlotStage,
    pub(super) conn: Option<WorkerConn>,
    /// Attempts that it may run at once.
    pub(super) capacity: u32,
    /// How it stands among those that can take one more attempt, while it can.
    pub(super) rank: Option<Rank>,
    /// Since when its connection has been down, and when it is given up.
    #[cfg(feature = "remote")]
    pub(super) away: Option<DueKey>,
    /// What keeps its process from running, as found at the last look.
    pub(super) stopped_by: Option<String>,
    /// Calls whose attempts it runs.
    pub(super) running: Vec<u64>,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Attempts until it is replaced.
    pub(super) lives: Option<u64>,
    /// When it is replaced for its age.
    pub(super) retire_at: Option<Instant>,
    pub(super) idle_since: Instant,
    /// Told when nothing but attempts that are being stopped is left.
    pub(super) when_alone: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotStage {
    Starting,
    Spare,
    Ready,
    Retiring,
    /// Its host is lost and its calls are being seen to, within one step.
    #[cfg(feature = "remote")]
    Lost,
}

impl WorkerSlot {
    pub(super) fn new(epoch: u64, slots: u32, now: Instant) -> Self {
        Self {
            epoch,
            since: now,
            stage: SlotStage::Starting,
            conn: None,
            capacity: slots,
            rank: None,
            #[cfg(feature = "remote")]
            away: None,
            stopped_by: None,
            running: Vec::new(),
            done: 0,
            failed: 0,
            lives: None,
            retire_at: None,
            idle_since: now,
            when_alone: Vec::new(),
        }
    }

    /// How many attempts it runs.
    pub(super) fn load(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Whether a host sits there.
    pub(super) fn is_remote(&self) -> bool {
        self.conn
            .as_ref()
            .is_some_and(|conn| conn.child().is_none())
    }

    #[cfg(feature = "remote")]
    pub(super) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    #[cfg(not(feature = "remote"))]
    pub(super) fn is_away(&self) -> bool {
        false
    }
}

impl Core {
    /// Seats of our own processes.
    pub(super) fn own_worker_slots(&self) -> impl Iterator<Item = &WorkerSlot> {
        self.slots.iter().flatten().filter(|slot| !slot.is_remote())
    }

    pub(super) fn slot(&mut self, number: u32) -> Option<&mut WorkerSlot> {
        self.slots.get_mut(number as usize - 1)?.as_mut()
    }

    /// The slot, if it still holds that very process.
    pub(super) fn slot_of(&mut self, number: u32, epoch: u64) -> Option<&mut WorkerSlot> {
        self.slot(number).filter(|slot| slot.epoch == epoch)
    }

    pub(super) fn epoch(&self, number: u32) -> Option<u64> {
        Some(self.slots.get(number as usize - 1)?.as_ref()?.epoch)
    }

    pub(super) fn conn(&self, number: u32) -> Option<WorkerConn> {
        self.slots.get(number as usize - 1)?.as_ref()?.conn.clone()
    }

    // -- how many

    /// Starts the workers that are missing.
    pub(super) fn maintain(&mut self, effects: &mut Effects) {
        if self.stage == Stage::Closed {
            return;
        }
        let slots = self.config.slots as usize;
        let queued = self.queue.len_of_ours() + self.aside.len();
        if self.counts.is_fresh && (queued == 0 || self.counts.usable >= self.config.workers_max) {
            return;
        }
        self.count_workers();
        let WorkerCounts {
            mut usable,
            starting,
            mut spares,
            leaving,
            ..
        } = self.counts;
        let wanted_for_calls = if self.free.is_empty() || queued > 0 {
            usable + queued.div_ceil(slots)
        } else {
            usable
        };
        // While starts fail one worker is tried now and then, so that the pool notices when the
        // fault is over.
        let min_workers = self
            .config
            .workers_min
            .max(self.min_workers)
            .max(usize::from(self.restart.is_probing()));
        let wanted = wanted_for_calls
            .clamp(
                min_workers.min(self.config.workers_max),
                self.config.workers_max,
            )
            .max(usable);
        while usable < wanted && spares > 0 {
            spares -= 1;
            usable += 1;
            self.promote_spare(effects);
        }
        let spares_wanted = if usable > 0 || self.config.workers_min > 0 {
            self.config.spares
        } else {
            0
        };
        let total_wanted = wanted + spares_wanted;
        let mut missing = total_wanted.saturating_sub(usable + spares + starting + leaving);
        if missing == 0 || self.stage == Stage::Draining && queued == 0 {
            return;
        }
        let now = Instant::now();
        if !self.restart.may_start(now) {
            // Looked at again when the pause is over.
            self.counts_are_stale();
            return;
        }
        if self.restart.is_probing() {
            missing = missing.min(1_usize.saturating_sub(starting));
        }
        for _ in 0..missing {
            self.start_one(now, effects);
        }
    }

    fn count_workers(&mut self) {
        let count = |stage| {
            self.own_worker_slots()
                .filter(|slot| slot.stage == stage)
                .count()
        };
        // With one slot, a worker that is leaving still runs its one attempt, and its successor
        // takes its slot. With many, most of its slots stand empty, so the successor is started
        // beside it.
        let leaving = if self.config.slots == 1 {
            count(SlotStage::Retiring)
        } else {
            0
        };
        let (usable, starting, spares) = (
            count(SlotStage::Ready),
            count(SlotStage::Starting),
            count(SlotStage::Spare),
        );
        self.counts = WorkerCounts {
            usable,
            starting,
            spares,
            leaving,
            is_fresh: true,
        };
    }

    /// To be called wherever a slot's stage changes.
    pub(super) fn counts_are_stale(&mut self) {
        self.counts.is_fresh = false;
    }

    fn start_one(&mut self, now: Instant, effects: &mut Effects) {
        self.counts_are_stale();
        self.epochs += 1;
        let mut slot = WorkerSlot::new(self.epochs, self.config.slots, now);
        slot.lives = self.config.recycle_calls.map(lives);
        slot.retire_at = self
            .config
            .recycle_age
            .map(|age| after(now, age.mul_f64(jitter(0.1))));
        let number = self.add_slot(slot);
        effects.starts.push((number, self.epochs));
        effects.changed = true;
    }

    /// Puts a slot where none is. Returns its number.
    pub(super) fn add_slot(&mut self, slot: WorkerSlot) -> u32 {
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
        self.slots[index] = Some(slot);
        u32::try_from(index + 1).expect("the number of workers is limited")
    }

    fn promote_spare(&mut self, effects: &mut Effects) {
        let spare = self.slots.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|slot| slot.stage == SlotStage::Spare)
        });
        if let Some(index) = spare {
            self.open_for_calls(
                u32::try_from(index + 1).expect("the number of workers is limited"),
            );
            self.dispatch(effects);
        }
    }

    pub(super) fn open_for_calls(&mut self, number: u32) {
        self.counts_are_stale();
        let Some(slot) = self.slot(number) else {
            return;
        };
        slot.stage = SlotStage::Ready;
        slot.idle_since = Instant::now();
        self.offer(number);
    }

    pub(in super::super) fn on_ready(
        &mut self,
        number: u32,
        epoch: u64,
        child: Arc<WorkerProcess>,
        effects: &mut Effects,
    ) {
        let (wanted, closed) = (self.config.workers_max, self.stage == Stage::Closed);
        let usable = self
            .own_worker_slots()
            .filter(|slot| slot.stage == SlotStage::Ready)
            .count();
        let demand = self
            .config
            .workers_min
            .max(usable + self.queue.len_of_ours() + self.aside.len())
            .min(wanted);
        let is_spare = self.config.spares > 0 && usable >= demand.max(1);
        let Some(slot) = self.slot_of(number, epoch) else {
            return child.retire.cancel();
        };
        let (pid, took) = (child.pid(), slot.since.elapsed());
        slot.conn = Some(WorkerConn::Process(Arc::clone(&child)));
        if closed {
            return child.retire.cancel();
        }
        if is_spare {
            slot.stage = SlotStage::Spare;
            self.counts_are_stale();
        } else {
            self.open_for_calls(number);
        }
        self.counters.started += 1;
        self.emit(|| Event::WorkerReady {
            worker: number,
            pid,
            took,
        });
        tracing::debug!(worker = number, pid, ?took, "worker ready");
        if self.restart.succeeded() {
            self.emit(|| Event::Recovered);
            tracing::info!("workers start again");
        }
        effects.changed = true;
        self.settle(effects);
    }

    pub(in super::super) fn on_start_failed(
        &mut self,
        number: u32,
        epoch: u64,
        error: &Error,
        effects: &mut Effects,
    ) {
        if self.slot_of(number, epoch).is_none() {
            return;
        }
        self.empty(number);
        effects.changed = true;
        if self.stage == Stage::Closed {
            return;
        }
        self.emit(|| Event::WorkerStartFailed {
            worker: number,
            reason: error.to_string().into(),
        });
        self.note_failed_start(error, effects);
        self.settle(effects);
    }

    /// A start came to nothing: slows the next ones down, and tells the callers if that goes on.
    pub(super) fn note_failed_start(&mut self, error: &Error, effects: &mut Effects) {
        let (now, reason): (_, Arc<str>) = (Instant::now(), error.to_string().into());
        let pause = self.restart.failed(now, error.kind(), Arc::clone(&reason));
        self.deadlines.insert(now + pause, Due::Restart);
        tracing::warn!(%reason, "a worker could not be started");
        if self.restart.is_degraded() {
            self.emit(|| Event::Degraded {
                reason,
                retry_in: pause,
            });
            self.reject_waiting(effects);
        }
    }

    /// Nobody sits there any more.
    pub(super) fn empty(&mut self, number: u32) {
        self.take_off(number);
        self.slots[number as usize - 1] = None;
        self.counts_are_stale();
    }

    /// Why no call can be taken: workers keep failing at start and none is there.
    pub(super) fn cannot_start(&self) -> Option<Error> {
        let nobody = !self
            .slots
            .iter()
            .flatten()
            .any(|slot| slot.conn.is_some() || slot.stage == SlotStage::Starting);
        if !(self.restart.is_degraded() && nobody) {
            return None;
        }
        Some(self.start_error())
    }

    fn start_error(&self) -> Error {
        let reason = self.restart.reason.as_deref().unwrap_or("unknown");
        let kind = if self.restart.is_unsupported {
            ErrorKind::Unsupported
        } else {
            ErrorKind::CannotStart
        };
        Error::new(kind, format!("start workers: {reason}"))
    }

    fn reject_waiting(&mut self, effects: &mut Effects) {
        let is_waiting =
            |entry: &super::Entry| !matches!(entry.phase, Phase::Running { .. } | Phase::Delayed);
        let waiting: Vec<usize> = self
            .calls
            .iter()
            .filter(|(_, entry)| is_waiting(entry))
            .map(|(key, _)| key)
            .collect();
        for key in waiting {
            if let Some(error) = self.cannot_start()
                && let Some(call) = self.call_at(key)
            {
                self.end(call, Err(CallError::Rejected(error)), None, effects);
            }
        }
    }

    // -- who runs what

    /// Gives the slot one more attempt. Returns its conn and the attempt's index there.
    pub(super) fn occupy(
        &mut self,
        number: u32,
        call: u64,
        alone: bool,
    ) -> Option<(WorkerConn, usize)> {
        let slot = self.slot(number)?;
        let index = slot.running.len();
        slot.running.push(call);
        if let Some(lives) = &mut slot.lives {
            *lives = lives.saturating_sub(1);
        }
        let (conn, is_remote) = (slot.conn.clone()?, slot.is_remote());
        if alone && !is_remote {
            self.take_off(number);
        } else {
            self.offer(number);
        }
        Some((conn, index))
    }

    /// Whether a slot's worker has run nothing yet.
    pub(super) fn is_fresh(&self, number: u32) -> bool {
        let slot = self.slots.get(number as usize - 1).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.done + slot.failed == 0 && slot.running.is_empty())
    }

    /// Sees to it that workers are on their way for calls that want fresh ones: where no more may
    /// be started, the least loaded gives up its slot.
    pub(super) fn make_room_for_fresh(&mut self, wanted: usize) {
        self.count_workers();
        let WorkerCounts {
            usable,
            starting,
            leaving,
            ..
        } = self.counts;
        let coming = (starting + leaving).max(self.config.workers_max.saturating_sub(usable));
        for _ in coming..wanted {
            let used = |number: &u32| !self.is_remote(*number) && !self.is_fresh(*number);
            let least = self.free.iter().map(|rank| rank.number).find(used);
            let Some(number) = least else { return };
            self.retire(number, "a call that crashed runs next in a fresh worker");
        }
    }

    /// Takes an attempt off its slot.
    pub(super) fn vacate(&mut self, call: u64, now: Instant) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        let Phase::Running {
            slot: number,
            index,
            since,
        } = entry.phase
        else {
            return;
        };
        let Some(slot) = self.slot(number) else {
            return;
        };
        slot.running.swap_remove(index);
        slot.idle_since = now;
        let moved = slot.running.get(index).copied();
        if let Some(moved) = moved
            && let Some(Phase::Running {
                index: moved_index, ..
            }) = self.entry(moved).map(|entry| &mut entry.phase)
        {
            *moved_index = index;
        }
        self.offer(number);
        self.counters.run.record(now - since);
        self.counters.busy_time += now - since;
        self.after_vacate(number);
    }

    /// A slot whose attempts ended may be due to leave, or somebody waits until only stopped
    /// attempts are left.
    fn after_vacate(&mut self, number: u32) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        let (spent, awaited) = (slot.lives == Some(0), !slot.when_alone.is_empty());
        let running = if awaited {
            slot.running.clone()
        } else {
            Vec::new()
        };
        if awaited && self.all_stopping(&running) {
            let waiting = self
                .slot(number)
                .map(|slot| std::mem::take(&mut slot.when_alone))
                .unwrap_or_default();
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
        calls
            .iter()
            .all(|call| self.entry(*call).is_some_and(|entry| entry.stop.is_some()))
    }

    /// Gives a worker nothing new; it ends when it has finished.
    pub(in super::super) fn retire(&mut self, number: u32, reason: &str) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        if slot.stage == SlotStage::Retiring || slot.conn.is_none() {
            return;
        }
        slot.stage = SlotStage::Retiring;
        self.counts_are_stale();
        self.take_off(number);
        self.emit(|| Event::WorkerRetiring {
            worker: number,
            reason: reason.into(),
        });
        self.let_go_if_done(number);
    }

    /// Retires that very worker, to be replaced.
    pub(in super::super) fn recycle(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        if self.slot_of(number, epoch).is_some() {
            self.retire(number, "it is being recycled");
            self.settle(effects);
            effects.changed = true;
        }
    }

    /// Lets every worker go; those that are still starting end when they are ready.
    pub(in super::super) fn retire_all(&mut self, effects: &mut Effects) {
        for (number, _) in self.connected() {
            self.retire(number, "the pool shuts down");
        }
        effects.changed = true;
    }

    /// Tells a retiring worker that has finished to end. Its slot is free for the next one at once.
    fn let_go_if_done(&mut self, number: u32) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        if slot.stage == SlotStage::Retiring
            && slot.running.is_empty()
            && slot.when_alone.is_empty()
        {
            let conn = slot.conn.clone();
            self.empty(number);
            let Some(conn) = conn else { return };
            conn.let_go();
            if let Some(host) = conn.host() {
                self.emit(|| Event::HostLeft {
                    worker: number,
                    host: host.into(),
                    reason: "it was let go".into(),
                    lost: 0,
                });
            }
        }
    }

    /// Gives the attempt's worker nothing new, because it is about to be ended by force. The
    /// receiver is told when it would hurt no other attempt, which is at once unless neighbours are
    /// to be spared.
    pub(in super::super) fn schedule_kill(
        &mut self,
        call: u64,
        spare_neighbours: bool,
        effects: &mut Effects,
    ) -> Option<oneshot::Receiver<()>> {
        let Phase::Running { slot: number, .. } = self.entry(call)?.phase else {
            return None;
        };
        let (tell, told) = oneshot::channel();
        self.close_slot(number, "an attempt has to be stopped by force");
        let running = self.slot(number)?.running.clone();
        if !spare_neighbours || self.all_stopping(&running) {
            tell.send(()).ok();
        } else {
            self.slot(number)?.when_alone.push(tell);
        }
        // Where it has many slots, its replacement is on its way before it is gone.
        self.settle(effects);
        Some(told)
    }

    /// Gives the slot nothing new: its process is about to end, or has ended and is not reaped yet.
    pub(super) fn close_slot(&mut self, number: u32, reason: &str) {
        self.counts_are_stale();
        let Some(slot) = self.slot(number) else {
            return;
        };
        if slot.stage == SlotStage::Retiring {
            return;
        }
        slot.stage = SlotStage::Retiring;
        self.take_off(number);
        self.emit(|| Event::WorkerRetiring {
            worker: number,
            reason: reason.into(),
        });
    }

    /// The worker's process has ended or must: no call may be given to it while it is being reaped.
    pub(in super::super) fn on_ending(&mut self, number: u32, epoch: u64, effects: &mut Effects) {
        if self.slot_of(number, epoch).is_some() {
            self.close_slot(number, "its process is ending");
            self.settle(effects);
        }
    }

    /// Keeps at least so many workers, until it is taken back.
    pub(in super::super) fn set_min_workers(&mut self, workers: usize, effects: &mut Effects) {
        self.min_workers = workers;
        self.counts_are_stale();
        self.settle(effects);
    }

    /// Why workers cannot be started, if the last few could not.
    pub(in super::super) fn failing(&self) -> Option<Error> {
        self.restart.is_degraded().then(|| self.start_error())
    }
}

impl WorkerSlot {
    pub(super) fn age(&self) -> std::time::Duration {
        self.since.elapsed()
    }
}

/// How many workers are in which stage, as far as that is decided by it how many to start. Counted
/// anew only after a change.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct WorkerCounts {
    usable: usize,
    starting: usize,
    spares: usize,
    leaving: usize,
    is_fresh: bool,
}

/// A worker's number of calls, from the upper fifth.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an approximate number by design"
)]
fn lives(calls: u64) -> u64 {
    ((calls as f64 * jitter(0.2)).round() as u64).max(1)
}

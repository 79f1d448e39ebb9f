//! How many workers there are: what the calls that wait need, within the pool's limits.
//!
//! `maintain` runs at the end of each step. It starts what is missing and promotes spares, and does
//! nothing while the counts of the last time still hold. Workers are retired elsewhere (`checks`,
//! `attempts`); here only to make room for a fresh one.

use super::super::deadlines::after;
use super::super::ids::{CallId, WorkerId};
use super::effects::Effects;
use super::worker_slot::WorkerStage;
use super::{Core, Stage, WorkerCounts};

impl Core {
    /// Starts the workers that are missing.
    pub(super) fn maintain(&mut self, effects: &mut Effects) {
        if self.stage == Stage::Closed {
            return;
        }
        let queued = self.queue.len_of_ours() + self.aside.len();
        if self.counts.is_fresh && (queued == 0 || self.counts.usable >= self.config.workers_max) {
            return;
        }
        let wanted = self.wanted(queued);
        while self.counts.usable < wanted && self.counts.spares > 0 {
            self.promote_spare(effects);
            self.count_workers();
        }
        let mut missing = self.missing(wanted);
        if missing == 0 || self.stage == Stage::Draining && queued == 0 {
            return;
        }
        if !self.restart.may_start(self.now) {
            // Looked at again when the pause is over.
            self.counts_are_stale();
            return;
        }
        if self.restart.is_probing() {
            missing = missing.min(1_usize.saturating_sub(self.counts.starting));
        }
        for _ in 0..missing {
            self.start_one(effects);
        }
    }

    /// How many workers should be usable.
    fn wanted(&mut self, queued: usize) -> usize {
        self.count_workers();
        let usable = self.counts.usable;
        // More workers would be no help to calls that wait for memory.
        let wanted_for_calls = if queued > 0 && !self.first_waits_for_memory() {
            usable + queued.div_ceil(self.config.slots as usize)
        } else {
            usable
        };
        // While starts fail one worker is tried now and then, so that the pool notices when the
        // fault is over.
        let least = self
            .config
            .workers_min
            .max(self.min_workers)
            .max(usize::from(self.restart.is_probing()));
        let most = self.config.workers_max;
        wanted_for_calls.clamp(least.min(most), most).max(usable)
    }

    /// How many workers are to be started, spares included.
    fn missing(&self, wanted: usize) -> usize {
        let WorkerCounts {
            usable,
            starting,
            spares,
            leaving,
            ..
        } = self.counts;
        (wanted + self.config.spares).saturating_sub(usable + spares + starting + leaving)
    }

    fn count_workers(&mut self) {
        let count = |stage| self.processes().filter(|slot| slot.stage == stage).count();
        // With one slot, a worker that is leaving still runs its one attempt, and its successor
        // takes its place. With many, most of its slots are free, so the successor is started
        // in addition.
        let leaving = if self.config.slots == 1 {
            count(WorkerStage::Retiring)
        } else {
            0
        };
        self.counts = WorkerCounts {
            usable: count(WorkerStage::Ready),
            starting: count(WorkerStage::Starting),
            spares: count(WorkerStage::Spare),
            leaving,
            is_fresh: true,
        };
    }

    /// To be called wherever a worker's stage changes.
    pub(super) fn counts_are_stale(&mut self) {
        self.counts.is_fresh = false;
    }

    fn start_one(&mut self, effects: &mut Effects) {
        self.counts_are_stale();
        let lives = self.config.recycle_calls.map(|calls| self.lives(calls));
        let retire_at = self.config.recycle_age.map(|age| {
            let age = age.mul_f64(self.random.jitter(0.1));
            after(self.now, age)
        });
        let slot = self.add_worker(self.config.slots);
        (slot.lives, slot.retire_at) = (lives, retire_at);
        let worker = slot.id;
        effects.starts.push(worker);
        effects.changed = true;
    }

    /// A worker's number of calls, from the upper fifth.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an approximate number by design"
    )]
    fn lives(&mut self, calls: u64) -> u64 {
        ((calls as f64 * self.random.jitter(0.2)).round() as u64).max(1)
    }

    fn promote_spare(&mut self, effects: &mut Effects) {
        let spare = self
            .processes()
            .find(|slot| slot.stage == WorkerStage::Spare)
            .map(|slot| slot.id);
        if let Some(worker) = spare {
            self.open_for_calls(worker);
            self.dispatch(effects);
        }
    }

    /// Whether one more worker would be a spare: there are enough for the calls that wait.
    pub(super) fn is_surplus(&self) -> bool {
        let usable = self.ready_processes();
        let demand = usable + self.queue.len_of_ours() + self.aside.len();
        let demand = demand
            .max(self.config.workers_min)
            .min(self.config.workers_max);
        usable >= demand.max(1)
    }

    /// Keeps at least so many workers; 0 takes that back.
    pub(in super::super) fn set_min_workers(&mut self, workers: usize, effects: &mut Effects) {
        self.min_workers = workers;
        self.counts_are_stale();
        self.settle(effects);
    }

    /// Sees to it that workers are on their way for calls that need fresh ones: where no more may
    /// be started, the least loaded gives up its place.
    pub(super) fn make_room_for_fresh(&mut self, wanted: usize, effects: &mut Effects) {
        self.count_workers();
        let WorkerCounts {
            usable,
            starting,
            leaving,
            ..
        } = self.counts;
        let coming = (starting + leaving).max(self.config.workers_max.saturating_sub(usable));
        for _ in coming..wanted {
            let is_used = |worker: &WorkerId| {
                let slot = self.worker(*worker);
                !slot.is_remote() && !slot.is_fresh()
            };
            let least = self.free.iter().map(|rank| rank.worker).find(is_used);
            let Some(worker) = least else { return };
            let reason = "a call that crashed runs next in a fresh worker";
            self.retire(worker, reason, effects);
        }
    }

    /// Sees to it that a worker is on its way for each of these calls, which wait while the workers
    /// that have room have other sandboxes: where no more may be started, the emptiest of those
    /// gives up its place. It finishes what it runs.
    pub(super) fn make_room_for_sandboxes(&mut self, blocked: &[CallId], effects: &mut Effects) {
        let mut wanted = 0;
        for call in blocked {
            let Some(misfit) = self.misfit_for(*call) else {
                continue;
            };
            wanted += 1;
            self.count_workers();
            let WorkerCounts {
                usable,
                starting,
                spares,
                leaving,
                ..
            } = self.counts;
            let room = self.config.workers_max.saturating_sub(usable);
            if (starting + spares + leaving).max(room) < wanted {
                let reason = "calls wait that run in another sandbox";
                self.retire(misfit, reason, effects);
            }
        }
    }
}

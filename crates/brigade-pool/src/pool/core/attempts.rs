//! Attempts and their workers: which worker runs what, and when one is left alone to be ended.

use tokio::sync::oneshot;

use super::super::ids::{CallId, WorkerId};
use super::Core;
use super::call_entry::Phase;
use super::effects::Effects;

impl Core {
    /// Gives a worker one more attempt. Returns the attempt's place among those that it runs.
    pub(super) fn occupy(&mut self, worker: WorkerId, call: CallId, alone: bool) -> usize {
        let slot = self.worker_mut(worker);
        let index = slot.running.len();
        slot.running.push(call);
        if let Some(lives) = &mut slot.lives {
            *lives = lives.saturating_sub(1);
        }
        if alone && !slot.is_remote() {
            self.take_off(worker);
        } else {
            self.offer(worker);
        }
        index
    }

    /// Takes an attempt off its worker.
    pub(super) fn vacate(&mut self, call: CallId, effects: &mut Effects) {
        let now = self.now;
        let Phase::Running {
            worker,
            index,
            since,
        } = self.entry(call).phase
        else {
            unreachable!("invariant: only a running call is taken off its worker")
        };
        let slot = self.worker_mut(worker);
        let removed = slot.running.swap_remove(index);
        assert!(
            removed == call,
            "invariant: a running call stands at its index"
        );
        slot.idle_since = now;
        if let Some(moved) = slot.running.get(index).copied()
            && let Phase::Running {
                index: moved_index, ..
            } = &mut self.entry_mut(moved).phase
        {
            *moved_index = index;
        }
        self.entry_mut(call).phase = Phase::New;
        self.release_span(call, effects);
        self.release_memory(call);
        self.offer(worker);
        self.counters.run.record(now - since);
        self.counters.busy_time += now - since;
        self.after_vacate(worker, effects);
    }

    /// A worker whose attempts ended may be due to leave, or its end by force waits until only
    /// attempts that are being stopped are left.
    fn after_vacate(&mut self, worker: WorkerId, effects: &mut Effects) {
        let slot = self.worker(worker);
        let is_spent = slot.lives == Some(0);
        if !slot.when_alone.is_empty() && self.all_stopping(worker) {
            for waiter in std::mem::take(&mut self.worker_mut(worker).when_alone) {
                // The stop that waited may be over.
                waiter.send(()).ok();
            }
        }
        if is_spent {
            self.retire(worker, "it has done its number of calls", effects);
        }
        if self.has_worker(worker) {
            self.let_go_if_done(worker, effects);
        }
    }

    /// Whether every attempt of a worker is being stopped.
    fn all_stopping(&self, worker: WorkerId) -> bool {
        let running = &self.worker(worker).running;
        running.iter().all(|call| self.entry(*call).stop.is_some())
    }

    /// Whether an attempt of this worker is being stopped.
    pub(in super::super) fn is_stopping(&self, worker: WorkerId) -> bool {
        self.find_worker(worker).is_some_and(|slot| {
            let is_stopping = |call: &CallId| self.entry(*call).stop.is_some();
            slot.running.iter().any(is_stopping)
        })
    }

    /// Whether the call's attempt runs on that very worker.
    pub(in super::super) fn runs_on(&self, call: CallId, worker: WorkerId) -> bool {
        let entry = self.find(call);
        entry.is_some_and(|entry| entry.runs_on() == Some(worker))
    }

    /// How often a call was given to a worker; 0 if it has ended.
    pub(in super::super) fn start_of(&self, call: CallId) -> u32 {
        self.find(call).map_or(0, |entry| entry.starts)
    }

    /// Whether that start of a call is the one that runs now.
    pub(in super::super) fn is_attempt(&self, call: CallId, start: u32) -> bool {
        let entry = self.find(call);
        entry.is_some_and(|entry| entry.starts == start && entry.runs_on().is_some())
    }

    /// Whether that very worker runs something.
    pub(in super::super) fn is_running(&self, worker: WorkerId) -> bool {
        self.find_worker(worker)
            .is_some_and(|slot| !slot.running.is_empty())
    }

    /// Gives the attempt's worker nothing new, because it is about to be ended by force. The
    /// receiver is notified when that would hurt no other attempt, which is at once unless
    /// neighbours are to be spared. `None` if the attempt has ended.
    pub(in super::super) fn schedule_kill(
        &mut self,
        call: CallId,
        start: u32,
        spare_neighbours: bool,
        effects: &mut Effects,
    ) -> Option<oneshot::Receiver<()>> {
        let entry = self.find(call).filter(|entry| entry.starts == start)?;
        let worker = entry.runs_on()?;
        let (notify, when_alone) = oneshot::channel();
        self.close_worker(worker, "an attempt has to be stopped by force");
        if !spare_neighbours || self.all_stopping(worker) {
            notify.send(()).ok();
        } else {
            self.worker_mut(worker).when_alone.push(notify);
        }
        // Where it has many slots, its replacement is on its way before it is gone.
        self.settle(effects);
        Some(when_alone)
    }
}

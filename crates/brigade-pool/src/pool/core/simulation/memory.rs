//! The memory budget in the model: what fits, who waits, who is stopped.
//!
//! The world measures attempts at random. The model adds up what is declared and measured, and
//! knows three rules: what runs on our own processes fits (or is one attempt), a call whose attempt
//! was stopped for the budget runs alone, and a call that waits for memory is not overtaken there
//! by one that came after it.

use super::super::super::ids::{CallId, WorkerId};
use super::super::super::stop_reason::StopReason;
use super::model::{Model, SimCall, SimStage};
use super::world::World;

impl Model {
    /// Calls whose attempts run on our own processes.
    fn on_own_processes(&self) -> impl Iterator<Item = CallId> {
        let own = self.workers.values().filter(|slot| !slot.is_host);
        own.flat_map(|slot| slot.running.iter().copied())
    }

    pub(super) fn uses_memory(&self) -> bool {
        self.on_own_processes().next().is_some()
    }

    /// An attempt was given to a worker.
    pub(super) fn check_budget(&mut self, call: CallId, worker: WorkerId) {
        let memory = &mut self.call(call).memory;
        memory.waits_since = None;
        let Some(budget) = self.rules.memory_budget else {
            return;
        };
        if self.workers[&worker].is_host {
            return;
        }
        let running: Vec<CallId> = self.on_own_processes().collect();
        assert!(running.contains(&call), "{call:?} runs");
        let is_suspect = |call: &CallId| self.calls[call].memory.is_suspect;
        let declared = |call: &CallId| self.calls[call].wishes.memory.unwrap_or(0);
        if running.len() > 1 {
            assert!(
                !running.iter().any(is_suspect),
                "a call runs with one that must be alone in the budget: {running:?}"
            );
            let sum: u64 = running.iter().map(declared).sum();
            assert!(sum <= budget, "{sum} bytes are declared, {budget} fit");
        }
        self.check_held_back(call);
    }

    /// Whether a worker of ours would have taken this call when another one began. With sandboxes a
    /// call may wait for a worker as well as for memory, and holds no other back meanwhile.
    fn has_worker_for(&self, call: &SimCall, started: CallId) -> bool {
        let mut own = self.workers.values().filter(|slot| !slot.is_host);
        // Of processes that are up it is not known here which are spares.
        let is_known = !self.rules.has_spares;
        !self.rules.has_sandboxes
            || is_known
                && own.any(|slot| {
                    let before = slot.running.iter().filter(|call| **call != started).count();
                    let has_room = before < if call.alone { 1 } else { slot.capacity };
                    let fits = slot.sandbox == call.wishes.sandbox
                        || slot.sandbox.is_none() && before == 0;
                    slot.stage == SimStage::Up && !slot.is_closing && has_room && fits
                })
    }

    /// No call overtakes one that waits for memory and came before it.
    fn check_held_back(&self, call: CallId) {
        let started = &self.calls[&call];
        if !self.rules.is_fifo || started.has_run {
            return;
        }
        let overtaken = self.calls.iter().find(|(_, other)| {
            let since = other.memory.waits_since;
            since.is_some_and(|since| started.serial >= since)
                && other.is_queued
                && other.wishes.priority >= started.wishes.priority
                && self.has_worker_for(other, call)
        });
        assert!(
            overtaken.is_none(),
            "{call:?} overtook {overtaken:?}, which waits for memory"
        );
    }

    pub(super) fn on_waits_for_memory(&mut self, call: CallId) {
        let admitted = self.admitted;
        assert!(self.uses_memory(), "a call waits for memory that is free");
        self.call(call).memory.waits_since = Some(admitted);
    }

    /// What attempts take together that are not being stopped for it.
    fn memory_used(&self) -> u64 {
        self.calls
            .values()
            .filter(|call| call.runs_on.is_some())
            .map(|call| call.memory.used)
            .sum()
    }

    /// The pool stops an attempt for its budget: the largest, and only while it is over that.
    pub(super) fn on_stopped_for_budget(&mut self, call: CallId, reason: &StopReason) {
        let budget = self.rules.memory_budget.expect("a pool with a budget");
        assert!(self.memory_used() > budget, "it is not over its budget");
        let largest = self.calls.values().map(|call| call.memory.used).max();
        let memory = &mut self.call(call).memory;
        assert_eq!(Some(memory.used), largest, "another attempt is larger");
        assert_eq!(
            *reason == StopReason::BudgetAlone,
            memory.is_suspect,
            "the first time it runs again, the second time it is at fault"
        );
        (memory.used, memory.is_leaving) = (0, true);
    }

    /// Between two steps what runs is within the budget.
    pub(super) fn check_use(&self) {
        if let Some(budget) = self.rules.memory_budget {
            assert!(self.memory_used() <= budget, "the pool is over its budget");
        }
    }

    /// An attempt is over.
    pub(super) fn forget_use(&mut self, call: CallId) {
        let memory = &mut self.call(call).memory;
        (memory.used, memory.is_leaving) = (0, false);
    }
}

impl World {
    /// Measures an attempt on a process of ours.
    pub(super) fn measure_memory(&mut self) {
        let Some(budget) = self.model.rules.memory_budget else {
            return self.answer();
        };
        let Some((call, _)) = self.attempt() else {
            return;
        };
        let start = self.core.entry(call).starts;
        let most = usize::try_from(budget / 2 * 3).expect("a small number");
        let used = self.below(most) as u64;
        let is_over = {
            let memory = &mut self.model.call(call).memory;
            if !memory.is_leaving {
                memory.used = used;
            }
            self.model.is_over_budget()
        };
        // One that is being stopped for another reason is not stopped again, but counts no more.
        if is_over {
            self.model.leave_out_largest_if_stopped();
        }
        self.event(|core, effects| core.on_memory(call, start, used, effects));
        if self.chance(60) {
            self.kill_one_over_budget();
        }
    }

    /// The kill of an attempt that was stopped for the budget, before its worker answers.
    fn kill_one_over_budget(&mut self) {
        let is_over = |call: &&SimCall| call.stop == Some(StopReason::Budget);
        let worker = self.model.calls.values().find(is_over);
        if let Some(worker) = worker.and_then(|call| call.runs_on) {
            self.die(worker, None, false, libc::SIGKILL);
        }
    }
}

impl Model {
    fn is_over_budget(&self) -> bool {
        let budget = self.rules.memory_budget;
        budget.is_some_and(|budget| self.memory_used() > budget)
    }

    fn leave_out_largest_if_stopped(&mut self) {
        while self.is_over_budget() {
            let largest = self
                .calls
                .iter_mut()
                .max_by_key(|(_, call)| call.memory.used);
            let Some((_, call)) = largest.filter(|(_, call)| call.stop.is_some()) else {
                return;
            };
            (call.memory.used, call.memory.is_leaving) = (0, true);
        }
    }
}

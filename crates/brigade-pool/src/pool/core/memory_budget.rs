//! The memory budget: calls are admitted to run on our own processes while what runs fits.
//!
//! Each attempt reserves what it is expected to take (`need`): what its call declares, or what
//! attempts of its task took before, or a cautious guess. What it really takes is measured by the
//! shell and comes in by `on_memory`. Where the sum of that is over the budget, the largest attempt
//! is stopped and its call waits again, uncharged, to run while nothing else does. If it alone is
//! over the budget then, the attempt has failed by its own memory.
//!
//! Order: the first call in line that does not fit holds back all calls behind it that would run on
//! our own processes (`is_short`), so small calls never starve a large one. Remote hosts have
//! budgets of their own: attempts there reserve nothing, and calls for them pass.
//!
//! Invariant: `reserved` and `used` are the sums over the attempts that run on our own processes.

use std::sync::Arc;

use super::super::ids::{CallId, WorkerId};
use super::super::stats::BudgetUse;
use super::super::stop_reason::StopReason;
use super::Core;
use super::budget::{CallMemory, MemoryBudget};
use super::choice::Requirements;
use super::effects::{Effects, MemoryMeasure};
use crate::event::Event;
use crate::request::Request;
use brigade_core::span::AttemptEnd;

impl Core {
    // -- admission

    /// Begins to look which calls fit.
    pub(super) fn look_at_budget(&mut self) {
        if let Some(budget) = &mut self.budget {
            budget.is_short = false;
        }
    }

    /// Whether the first call in line waits for memory.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_short)
    }

    /// Whether memory is what the first call in line waits for.
    pub(super) fn first_waits_for_memory(&self) -> bool {
        let first = self.aside.front().copied();
        let first = first.or_else(|| self.queue.first_except(&[]).map(|(_, call)| call));
        let (Some(budget), Some(first)) = (&self.budget, first) else {
            return false;
        };
        let entry = self.entry(first);
        let need = budget.need(&entry.request, entry.memory.is_suspect);
        !budget.has_room_for(need)
    }

    /// Whether a worker has grown by too much to be kept.
    pub(super) fn is_too_large_for_budget(&self, grown: u64) -> bool {
        let workers = self.config.workers_max;
        let is_too_large = |budget: &MemoryBudget| budget.is_too_large(grown, workers);
        self.budget.as_ref().is_some_and(is_too_large)
    }

    /// Whether a new call fits into the budget.
    pub(super) fn has_memory_for(&self, request: &Request) -> bool {
        let fits = |budget: &MemoryBudget| budget.fits(budget.need(request, false));
        self.budget.as_ref().is_none_or(fits)
    }

    /// The best placed worker that may take a waiting call now. Where only memory is missing, the
    /// call holds back those behind it.
    pub(super) fn pick_within_budget(&mut self, call: CallId) -> Option<WorkerId> {
        let entry = self.entry(call);
        let requirements = self.requirements(call);
        let fits = self.budget.as_ref().is_none_or(|budget| {
            let need = budget.need(&entry.request, entry.memory.is_suspect);
            budget.fits(need)
        });
        if fits {
            return self.pick(&requirements);
        }
        let elsewhere = self.pick(&Requirements {
            has_memory: false,
            ..requirements
        });
        let is_first = !self.is_short_of_memory();
        if elsewhere.is_none() && is_first && self.pick(&requirements).is_some() {
            self.hold_back_others(call);
        }
        elsewhere
    }

    fn hold_back_others(&mut self, call: CallId) {
        let Some(budget) = &mut self.budget else {
            return;
        };
        budget.is_short = true;
        let (free, of) = (budget.bytes.saturating_sub(budget.reserved), budget.bytes);
        let entry = self.entry_mut(call);
        if std::mem::replace(&mut entry.memory.is_announced, true) {
            return;
        }
        let entry = self.entry(call);
        let budget = self.budget.as_ref();
        let need = budget.map_or(of, |budget| {
            budget.need(&entry.request, entry.memory.is_suspect)
        });
        self.emit_call(call, |call, task, label| Event::CallWaitsForMemory {
            call,
            task,
            label,
            bytes: need,
            free,
        });
    }

    // -- an attempt, from its start to its end

    /// Reserves what an attempt is expected to take that begins on a process of ours, and has it
    /// measured.
    pub(super) fn reserve_memory(&mut self, call: CallId, worker: WorkerId, effects: &mut Effects) {
        let Some(budget) = &self.budget else { return };
        if self.worker(worker).is_remote() {
            return;
        }
        let entry = self.entry(call);
        let need = budget.need(&entry.request, entry.memory.is_suspect);
        let is_suspect = entry.memory.is_suspect;
        self.entry_mut(call).memory = CallMemory {
            reserved: need,
            is_suspect,
            ..CallMemory::default()
        };
        let (conn, start) = (
            Arc::clone(self.worker(worker).conn()),
            self.entry(call).starts,
        );
        if let Some(budget) = &mut self.budget {
            budget.reserved += need;
        }
        let measure = MemoryMeasure { conn, call, start };
        effects.memory_measures.push(measure);
    }

    /// Takes back what an attempt reserved that has ended.
    pub(super) fn release_memory(&mut self, call: CallId) {
        if self.budget.is_none() {
            return;
        }
        let memory = &mut self.entry_mut(call).memory;
        let (reserved, used) = (
            std::mem::take(&mut memory.reserved),
            std::mem::take(&mut memory.used),
        );
        if let Some(budget) = &mut self.budget {
            budget.reserved -= reserved;
            budget.used -= used;
        }
    }

    /// Learns from an attempt that ran on a process of ours and ends now. Its report's peak is that
    /// of the process so far, so it counts where it has risen.
    pub(super) fn learn_memory(&mut self, call: CallId, process_peak: Option<u64>) {
        if self.budget.is_none() || self.entry(call).memory.reserved == 0 {
            return;
        }
        let entry = self.entry(call);
        let (worker, memory) = (entry.runs_on(), entry.memory);
        let by_report = worker.and_then(|worker| self.risen_to(worker, process_peak?));
        let is_measured = memory.is_measured || process_peak.is_some();
        let taken = is_measured.then(|| memory.peak.max(by_report.unwrap_or(0)));
        if let (Some(budget), Some(entry)) = (&mut self.budget, self.calls.get(call.key())) {
            budget.learn(entry.request.task_name(), taken);
        }
    }

    /// By how much a worker has grown that has this peak now, if that is a new one.
    fn risen_to(&mut self, worker: WorkerId, peak: u64) -> Option<u64> {
        let slot = self.worker_mut(worker);
        let ready = slot.conn().process()?.memory_at_ready();
        let before = slot.memory_peak.max(ready.peak);
        slot.memory_peak = before.max(peak);
        (peak > before).then(|| peak.saturating_sub(ready.resident))
    }

    /// What an attempt takes now, with all processes that it started. Where that is more than was
    /// expected, the rest is reserved as well.
    pub(in super::super) fn on_memory(
        &mut self,
        call: CallId,
        start: u32,
        used: u64,
        effects: &mut Effects,
    ) {
        if !self.is_attempt(call, start) || self.entry(call).memory.is_leaving {
            return;
        }
        let memory = &mut self.entry_mut(call).memory;
        let before = std::mem::replace(&mut memory.used, used);
        memory.peak = memory.peak.max(used);
        memory.is_measured = true;
        let more = used.saturating_sub(memory.reserved);
        memory.reserved += more;
        if let Some(budget) = &mut self.budget {
            budget.used = budget.used - before + used;
            budget.reserved += more;
        }
        self.enforce_budget(effects);
    }

    /// Stops the largest attempts until the others fit.
    fn enforce_budget(&mut self, effects: &mut Effects) {
        while let Some(budget) = self
            .budget
            .as_ref()
            .filter(|budget| budget.used > budget.bytes)
        {
            let (used, bytes) = (budget.used, budget.bytes);
            let running = self
                .processes()
                .flat_map(|slot| slot.running.iter().copied());
            let largest = running.max_by_key(|call| self.entry(*call).memory.used);
            let Some(call) = largest else { return };
            self.leave_for_memory(call, used, bytes, effects);
        }
    }

    /// Stops an attempt because the pool is over its budget. It counts no more: what it takes is
    /// free before long.
    fn leave_for_memory(&mut self, call: CallId, used: u64, bytes: u64, effects: &mut Effects) {
        let memory = &mut self.entry_mut(call).memory;
        let taken = std::mem::take(&mut memory.used);
        memory.is_leaving = true;
        let is_suspect = memory.is_suspect;
        if let Some(budget) = &mut self.budget {
            budget.used -= taken;
        }
        if self.entry(call).stop.is_some() {
            return self.hurry(call);
        }
        let worker = self.entry(call).runs_on().map_or(0, |worker| worker.number);
        let request = &self.entry(call).request;
        let event = Event::OverMemoryBudget {
            call: call.number(),
            task: request.task_name().into(),
            label: request.options().label.as_deref().map(Into::into),
            worker,
            used: taken,
            total: used,
            budget: bytes,
        };
        self.emit_and_log(event, effects);
        let reason = if is_suspect {
            StopReason::BudgetAlone
        } else {
            StopReason::Budget
        };
        self.stop(call, reason, effects);
    }

    /// Has a call run again, alone, whose attempt ended because the pool was over its budget. It is
    /// not charged.
    pub(super) fn interrupt(&mut self, call: CallId, effects: &mut Effects) {
        self.cancel_timer(call);
        let entry = self.entry_mut(call);
        entry.attempt -= 1;
        entry.memory.is_suspect = true;
        self.counters.interrupted += 1;
        self.vacate(call, effects);
        effects.note_span_end(call, || AttemptEnd::given_back("over the memory budget"));
        self.requeue(call);
    }

    // -- looking at it

    pub(super) fn budget_use(&self) -> Option<BudgetUse> {
        let budget = self.budget.as_ref()?;
        Some(BudgetUse {
            budget: budget.bytes,
            reserved: budget.reserved,
            used: budget.used,
            is_short: self.first_waits_for_memory(),
        })
    }

    /// The sums that the invariant is about, and what the attempts add up to.
    #[cfg(test)]
    pub(super) fn budget_sums(&self) -> Option<[(u64, u64); 2]> {
        let budget = self.budget.as_ref()?;
        let sum = |part: fn(&CallMemory) -> u64| {
            let entries = self.calls.iter();
            entries.map(|(_, entry)| part(&entry.memory)).sum::<u64>()
        };
        Some([
            (budget.reserved, sum(|memory| memory.reserved)),
            (budget.used, sum(|memory| memory.used)),
        ])
    }
}

//! Which worker gets a call: who can run it, who has room, who is best placed.
//!
//! Workers that can take one more attempt stand in `free`, ranked; whatever changes a worker's load
//! or stage offers it again or takes it off. Without remote hosts all workers are alike, and only
//! passes and the needs for a worker of its own or a fresh one decide.

use super::super::ids::{CallId, WorkerId};
use super::super::queue::LaneName;
use super::Core;
use super::worker_slot::{Rank, WorkerSlot, WorkerStage};
use crate::registry;
use crate::request::{CallTarget, Request};
use crate::sandbox::Sandbox;

/// All slots of a worker: as many as one can have, so that one attempt more always counts.
const LOAD_FULL: u64 = 65_536;

/// What a call needs of its worker.
#[derive(Clone, Copy)]
pub(super) struct Requirements<'a> {
    pub(super) request: &'a Request,
    pub(super) alone: bool,
    pub(super) fresh: bool,
    /// It fits into the memory budget of our own processes.
    pub(super) has_memory: bool,
    pub(super) sandbox: Option<&'a Sandbox>,
    /// Workers that passed it.
    pub(super) passes: &'a [(WorkerId, String)],
}

impl Core {
    pub(super) fn requirements(&self, call: CallId) -> Requirements<'_> {
        let entry = self.entry(call);
        Requirements {
            request: &entry.request,
            alone: entry.alone,
            fresh: entry.fresh,
            has_memory: true,
            sandbox: self.sandbox_of(&entry.request),
            passes: &entry.passes,
        }
    }

    /// Offers the worker for one more attempt, if it can take it.
    pub(super) fn offer(&mut self, worker: WorkerId) {
        self.take_off(worker);
        let slot = self.worker_mut(worker);
        let load = slot.load();
        let open = slot.stage == WorkerStage::Ready && slot.lives != Some(0) && !slot.is_away();
        if !open || load >= slot.capacity + slot.ahead() || slot.conn().is_congested() {
            return;
        }
        let share = u64::from(load) * LOAD_FULL / u64::from(slot.capacity);
        let rank = Rank {
            load: u32::try_from(share).unwrap_or(u32::MAX),
            distance: slot.distance(),
            worker,
        };
        slot.rank = Some(rank);
        self.free.insert(rank);
    }

    /// Offers the worker for nothing more.
    pub(super) fn take_off(&mut self, worker: WorkerId) {
        if let Some(rank) = self.worker_mut(worker).rank.take() {
            let was_free = self.free.remove(&rank);
            assert!(was_free, "invariant: a worker with a rank is free");
        }
    }

    /// The best placed worker that may take a call; of our own, one that has its sandbox already
    /// before one that would take it on.
    pub(super) fn pick(&self, requirements: &Requirements<'_>) -> Option<WorkerId> {
        let mut fitting = self
            .free
            .iter()
            .filter(|rank| self.fits(rank, requirements))
            .map(|rank| rank.worker);
        let first = fitting.next()?;
        if requirements.sandbox.is_none() {
            return Some(first);
        }
        let has_it = |worker: &WorkerId| self.worker(*worker).sandbox.is_some();
        Some(if has_it(&first) {
            first
        } else {
            fitting.find(has_it).unwrap_or(first)
        })
    }

    /// Takes the workers off that could take a call now if it did not have to be alone: they run
    /// empty for it, and none of the calls behind it overtakes it on them in this step. Returns
    /// them.
    pub(super) fn keep_for(&mut self, call: CallId) -> Vec<WorkerId> {
        if !self.entry(call).alone {
            return Vec::new();
        }
        let requirements = Requirements {
            alone: false,
            ..self.requirements(call)
        };
        let kept: Vec<WorkerId> = self
            .free
            .iter()
            .filter(|rank| self.fits(rank, &requirements))
            .map(|rank| rank.worker)
            .collect();
        for worker in &kept {
            self.take_off(*worker);
        }
        kept
    }

    fn fits(&self, rank: &Rank, requirements: &Requirements<'_>) -> bool {
        let Requirements {
            request,
            alone,
            fresh,
            has_memory,
            sandbox,
            passes,
        } = *requirements;
        let slot = self.worker(rank.worker);
        let has_passed = passes.iter().any(|(passer, _)| *passer == rank.worker);
        if has_passed || !slot.fits_sandbox(sandbox) || !self.may_run(slot, request) {
            return false;
        }
        // A remote host sees to it itself that a call is alone, or in a fresh worker.
        slot.is_remote()
            || has_memory && !((alone || fresh) && rank.load > 0 || fresh && !slot.is_fresh())
    }

    /// Where a call waits: with those that the same workers may take.
    pub(super) fn lane_of(&self, call: CallId) -> LaneName {
        let request = &self.entry(call).request;
        let sandbox = self
            .sandbox_of(request)
            .map_or_else(String::new, |sandbox| format!("\n{sandbox}"));
        if !self.config.may_have_remote_hosts() {
            return LaneName {
                name: sandbox,
                is_foreign: false,
            };
        }
        let labels = request.options().labels.join("\n");
        let name = match &request.target {
            CallTarget::Task { name } => format!("{name}\n{labels}{sandbox}"),
            CallTarget::Function { name, .. } => format!("fn {name}\n{labels}{sandbox}"),
        };
        LaneName {
            name,
            is_foreign: !self.may_run_here(request),
        }
    }

    /// Whether a worker that is there or coming may take a call that these workers have passed, or
    /// one more worker may be started.
    pub(super) fn others_may_take(&self, call: CallId) -> bool {
        let entry = self.entry(call);
        let (mut usable, mut others) = (0, false);
        for slot in self.workers.iter().flatten() {
            if !matches!(slot.stage, WorkerStage::Ready | WorkerStage::Starting) {
                continue;
            }
            usable += usize::from(!slot.is_remote());
            let has_passed = entry.passes.iter().any(|(passer, _)| *passer == slot.id);
            others |= !has_passed && self.may_run(slot, &entry.request);
        }
        others || usable < self.config.workers_max && self.may_run_here(&entry.request)
    }

    // -- sandboxes

    /// The sandbox that a call runs in: its own or its task's, otherwise the pool's.
    pub(super) fn sandbox_of<'a>(&'a self, request: &'a Request) -> Option<&'a Sandbox> {
        let own = request.options().sandbox.as_ref();
        own.or(self.config.sandbox.as_ref())
    }

    /// The emptiest of our own workers that has room and could take a call, were it not for its
    /// sandbox.
    pub(super) fn misfit_for(&self, call: CallId) -> Option<WorkerId> {
        let requirements = self.requirements(call);
        let is_misfit = |worker: &WorkerId| {
            let slot = self.worker(*worker);
            !slot.fits_sandbox(requirements.sandbox) && self.may_run(slot, requirements.request)
        };
        self.free.iter().map(|rank| rank.worker).find(is_misfit)
    }

    // -- who can run what

    /// Whether the worker has the task and the labels that a request asks for.
    fn may_run(&self, slot: &WorkerSlot, request: &Request) -> bool {
        if !self.config.may_have_remote_hosts() {
            return true;
        }
        slot.host_can_run(request)
            .unwrap_or_else(|| self.may_run_here(request))
    }

    /// Whether our own workers have them. Of those that run another program it is not known which
    /// tasks they have.
    fn may_run_here(&self, request: &Request) -> bool {
        let is_known = match &request.target {
            CallTarget::Function { .. } => true,
            CallTarget::Task { name } => {
                !self.config.runs_own_program() || registry::find(name).is_some()
            }
        };
        let has_label = |label| self.config.labels.contains(label);
        self.config.workers_max > 0 && is_known && request.options().labels.iter().all(has_label)
    }
}

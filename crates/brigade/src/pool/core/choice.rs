//! Which worker gets a call: who can run it, who has room, who is best placed.
//!
//! Seats that can take one more attempt stand in `free`, ranked; whatever changes a slot's load or
//! stage offers it anew or takes it off. Without hosts that join all workers are alike and only
//! passes, loneliness and freshness decide.

use super::super::queue::LaneName;
use super::super::worker_conn::WorkerConn;
use super::Core;
use super::calls::Entry;
use super::workers::{SlotStage, WorkerSlot};
use crate::call::{Request, Target};
use crate::registry;

/// Where a slot stands among those that can take one more attempt: the emptiest first, then the
/// nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// How much of its slots is taken, in parts of [`LOAD_FULL`]; more than that, if it is given
    /// calls ahead of their turn.
    pub(super) load: u32,
    distance: u8,
    pub(super) number: u32,
}

/// All slots of a slot: as many as a worker can have, so that one attempt more always counts.
const LOAD_FULL: u64 = 65_536;

/// What decides which worker may take a call.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) request: &'a Request,
    pub(super) alone: bool,
    pub(super) fresh: bool,
    pub(super) passes: &'a [(u32, u64, String)],
}

impl Entry {
    pub(super) fn want(&self) -> Want<'_> {
        Want {
            request: &self.request,
            alone: self.alone,
            fresh: self.fresh,
            passes: &self.passes,
        }
    }
}

impl Core {
    /// Offers the slot for one more attempt, if it can take it.
    pub(super) fn offer(&mut self, number: u32) {
        self.take_off(number);
        let Some(slot) = self.slot(number) else {
            return;
        };
        let load = slot.load();
        let open = slot.stage == SlotStage::Ready && slot.lives != Some(0) && !slot.is_away();
        let fits = |conn: &&WorkerConn| {
            (load < slot.capacity || load < slot.capacity + conn.ahead()) && !conn.is_congested()
        };
        let Some(conn) = slot.conn.as_ref().filter(|_| open).filter(fits) else {
            return;
        };
        let share = u64::from(load) * LOAD_FULL / u64::from(slot.capacity);
        let rank = Rank {
            load: u32::try_from(share).unwrap_or(u32::MAX),
            distance: conn.distance(),
            number,
        };
        slot.rank = Some(rank);
        self.free.insert(rank);
    }

    /// Offers the slot for nothing more.
    pub(super) fn take_off(&mut self, number: u32) {
        if let Some(rank) = self.slot(number).and_then(|slot| slot.rank.take()) {
            self.free.remove(&rank);
        }
    }

    pub(super) fn is_remote(&self, number: u32) -> bool {
        self.slots
            .get(number as usize - 1)
            .and_then(Option::as_ref)
            .is_some_and(WorkerSlot::is_remote)
    }

    /// The best placed slot that may take a call.
    pub(super) fn pick(&self, want: &Want<'_>) -> Option<u32> {
        self.free
            .iter()
            .find(|rank| self.fits(rank, want))
            .map(|rank| rank.number)
    }

    fn fits(&self, rank: &Rank, want: &Want<'_>) -> bool {
        let number = rank.number;
        let avoided = want
            .passes
            .iter()
            .any(|(passer, epoch, _)| *passer == number && self.epoch(number) == Some(*epoch));
        if avoided || !self.may_run(number, want.request) {
            return false;
        }
        // A host sees to it by itself that a call is alone, or in a fresh worker.
        self.is_remote(number)
            || !((want.alone || want.fresh) && rank.load > 0
                || want.fresh && !self.is_fresh(number))
    }

    /// Where a call waits: with those that the same workers may take.
    pub(super) fn lane_of(&self, call: u64) -> LaneName {
        let Some(entry) = self
            .entry_ref(call)
            .filter(|_| self.config.may_have_remote_hosts())
        else {
            return LaneName::default();
        };
        let labels = entry.request.options().labels.join("\n");
        let name = match &entry.request.target {
            Target::Task { name } => format!("{name}\n{labels}"),
            Target::Function { name, .. } => format!("fn {name}\n{labels}"),
        };
        LaneName {
            name,
            is_foreign: !self.may_run_here(&entry.request),
        }
    }

    /// Whether a worker that is there or coming may take a call that these have passed, or there is
    /// room for one more.
    pub(super) fn others_may_take(&self, call: u64, passes: &[(u32, u64, String)]) -> bool {
        let Some(request) = self.entry_ref(call).map(|entry| &entry.request) else {
            return false;
        };
        let slots = (1_u32..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        let (mut usable, mut others) = (0, false);
        for (number, slot) in
            slots.filter(|(_, slot)| matches!(slot.stage, SlotStage::Ready | SlotStage::Starting))
        {
            usable += usize::from(!slot.is_remote());
            others |= self.may_run(number, request)
                && !passes
                    .iter()
                    .any(|(passer, epoch, _)| *passer == number && *epoch == slot.epoch);
        }
        others || usable < self.config.workers_max && self.may_run_here(request)
    }

    // -- who can run what

    /// Whether the worker in this slot has the task and the labels that a request asks for.
    pub(super) fn may_run(&self, number: u32, request: &Request) -> bool {
        if !self.config.may_have_remote_hosts() {
            return true;
        }
        let slot = self.slots.get(number as usize - 1).and_then(Option::as_ref);
        let elsewhere = slot.and_then(|slot| slot.conn.as_ref()?.can_run(request));
        elsewhere.unwrap_or_else(|| self.may_run_here(request))
    }

    /// Whether our own workers have them. Of those that run another program it is not known which
    /// tasks they have.
    pub(super) fn may_run_here(&self, request: &Request) -> bool {
        let known = match &request.target {
            Target::Function { .. } => true,
            Target::Task { name } => {
                !self.config.runs_own_program() || registry::find(name).is_some()
            }
        };
        self.config.workers_max > 0
            && known
            && request
                .options()
                .labels
                .iter()
                .all(|label| self.config.labels.contains(label))
    }
}

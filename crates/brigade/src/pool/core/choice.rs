//! Which worker gets a call: who can run it, who has room, who is best placed.
//!
//! Seats that can take one more attempt stand in `free`, ranked; whatever changes a seat's load or
//! stage offers it anew or takes it off. Without hosts that join all workers are alike and only
//! passes, loneliness and freshness decide.

use super::super::member::Member;
use super::super::queue::LaneName;
use super::Core;
use super::calls::Entry;
use super::seats::{Seat, SeatStage};
use crate::call::{Request, Target};
use crate::registry;

/// Where a seat stands among those that can take one more attempt: the emptiest first, then the
/// nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// How much of its slots is taken, in parts of [`LOAD_FULL`]; more than that, if it is given
    /// calls ahead of their turn.
    pub(super) load: u32,
    distance: u8,
    pub(super) number: u32,
}

/// All slots of a seat: as many as a worker can have, so that one attempt more always counts.
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
    /// Offers the seat for one more attempt, if it can take it.
    pub(super) fn offer(&mut self, number: u32) {
        self.take_off(number);
        let Some(seat) = self.seat(number) else {
            return;
        };
        let load = seat.load();
        let open = seat.stage == SeatStage::Ready && seat.lives != Some(0) && !seat.is_away();
        let fits = |member: &&Member| {
            (load < seat.slots || load < seat.slots + member.ahead()) && !member.is_congested()
        };
        let Some(member) = seat.member.as_ref().filter(|_| open).filter(fits) else {
            return;
        };
        let share = u64::from(load) * LOAD_FULL / u64::from(seat.slots);
        let rank = Rank {
            load: u32::try_from(share).unwrap_or(u32::MAX),
            distance: member.distance(),
            number,
        };
        seat.rank = Some(rank);
        self.free.insert(rank);
    }

    /// Offers the seat for nothing more.
    pub(super) fn take_off(&mut self, number: u32) {
        if let Some(rank) = self.seat(number).and_then(|seat| seat.rank.take()) {
            self.free.remove(&rank);
        }
    }

    pub(super) fn is_guest(&self, number: u32) -> bool {
        self.seats
            .get(number as usize - 1)
            .and_then(Option::as_ref)
            .is_some_and(Seat::is_guest)
    }

    /// The best placed seat that may take a call.
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
        self.is_guest(number)
            || !((want.alone || want.fresh) && rank.load > 0
                || want.fresh && !self.is_fresh(number))
    }

    /// Where a call waits: with those that the same workers may take.
    pub(super) fn lane_of(&self, call: u64) -> LaneName {
        let Some(entry) = self
            .entry_ref(call)
            .filter(|_| self.config.may_have_guests())
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
        let seats = (1_u32..)
            .zip(&self.seats)
            .filter_map(|(number, seat)| Some((number, seat.as_ref()?)));
        let (mut usable, mut others) = (0, false);
        for (number, seat) in
            seats.filter(|(_, seat)| matches!(seat.stage, SeatStage::Ready | SeatStage::Starting))
        {
            usable += usize::from(!seat.is_guest());
            others |= self.may_run(number, request)
                && !passes
                    .iter()
                    .any(|(passer, epoch, _)| *passer == number && *epoch == seat.epoch);
        }
        others || usable < self.config.workers_max && self.may_run_here(request)
    }

    // -- who can run what

    /// Whether the worker in this seat has the task and the labels that a request asks for.
    pub(super) fn may_run(&self, number: u32, request: &Request) -> bool {
        if !self.config.may_have_guests() {
            return true;
        }
        let seat = self.seats.get(number as usize - 1).and_then(Option::as_ref);
        let elsewhere = seat.and_then(|seat| seat.member.as_ref()?.can_run(request));
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

//! Look-ups in the tables of the dispatcher.
//!
//! An id that comes from outside is looked up with `find` or `find_worker` and may be unknown. An
//! id that the dispatcher itself holds is looked up with `entry` or `worker`, which panic with the
//! name of the invariant that does not hold.

use super::super::ids::{CallId, WorkerId};
use super::Core;
use super::call_entry::CallEntry;
use super::worker_slot::WorkerSlot;

impl Core {
    /// The entry of a call that an outside id names, if it has not ended.
    pub(super) fn find(&self, call: CallId) -> Option<&CallEntry> {
        let entry = self.calls.get(call.key())?;
        (entry.generation == call.generation()).then_some(entry)
    }

    pub(super) fn find_mut(&mut self, call: CallId) -> Option<&mut CallEntry> {
        let entry = self.calls.get_mut(call.key())?;
        (entry.generation == call.generation()).then_some(entry)
    }

    /// The entry of a call that the dispatcher itself holds.
    #[track_caller]
    pub(super) fn entry(&self, call: CallId) -> &CallEntry {
        self.find(call)
            .expect("invariant: a call that waits or runs has an entry")
    }

    #[track_caller]
    pub(super) fn entry_mut(&mut self, call: CallId) -> &mut CallEntry {
        self.find_mut(call)
            .expect("invariant: a call that waits or runs has an entry")
    }

    /// Every call that has not ended and of which this is true.
    pub(super) fn calls_where(&self, is_wanted: impl Fn(&CallEntry) -> bool) -> Vec<CallId> {
        self.calls
            .iter()
            .filter(|(_, entry)| is_wanted(entry))
            .map(|(key, entry)| CallId::new(entry.generation, key))
            .collect()
    }

    /// The slot of a worker that an outside id names, if that worker still has it.
    pub(super) fn find_worker(&self, worker: WorkerId) -> Option<&WorkerSlot> {
        let slot = self.workers.get(worker.index())?.as_ref()?;
        (slot.id == worker).then_some(slot)
    }

    pub(super) fn has_worker(&self, worker: WorkerId) -> bool {
        self.find_worker(worker).is_some()
    }

    /// The slot of a worker that the dispatcher itself holds.
    #[track_caller]
    pub(super) fn worker(&self, worker: WorkerId) -> &WorkerSlot {
        self.find_worker(worker)
            .expect("invariant: a worker that runs attempts or is free has a slot")
    }

    #[track_caller]
    pub(super) fn worker_mut(&mut self, worker: WorkerId) -> &mut WorkerSlot {
        let slot = self
            .workers
            .get_mut(worker.index())
            .and_then(Option::as_mut);
        slot.filter(|slot| slot.id == worker)
            .expect("invariant: a worker that runs attempts or is free has a slot")
    }

    /// Workers that are processes of ours.
    pub(super) fn processes(&self) -> impl Iterator<Item = &WorkerSlot> {
        let workers = self.workers.iter().flatten();
        workers.filter(|slot| !slot.is_remote())
    }
}

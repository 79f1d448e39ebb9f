//! How each worker comes, retires and leaves.
//!
//! A worker has its slot (`worker_slot`) from the decision to start it, or from the first
//! connection of a remote host, until it is gone or has been let go. `scaling` decides how many
//! there are, `attempts` what they run.

use std::sync::Arc;

use super::super::deadlines::DueEvent;
use super::super::ids::WorkerId;
use super::super::worker_conn::WorkerConn;
use super::call_entry::{CallEntry, Phase};
use super::effects::{Effects, EndDetails};
use super::worker_slot::{WorkerSlot, WorkerStage};
use super::{Core, Stage};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::CallError;

impl Core {
    /// A worker with the smallest number that no other one has.
    pub(super) fn add_worker(&mut self, capacity: u32) -> &mut WorkerSlot {
        self.epochs += 1;
        let free = self.workers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.workers.push(None);
            self.workers.len() - 1
        });
        let number = u32::try_from(index + 1).expect("invariant: the number of workers is limited");
        let id = WorkerId {
            number,
            epoch: self.epochs,
        };
        self.workers[index].insert(WorkerSlot::new(id, capacity, self.now))
    }

    /// Forgets a worker. Its number is free for the next one.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.take_off(worker);
        assert!(
            self.worker(worker).running.is_empty(),
            "invariant: a worker that is forgotten runs nothing"
        );
        self.expect_no_more(worker);
        self.workers[worker.index()] = None;
        self.counts_are_stale();
    }

    /// Takes back the deadline of a host that is away.
    pub(super) fn expect_no_more(&mut self, worker: WorkerId) {
        #[cfg(feature = "remote")]
        if let Some(host) = &mut self.worker_mut(worker).host
            && let Some(away) = host.away.take()
        {
            self.deadlines.remove(away);
        }
        #[cfg(not(feature = "remote"))]
        let _ = worker;
    }

    pub(super) fn open_for_calls(&mut self, worker: WorkerId) {
        self.counts_are_stale();
        let now = self.now;
        let slot = self.worker_mut(worker);
        slot.stage = WorkerStage::Ready;
        slot.idle_since = now;
        self.offer(worker);
    }

    // -- start

    /// A worker process is ready.
    pub(in super::super) fn on_ready(
        &mut self,
        worker: WorkerId,
        conn: Arc<dyn WorkerConn>,
        pid: u32,
        effects: &mut Effects,
    ) {
        let is_spare = self.config.spares > 0 && self.is_surplus();
        let now = self.now;
        if !self.has_worker(worker) {
            return effects.let_go.push(conn);
        }
        let slot = self.worker_mut(worker);
        let took = slot.age(now);
        slot.connect(Arc::clone(&conn), pid);
        if self.stage == Stage::Closed {
            return effects.let_go.push(conn);
        }
        if is_spare {
            self.worker_mut(worker).stage = WorkerStage::Spare;
            self.counts_are_stale();
        } else {
            self.open_for_calls(worker);
        }
        self.counters.started += 1;
        let worker = worker.number;
        self.emit_and_log(Event::WorkerReady { worker, pid, took }, effects);
        if self.restart.succeeded() {
            self.emit_and_log(Event::Recovered, effects);
        }
        effects.changed = true;
        self.settle(effects);
    }

    /// A worker process could not be started.
    pub(in super::super) fn on_start_failed(
        &mut self,
        worker: WorkerId,
        error: &Error,
        effects: &mut Effects,
    ) {
        if !self.has_worker(worker) {
            return;
        }
        self.remove_worker(worker);
        effects.changed = true;
        if self.stage == Stage::Closed {
            return;
        }
        let event = Event::WorkerStartFailed {
            worker: worker.number,
            reason: error.to_string().into(),
        };
        self.emit_and_log(event, effects);
        self.note_failed_start(error, effects);
        self.settle(effects);
    }

    /// Slows the next starts down after one that failed, and rejects the calls that wait if that
    /// goes on.
    pub(super) fn note_failed_start(&mut self, error: &Error, effects: &mut Effects) {
        let reason: Arc<str> = error.to_string().into();
        let jitter = self.random.jitter(0.2);
        let pause = self
            .restart
            .failed(self.now, error.kind(), Arc::clone(&reason), jitter);
        self.deadlines.insert(self.now + pause, DueEvent::Restart);
        if self.restart.is_degraded() {
            let retry_in = pause;
            self.emit_and_log(Event::Degraded { reason, retry_in }, effects);
            self.reject_waiting(effects);
        }
    }

    /// Why no call can be admitted: workers keep failing at start and none is there.
    pub(super) fn cannot_start(&self) -> Option<Error> {
        if !self.restart.is_degraded() {
            return None;
        }
        let is_there =
            |slot: &WorkerSlot| slot.is_connected() || slot.stage == WorkerStage::Starting;
        let any = self.workers.iter().flatten().any(is_there);
        (!any).then(|| self.start_error())
    }

    /// Why workers cannot be started, if the last few could not.
    pub(in super::super) fn failing(&self) -> Option<Error> {
        self.restart.is_degraded().then(|| self.start_error())
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
        if self.cannot_start().is_none() {
            return;
        }
        let is_waiting =
            |entry: &CallEntry| !matches!(entry.phase, Phase::Running { .. } | Phase::Delayed);
        for call in self.calls_where(is_waiting) {
            let error = Err(CallError::Rejected(self.start_error()));
            self.end(call, error, EndDetails::default(), effects);
        }
    }

    // -- leave

    /// Gives a worker nothing new; it ends when it has finished.
    pub(super) fn retire(&mut self, worker: WorkerId, reason: &str, effects: &mut Effects) {
        let slot = self.worker(worker);
        if slot.stage == WorkerStage::Retiring || !slot.is_connected() {
            return;
        }
        self.close_worker(worker, reason);
        self.let_go_if_done(worker, effects);
    }

    /// Gives a worker nothing new: its process is about to end, or has ended and is not reaped yet.
    pub(super) fn close_worker(&mut self, worker: WorkerId, reason: &str) {
        self.counts_are_stale();
        let slot = self.worker_mut(worker);
        if slot.stage == WorkerStage::Retiring {
            return;
        }
        slot.stage = WorkerStage::Retiring;
        self.take_off(worker);
        self.emit(|| Event::WorkerRetiring {
            worker: worker.number,
            reason: reason.into(),
        });
    }

    /// Retires that very worker, to be replaced.
    pub(in super::super) fn recycle(&mut self, worker: WorkerId, effects: &mut Effects) {
        if self.has_worker(worker) {
            self.retire(worker, "it is being recycled", effects);
            self.settle(effects);
            effects.changed = true;
        }
    }

    /// Lets every worker go; those that are still starting end when they are ready.
    pub(in super::super) fn retire_all(&mut self, effects: &mut Effects) {
        for worker in self.connected_workers() {
            self.retire(worker, "the pool shuts down", effects);
        }
        effects.changed = true;
    }

    /// The worker's process has ended or must: no call may be given to it while it is being reaped.
    pub(in super::super) fn on_ending(&mut self, worker: WorkerId, effects: &mut Effects) {
        if self.has_worker(worker) {
            self.close_worker(worker, "its process is ending");
            self.settle(effects);
        }
    }

    /// Lets a retiring worker that has finished end. Its number is free for the next one at once.
    pub(super) fn let_go_if_done(&mut self, worker: WorkerId, effects: &mut Effects) {
        let slot = self.worker(worker);
        let is_done = slot.stage == WorkerStage::Retiring
            && slot.running.is_empty()
            && slot.when_alone.is_empty();
        if !is_done {
            return;
        }
        let conn = slot.connected().cloned();
        let host = slot.host_name().map(Arc::from);
        self.remove_worker(worker);
        effects.let_go.extend(conn);
        if let Some(host) = host {
            let event = Event::HostLeft {
                worker: worker.number,
                host,
                reason: "it was let go".into(),
                lost: 0,
            };
            self.emit_and_log(event, effects);
        }
    }
}

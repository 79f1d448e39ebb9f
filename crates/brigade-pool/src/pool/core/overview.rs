//! Looking at a pool: counts, times, workers.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::ids::WorkerId;
use super::super::stats::{Stats, WorkerInfo, WorkerState};
use super::super::worker_conn::WorkerConn;
use super::Core;
use super::worker_slot::{WorkerSlot, WorkerStage};

impl Core {
    pub(in super::super) fn ready_count(&self) -> usize {
        let is_ready = |slot: &&WorkerSlot| slot.stage == WorkerStage::Ready && !slot.is_away();
        self.workers.iter().flatten().filter(is_ready).count()
    }

    pub(super) fn ready_processes(&self) -> usize {
        let is_ready = |slot: &&WorkerSlot| slot.stage == WorkerStage::Ready;
        self.processes().filter(is_ready).count()
    }

    /// How many hosts have joined, those that are away included.
    pub(super) fn remote_hosts(&self) -> usize {
        let workers = self.workers.iter().flatten();
        workers.filter(|slot| slot.is_remote()).count()
    }

    /// Attempts that remote hosts can run at once.
    #[cfg(feature = "remote")]
    pub(in super::super) fn slots_of_hosts(&self) -> usize {
        let workers = self.workers.iter().flatten();
        let hosts = workers.filter(|slot| slot.is_remote());
        hosts.map(|slot| slot.capacity as usize).sum()
    }

    /// All processes of ours that have started.
    pub(in super::super) fn started_processes(&self) -> Vec<WorkerId> {
        let started = self.processes().filter(|slot| slot.is_connected());
        started.map(|slot| slot.id).collect()
    }

    /// The connections of all processes of ours that have started, with their process ids.
    pub(in super::super) fn process_conns(&self) -> Vec<(Arc<dyn WorkerConn>, u32)> {
        let started = |slot: &WorkerSlot| slot.connected().map(|conn| (Arc::clone(conn), slot.pid));
        self.processes().filter_map(started).collect()
    }

    /// All workers that have started.
    pub(super) fn connected_workers(&self) -> Vec<WorkerId> {
        let workers = self.workers.iter().flatten();
        let started = workers.filter(|slot| slot.is_connected());
        started.map(|slot| slot.id).collect()
    }

    /// Every worker, by number. `wall` is the time of day.
    pub(in super::super) fn workers(&self, wall: SystemTime) -> Vec<WorkerInfo> {
        let info = |slot: &WorkerSlot| {
            let last = slot.running.last();
            let task = last.map(|call| self.entry(*call).request.task_name().to_owned());
            slot.info(task, self.now, wall)
        };
        self.workers.iter().flatten().map(info).collect()
    }

    pub(in super::super) fn stats(&self) -> Stats {
        let workers = || self.workers.iter().flatten();
        let ready = workers().filter(|slot| slot.stage == WorkerStage::Ready);
        let (idle, busy): (Vec<&WorkerSlot>, Vec<_>) =
            ready.partition(|slot| slot.running.is_empty());
        let slots: f64 = workers().map(|slot| f64::from(slot.capacity)).sum();
        let age = self.now.saturating_duration_since(self.counters.since);
        let capacity = age.as_secs_f64() * slots.max(1.0);
        let degraded = self.restart.reason.as_deref();
        Stats {
            workers: workers().count(),
            busy: busy.len(),
            idle: idle.len(),
            starting: workers()
                .filter(|slot| slot.stage == WorkerStage::Starting)
                .count(),
            waiting: self.waiting(),
            running: workers().map(|slot| slot.running.len()).sum(),
            done: self.counters.done,
            failed: self.counters.failed,
            crashed: self.counters.crashed,
            interrupted: self.counters.interrupted,
            started: self.counters.started,
            memory: self.budget_use(),
            degraded: degraded
                .filter(|_| self.restart.is_degraded())
                .map(str::to_owned),
            wait: self.counters.wait.times(),
            run: self.counters.run.times(),
            utilization: (self.counters.busy_time.as_secs_f64() / capacity).min(1.0),
        }
    }
}

impl WorkerSlot {
    fn info(&self, task: Option<String>, now: Instant, wall: SystemTime) -> WorkerInfo {
        let state = match self.stage {
            _ if self.is_away() => WorkerState::Away,
            WorkerStage::Ready | WorkerStage::Spare if self.stopped_by.is_some() => {
                WorkerState::Stopped
            }
            WorkerStage::Starting => WorkerState::Starting,
            WorkerStage::Spare => WorkerState::Spare,
            WorkerStage::Ready if self.running.is_empty() => WorkerState::Idle,
            WorkerStage::Ready => WorkerState::Busy,
            WorkerStage::Retiring => WorkerState::Retiring,
            #[cfg(feature = "remote")]
            WorkerStage::Lost => WorkerState::Away,
        };
        let age = self.age(now);
        WorkerInfo {
            id: self.id.number,
            host: self.host_name().map(str::to_owned),
            identity: self.identity().map(str::to_owned),
            pid: self.is_connected().then_some(self.pid),
            state,
            slots: self.capacity,
            running: self.load(),
            done: self.done,
            failed: self.failed,
            task,
            latency: self.latency(),
            since: wall - age,
            age,
        }
    }
}

//! Looking at a pool: counts, times, workers.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::stats::{Stats, WorkerInfo, WorkerState};
use super::super::worker_conn::{WorkerConn, WorkerProcess};
use super::Core;
use super::workers::{SlotStage, WorkerSlot};

impl Core {
    pub(in super::super) fn ready_count(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|slot| slot.stage == SlotStage::Ready && !slot.is_away())
            .count()
    }

    pub(super) fn ready_count_of_ours(&self) -> usize {
        self.own_worker_slots()
            .filter(|slot| slot.stage == SlotStage::Ready)
            .count()
    }

    /// Whether that very worker runs something.
    pub(in super::super) fn is_running(&mut self, number: u32, epoch: u64) -> bool {
        self.slot_of(number, epoch)
            .is_some_and(|slot| !slot.running.is_empty())
    }

    /// How many hosts have joined, those that are away included.
    pub(super) fn hosts(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|slot| slot.is_remote())
            .count()
    }

    /// Attempts that the hosts which are there can run at once.
    #[cfg(feature = "remote")]
    pub(in super::super) fn slots_of_hosts(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|slot| slot.is_remote())
            .map(|slot| slot.capacity as usize)
            .sum()
    }

    /// Numbers and epochs of all processes of ours that have started.
    pub(in super::super) fn children(&self) -> Vec<(u32, u64)> {
        self.connected()
            .into_iter()
            .filter(|(number, _)| !self.is_remote(*number))
            .collect()
    }

    /// All processes of ours that have started.
    pub(in super::super) fn processes(&self) -> Vec<Arc<WorkerProcess>> {
        self.slots
            .iter()
            .flatten()
            .filter_map(|slot| slot.conn.as_ref()?.child().cloned())
            .collect()
    }

    /// Numbers and epochs of all workers that have started.
    pub(in super::super) fn connected(&self) -> Vec<(u32, u64)> {
        let started = |slot: &WorkerSlot| slot.conn.is_some().then_some(slot.epoch);
        (1..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, started(slot.as_ref()?)?)))
            .collect()
    }

    pub(in super::super) fn workers(&mut self) -> Vec<WorkerInfo> {
        let tasks: Vec<Option<String>> = (0..self.slots.len())
            .map(|index| self.last_task(index))
            .collect();
        let slots = (1..).zip(&self.slots).zip(tasks);
        slots
            .filter_map(|((id, slot), task)| Some(slot.as_ref()?.info(id, task)))
            .collect()
    }

    fn last_task(&mut self, index: usize) -> Option<String> {
        let call = *self.slots[index].as_ref()?.running.last()?;
        Some(self.entry(call)?.request.task_name().to_owned())
    }

    pub(in super::super) fn stats(&self) -> Stats {
        let count = |stage| {
            self.slots
                .iter()
                .flatten()
                .filter(|slot| slot.stage == stage)
                .count()
        };
        let idle = self
            .slots
            .iter()
            .flatten()
            .filter(|slot| slot.stage == SlotStage::Ready && slot.running.is_empty())
            .count();
        let running: usize = self
            .slots
            .iter()
            .flatten()
            .map(|slot| slot.running.len())
            .sum();
        let workers = self.slots.iter().flatten().count();
        let slots: f64 = self
            .slots
            .iter()
            .flatten()
            .map(|slot| f64::from(slot.capacity))
            .sum();
        let capacity = self.counters.since.elapsed().as_secs_f64() * slots.max(1.0);
        Stats {
            workers,
            busy: count(SlotStage::Ready) - idle,
            idle,
            starting: count(SlotStage::Starting),
            waiting: self.waiting(),
            running,
            done: self.counters.done,
            failed: self.counters.failed,
            crashed: self.counters.crashed,
            started: self.counters.started,
            degraded: self
                .restart
                .reason
                .as_deref()
                .filter(|_| self.restart.is_degraded())
                .map(str::to_owned),
            wait: self.counters.wait.times(),
            run: self.counters.run.times(),
            utilization: (self.counters.busy_time.as_secs_f64() / capacity).min(1.0),
        }
    }
}

impl WorkerSlot {
    fn info(&self, id: u32, task: Option<String>) -> WorkerInfo {
        let state = match self.stage {
            _ if self.is_away() => WorkerState::Away,
            SlotStage::Ready | SlotStage::Spare if self.stopped_by.is_some() => {
                WorkerState::Stopped
            }
            SlotStage::Starting => WorkerState::Starting,
            SlotStage::Spare => WorkerState::Spare,
            SlotStage::Ready if self.running.is_empty() => WorkerState::Idle,
            SlotStage::Ready => WorkerState::Busy,
            SlotStage::Retiring => WorkerState::Retiring,
            #[cfg(feature = "remote")]
            SlotStage::Lost => WorkerState::Away,
        };
        WorkerInfo {
            id,
            host: self
                .conn
                .as_ref()
                .and_then(|conn| conn.host().map(str::to_owned)),
            identity: self
                .conn
                .as_ref()
                .and_then(|conn| conn.identity().map(str::to_owned)),
            pid: self.conn.as_ref().map(|conn| conn.pid()),
            state,
            slots: self.capacity,
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            done: self.done,
            failed: self.failed,
            task,
            latency: self.conn.as_ref().and_then(WorkerConn::latency),
            since: SystemTime::now() - self.age(),
            age: self.age(),
        }
    }
}

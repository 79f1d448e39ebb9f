//! Looking after the workers, once in every check interval: idleness, age, health, memory.
//!
//! The dispatcher decides; the shell looks (`WorkerConn::look`), without the lock, and says what it
//! found (`Core::on_health`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::deadlines::{DueEvent, after};
use super::super::ids::WorkerId;
use super::super::worker_conn::Health;
use super::Core;
use super::effects::{Effects, HealthCheck};
use super::worker_slot::WorkerStage;
use crate::event::Event;

/// An idle worker answers at once, if it gets to run at all.
const MISSES_MAX_IDLE: u32 = 2;
/// A busy one too, since another thread of it does; but its attempts may keep it from that for a
/// while.
const MISSES_MAX_BUSY: u32 = 10;
/// A shorter silence says nothing on a busy machine.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// How many pings a worker may leave unanswered: never so few that the thread which reads its
/// answers could have been kept from its CPU all that time.
fn misses_max(idle: bool, check_interval: Duration) -> u32 {
    let looks = SILENCE_MIN
        .as_nanos()
        .div_ceil(check_interval.as_nanos().max(1));
    let looks = u32::try_from(looks).unwrap_or(u32::MAX);
    looks.max(if idle {
        MISSES_MAX_IDLE
    } else {
        MISSES_MAX_BUSY
    })
}

impl Core {
    /// The time of a check. It was planned for this moment.
    pub(super) fn on_check(&mut self, planned: Instant, effects: &mut Effects) {
        let interval = self.config.check_interval;
        let next = after(self.now, interval);
        self.deadlines.insert(next, DueEvent::Check(next));
        let processes: Vec<WorkerId> = self.processes().map(|slot| slot.id).collect();
        let least = self.config.workers_min.max(self.min_workers);
        let mut surplus = self.ready_processes().saturating_sub(least);
        for worker in processes.into_iter().rev() {
            if surplus > 0 && self.retire_idle(worker, effects) {
                surplus -= 1;
            } else {
                self.retire_old(worker, effects);
            }
        }
        // A check that comes late says that this process was held up; answers may lie unread, so no
        // worker is judged by it.
        let is_in_time = self.now.saturating_duration_since(planned) < interval / 2;
        let is_watched = |stage| !matches!(stage, WorkerStage::Starting | WorkerStage::Retiring);
        let workers = self.processes().filter(|slot| is_watched(slot.stage));
        effects.health_check = Some(HealthCheck {
            is_in_time,
            workers: workers
                .map(|slot| (slot.id, Arc::clone(slot.conn())))
                .collect(),
        });
        effects.changed = true;
    }

    /// Takes what a look at a worker found: ends one that has not answered for too long although it
    /// could have, and replaces one that uses too much memory.
    pub(in super::super) fn on_health(
        &mut self,
        worker: WorkerId,
        health: &Health,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.find_worker(worker) else {
            return;
        };
        if slot.stage == WorkerStage::Retiring {
            return;
        }
        let is_idle = slot.running.is_empty();
        self.note_stopped(worker, health.stopped_by.as_deref(), effects);
        let limit = self.config.recycle_memory;
        if health.misses > 0 && health.misses >= misses_max(is_idle, self.config.check_interval) {
            let how = match &health.stopped_by {
                Some(by) => format!("it was stopped by {by} and nothing let it go on"),
                None => "it did not answer a ping".to_owned(),
            };
            self.close_worker(worker, &how);
            let conn = Arc::clone(self.worker(worker).conn());
            effects.breaks.push((conn, how));
        } else if limit.is_some_and(|limit| health.used_bytes > limit) {
            self.retire(worker, "it uses much memory", effects);
        } else if self.is_too_large_for_budget(health.grown_bytes) {
            self.retire(worker, "it holds much of the memory budget", effects);
        }
    }

    /// Ends the steps that a check came to.
    pub(in super::super) fn on_health_over(&mut self, effects: &mut Effects) {
        self.settle(effects);
        effects.changed = true;
    }

    /// Notes whether something keeps a worker from running; emits an event if that is new.
    fn note_stopped(&mut self, worker: WorkerId, by: Option<&str>, effects: &mut Effects) {
        let slot = self.worker_mut(worker);
        let is_new = by.is_some() && slot.stopped_by.as_deref() != by;
        slot.stopped_by = by.map(str::to_owned);
        let pid = slot.pid;
        if let Some(by) = by.filter(|_| is_new) {
            let event = Event::WorkerStopped {
                worker: worker.number,
                pid,
                by: by.into(),
            };
            self.emit_and_log(event, effects);
        }
    }

    fn retire_idle(&mut self, worker: WorkerId, effects: &mut Effects) -> bool {
        let slot = self.worker(worker);
        let idle = self.now.saturating_duration_since(slot.idle_since);
        let is_idle = slot.stage == WorkerStage::Ready
            && slot.running.is_empty()
            && self
                .config
                .idle_timeout
                .is_some_and(|timeout| idle >= timeout);
        if is_idle {
            self.retire(worker, "it had nothing to do", effects);
        }
        is_idle
    }

    /// Replaces a worker that is old; what it runs is finished first.
    fn retire_old(&mut self, worker: WorkerId, effects: &mut Effects) {
        let retire_at = self.worker(worker).retire_at;
        if retire_at.is_some_and(|at| at <= self.now) {
            self.retire(worker, "it is old", effects);
        }
    }
}

//! Looking after the workers, once in every check interval: pings, age, weight, idleness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::deadlines::{Due, after};
use super::super::worker_conn::{SilenceCause, WorkerConn, WorkerProcess};
use super::workers::SlotStage;
use super::{Core, Effects};
use crate::event::Event;
use crate::process::proc_fs::resident_bytes;
use crate::wire::kind;

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
    pub(super) fn on_tick(&mut self, planned: Instant, now: Instant, effects: &mut Effects) {
        let next = after(now, self.config.check_interval);
        self.deadlines.insert(next, Due::Tick(next));
        // A tick that comes late says that this process was held up; answers may lie unread, so
        // nobody is judged by it. What a worker got of the CPUs is another question
        // (`WorkerProcess::silence`).
        let in_time = now.saturating_duration_since(planned) < self.config.check_interval / 2;
        let numbers: Vec<u32> = (1..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.is_some())
            .map(|(number, _)| number)
            .collect();
        let mut surplus = self
            .ready_count_of_ours()
            .saturating_sub(self.config.workers_min.max(self.min_workers));
        for number in numbers.into_iter().rev() {
            if !self.is_responsive(number, in_time) {
                continue;
            }
            if surplus > 0 && self.retire_idle(number, now) {
                surplus -= 1;
            } else {
                self.retire_if_spent(number, now);
            }
        }
        crate::process::reap_orphans();
        effects.changed = true;
    }

    /// Pings a worker, and ends it if it left a ping unanswered for too long although it could have
    /// answered.
    fn is_responsive(&mut self, number: u32, in_time: bool) -> bool {
        let Some(slot) = self.slot(number) else {
            return false;
        };
        // A host has a beat of its own.
        let (Some(child), idle) = (
            slot.conn.as_ref().and_then(WorkerConn::child).cloned(),
            slot.running.is_empty(),
        ) else {
            return false;
        };
        if slot.stage == SlotStage::Retiring {
            return false;
        }
        let misses = child.pings.look();
        if misses == 0 {
            slot.stopped_by = None;
            child.control.send(kind::PING, 0, &[]);
            return true;
        }
        let silence = child.silence();
        self.note_stopped(number, &child, &silence);
        let is_excused =
            !in_time || matches!(silence, SilenceCause::Starved | SilenceCause::Traced);
        if is_excused {
            child.pings.excuse();
        } else if misses >= misses_max(idle, self.config.check_interval) {
            let how = match silence {
                SilenceCause::Stopped(by) => {
                    format!("it was stopped by {by} and nothing let it go on")
                }
                _ => "it did not answer a ping".to_owned(),
            };
            self.close_slot(number, &how);
            child.break_off(&how);
            return false;
        }
        true
    }

    /// Tells that a worker is stopped, once.
    fn note_stopped(&mut self, number: u32, child: &WorkerProcess, silence: &SilenceCause) {
        let by = match silence {
            SilenceCause::Stopped(by) => Some(by.clone()),
            SilenceCause::Traced => Some("a debugger".to_owned()),
            SilenceCause::Starved | SilenceCause::Unresponsive => None,
        };
        let Some(slot) = self.slot(number) else {
            return;
        };
        let is_new = by.is_some() && slot.stopped_by != by;
        slot.stopped_by.clone_from(&by);
        if let Some(by) = by.filter(|_| is_new) {
            let pid = child.pid();
            tracing::warn!(worker = number, pid, by, "a worker is stopped");
            self.emit(|| Event::WorkerStopped {
                worker: number,
                pid,
                by: by.into(),
            });
        }
    }

    fn retire_idle(&mut self, number: u32, now: Instant) -> bool {
        let Some(timeout) = self.config.idle_timeout else {
            return false;
        };
        let Some(slot) = self.slot(number) else {
            return false;
        };
        let bored = slot.stage == SlotStage::Ready
            && slot.running.is_empty()
            && now - slot.idle_since >= timeout;
        if bored {
            self.retire(number, "it had nothing to do");
        }
        bored
    }

    /// Replaces a worker that is old or heavy; what it runs is finished first.
    fn retire_if_spent(&mut self, number: u32, now: Instant) {
        let config = Arc::clone(&self.config);
        let Some(slot) = self.slot(number) else {
            return;
        };
        let Some(child) = slot.conn.as_ref().and_then(WorkerConn::child).cloned() else {
            return;
        };
        if slot.retire_at.is_some_and(|at| at <= now) {
            self.retire(number, "it is old");
        } else if config
            .recycle_memory
            .is_some_and(|limit| resident_bytes(child.shown) > limit)
        {
            self.retire(number, "it uses much memory");
        }
    }
}

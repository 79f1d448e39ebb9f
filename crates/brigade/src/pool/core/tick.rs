//! Looking after the workers, once in every check interval: pings, age, weight, idleness.

use std::sync::Arc;
use std::time::Instant;

use super::super::deadlines::{Due, after};
use super::super::member::Member;
use super::seats::SeatStage;
use super::{Core, Effects};
use crate::process::proc_fs::resident_bytes;
use crate::wire::kind;

/// An idle worker answers at once.
const MISSES_MAX_IDLE: u32 = 1;
/// A busy one too, since another thread of it does; but a machine under load may keep it from that for a while.
const MISSES_MAX_BUSY: u32 = 10;

impl Core {
    pub(super) fn on_tick(&mut self, planned: Instant, now: Instant, effects: &mut Effects) {
        let next = after(now, self.config.check_interval);
        self.deadlines.insert(next, Due::Tick(next));
        // A tick that comes late says that this process was held up; answers may lie unread, so nobody is judged by it.
        let in_time = now.saturating_duration_since(planned) < self.config.check_interval / 2;
        let numbers: Vec<u32> = (1..).zip(&self.seats).filter(|(_, seat)| seat.is_some()).map(|(number, _)| number).collect();
        let mut surplus = self.ready_count_of_ours().saturating_sub(self.config.workers_min.max(self.floor));
        for number in numbers.into_iter().rev() {
            if !self.is_responsive(number, in_time) {
                continue;
            }
            if surplus > 0 && self.send_home_if_idle(number, now) {
                surplus -= 1;
            } else {
                self.retire_if_spent(number, now);
            }
        }
        effects.changed = true;
    }

    /// Pings a worker, and ends it if it left too many pings unanswered.
    fn is_responsive(&mut self, number: u32, in_time: bool) -> bool {
        let Some(seat) = self.seat(number) else { return false };
        // A host has a beat of its own.
        let (Some(child), idle) = (seat.member.as_ref().and_then(Member::child).cloned(), seat.running.is_empty()) else { return false };
        if seat.stage == SeatStage::Retiring {
            return false;
        }
        if !in_time {
            child.pulse.answered();
        }
        let limit = if idle { MISSES_MAX_IDLE } else { MISSES_MAX_BUSY };
        if child.pulse.ask() >= limit {
            self.close_seat(number, "it does not answer");
            child.break_off("it did not answer a ping");
            return false;
        }
        child.control.send(kind::PING, 0, &[]);
        true
    }

    fn send_home_if_idle(&mut self, number: u32, now: Instant) -> bool {
        let Some(timeout) = self.config.idle_timeout else { return false };
        let Some(seat) = self.seat(number) else { return false };
        let bored = seat.stage == SeatStage::Ready && seat.running.is_empty() && now - seat.idle_since >= timeout;
        if bored {
            self.retire(number, "it had nothing to do");
        }
        bored
    }

    /// Replaces a worker that is old or heavy; what it runs is finished first.
    fn retire_if_spent(&mut self, number: u32, now: Instant) {
        let config = Arc::clone(&self.config);
        let Some(seat) = self.seat(number) else { return };
        let Some(child) = seat.member.as_ref().and_then(Member::child).cloned() else { return };
        if seat.retire_at.is_some_and(|at| at <= now) {
            self.retire(number, "it is old");
        } else if config.recycle_memory.is_some_and(|limit| resident_bytes(child.shown) > limit) {
            self.retire(number, "it uses much memory");
        }
    }
}

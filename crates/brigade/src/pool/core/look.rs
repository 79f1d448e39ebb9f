//! Looking at a pool: counts, times, workers.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::member::{Child, Member};
use super::super::stats::{Stats, WorkerInfo, WorkerState};
use super::Core;
use super::seats::{Seat, SeatStage};

impl Core {
    pub(in super::super) fn ready_count(&self) -> usize {
        self.seats
            .iter()
            .flatten()
            .filter(|seat| seat.stage == SeatStage::Ready && !seat.is_away())
            .count()
    }

    pub(super) fn ready_count_of_ours(&self) -> usize {
        self.own_seats()
            .filter(|seat| seat.stage == SeatStage::Ready)
            .count()
    }

    /// Whether that very worker runs something.
    pub(in super::super) fn is_running(&mut self, number: u32, epoch: u64) -> bool {
        self.seat_of(number, epoch)
            .is_some_and(|seat| !seat.running.is_empty())
    }

    /// How many hosts have joined, those that are away included.
    pub(super) fn guests(&self) -> usize {
        self.seats
            .iter()
            .flatten()
            .filter(|seat| seat.is_guest())
            .count()
    }

    /// Attempts that the hosts which are there can run at once.
    #[cfg(feature = "remote")]
    pub(in super::super) fn slots_of_guests(&self) -> usize {
        self.seats
            .iter()
            .flatten()
            .filter(|seat| seat.is_guest())
            .map(|seat| seat.slots as usize)
            .sum()
    }

    /// Numbers and epochs of all processes of ours that have started.
    pub(in super::super) fn children(&self) -> Vec<(u32, u64)> {
        self.members()
            .into_iter()
            .filter(|(number, _)| !self.is_guest(*number))
            .collect()
    }

    /// All processes of ours that have started.
    pub(in super::super) fn processes(&self) -> Vec<Arc<Child>> {
        self.seats
            .iter()
            .flatten()
            .filter_map(|seat| seat.member.as_ref()?.child().cloned())
            .collect()
    }

    /// Numbers and epochs of all workers that have started.
    pub(in super::super) fn members(&self) -> Vec<(u32, u64)> {
        let started = |seat: &Seat| seat.member.is_some().then_some(seat.epoch);
        (1..)
            .zip(&self.seats)
            .filter_map(|(number, seat)| Some((number, started(seat.as_ref()?)?)))
            .collect()
    }

    pub(in super::super) fn workers(&mut self) -> Vec<WorkerInfo> {
        let tasks: Vec<Option<String>> = (0..self.seats.len())
            .map(|index| self.last_task(index))
            .collect();
        let seats = (1..).zip(&self.seats).zip(tasks);
        seats
            .filter_map(|((id, seat), task)| Some(seat.as_ref()?.info(id, task)))
            .collect()
    }

    fn last_task(&mut self, index: usize) -> Option<String> {
        let call = *self.seats[index].as_ref()?.running.last()?;
        Some(self.entry(call)?.request.task_name().to_owned())
    }

    pub(in super::super) fn stats(&self) -> Stats {
        let count = |stage| {
            self.seats
                .iter()
                .flatten()
                .filter(|seat| seat.stage == stage)
                .count()
        };
        let idle = self
            .seats
            .iter()
            .flatten()
            .filter(|seat| seat.stage == SeatStage::Ready && seat.running.is_empty())
            .count();
        let running: usize = self
            .seats
            .iter()
            .flatten()
            .map(|seat| seat.running.len())
            .sum();
        let workers = self.seats.iter().flatten().count();
        let slots: f64 = self
            .seats
            .iter()
            .flatten()
            .map(|seat| f64::from(seat.slots))
            .sum();
        let capacity = self.counters.since.elapsed().as_secs_f64() * slots.max(1.0);
        Stats {
            workers,
            busy: count(SeatStage::Ready) - idle,
            idle,
            starting: count(SeatStage::Starting),
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

impl Seat {
    fn info(&self, id: u32, task: Option<String>) -> WorkerInfo {
        let state = match self.stage {
            _ if self.is_away() => WorkerState::Away,
            SeatStage::Ready | SeatStage::Spare if self.stopped_by.is_some() => {
                WorkerState::Stopped
            }
            SeatStage::Starting => WorkerState::Starting,
            SeatStage::Spare => WorkerState::Spare,
            SeatStage::Ready if self.running.is_empty() => WorkerState::Idle,
            SeatStage::Ready => WorkerState::Busy,
            SeatStage::Retiring => WorkerState::Retiring,
            #[cfg(feature = "remote")]
            SeatStage::Lost => WorkerState::Away,
        };
        WorkerInfo {
            id,
            host: self
                .member
                .as_ref()
                .and_then(|member| member.host().map(str::to_owned)),
            identity: self
                .member
                .as_ref()
                .and_then(|member| member.identity().map(str::to_owned)),
            pid: self.member.as_ref().map(|member| member.pid()),
            state,
            slots: self.slots,
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            done: self.done,
            failed: self.failed,
            task,
            latency: self.member.as_ref().and_then(Member::latency),
            since: SystemTime::now() - self.age(),
            age: self.age(),
        }
    }
}

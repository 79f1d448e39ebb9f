//! The memory budget of a pool and what a call has to do with it: plain data. `memory_budget` acts
//! on it.

use super::super::learnt_memory::LearntMemory;
use crate::request::Request;

/// A task of which nothing is known is expected to take this part of the budget.
const GUESS_PARTS: u64 = 4;
/// An attempt is expected to take this at least.
const NEED_MIN: u64 = 1 << 20;
/// A task of which all that is known is that its attempts end before they can be measured is
/// expected to take this part of the budget, and not more than so much.
const SHORT_PARTS: u64 = 64;
const SHORT_BYTES_MAX: u64 = 16 << 20;
/// A worker may keep this part of its share of the budget between two calls.
const KEPT_PARTS: u64 = 2;

/// The budget of a pool, and what is taken of it.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    pub(super) bytes: u64,
    pub(super) reserved: u64,
    pub(super) used: u64,
    pub(super) learnt: LearntMemory,
    /// The first call in line does not fit: none behind it may take what becomes free.
    pub(super) is_short: bool,
}

/// What an attempt and its call have to do with the budget.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallMemory {
    /// Reserved for the attempt that runs.
    pub(super) reserved: u64,
    /// What it takes, as measured last.
    pub(super) used: u64,
    /// The most that was measured.
    pub(super) peak: u64,
    /// Whether it was measured.
    pub(super) is_measured: bool,
    /// It is being stopped and counts no more.
    pub(super) is_leaving: bool,
    /// An attempt was stopped because the pool was over its budget: the next one runs alone.
    pub(super) is_suspect: bool,
    /// Its wait was announced as an event.
    pub(super) is_announced: bool,
}

impl MemoryBudget {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            reserved: 0,
            used: 0,
            learnt: LearntMemory::default(),
            is_short: false,
        }
    }

    /// What an attempt of a call is expected to take, at most the whole budget.
    pub(super) fn need(&self, request: &Request, is_suspect: bool) -> u64 {
        let expected = || {
            let declared = request.options().memory;
            declared.or_else(|| self.learnt.bytes(request.task_name()))
        };
        if is_suspect {
            return self.bytes;
        }
        let expected = expected().unwrap_or(self.bytes / GUESS_PARTS);
        expected.max(NEED_MIN).min(self.bytes)
    }

    pub(super) fn fits(&self, need: u64) -> bool {
        !self.is_short && self.has_room_for(need)
    }

    /// Whether so much is free, whichever call comes first.
    pub(super) fn has_room_for(&self, need: u64) -> bool {
        self.reserved == 0 || need <= self.bytes.saturating_sub(self.reserved)
    }

    /// An attempt of a task has ended, which took so much; `None` if it was too short to be
    /// measured.
    pub(super) fn learn(&mut self, task: &str, taken: Option<u64>) {
        match taken {
            Some(taken) => self.learnt.learn(task, taken),
            None if self.learnt.bytes(task).is_some() => {}
            None => {
                let short = (self.bytes / SHORT_PARTS).min(SHORT_BYTES_MAX);
                self.learnt.learn(task, short);
            }
        }
    }

    /// Whether a worker that has grown by so much is to be replaced, where there are so many.
    pub(super) fn is_too_large(&self, grown: u64, workers: usize) -> bool {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
        grown > self.bytes / workers / KEPT_PARTS
    }
}

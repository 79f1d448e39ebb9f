//! The memory budget of a pool and what a call has to do with it: plain data. `memory_budget` acts
//! on it.

use super::super::learnt_memory::LearntMemory;
use super::super::worker_conn::ProcessMemory;
use crate::request::Request;

/// A task of which nothing is known is expected to take this part of the budget.
const GUESS_PARTS: u64 = 4;
/// What an attempt took that ended before it could be measured.
pub(super) const UNMEASURED_BYTES: u64 = 16 << 20;

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
    /// What its worker held before it.
    pub(super) before: Option<ProcessMemory>,
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
        expected().map_or(self.bytes / GUESS_PARTS, |bytes| bytes.min(self.bytes))
    }

    pub(super) fn fits(&self, need: u64) -> bool {
        !self.is_short && (self.reserved == 0 || need <= self.bytes.saturating_sub(self.reserved))
    }
}

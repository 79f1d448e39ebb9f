//! Why an attempt is stopped, and what that makes of its outcome.

use crate::attempt_report::{AttemptOutcome, MemoryLimit};

/// Why an attempt is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    Timeout,
    Cancel(String),
    Memory,
    /// The pool is over its memory budget, and this is the largest attempt: it is run again.
    Budget,
    /// The same, while nothing else ran: it has failed.
    BudgetAlone,
    Shutdown,
}

impl StopReason {
    /// What an attempt reads that is asked to stop.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Cancel(reason) => reason,
            Self::Timeout => "it ran out of time",
            Self::Memory | Self::Budget | Self::BudgetAlone => "there is no memory left for it",
            Self::Shutdown => "the pool is shutting down",
        }
    }

    /// Whether memory runs out, which leaves no time to ask.
    pub(super) fn is_for_memory(&self) -> bool {
        *self == Self::Budget || self.blames_memory()
    }

    /// Whether the attempt is at fault, by what it took.
    pub(super) fn blames_memory(&self) -> bool {
        matches!(self, Self::Memory | Self::BudgetAlone)
    }

    /// How an attempt ended that was stopped for this reason.
    pub(super) fn outcome(&self) -> AttemptOutcome {
        match self {
            Self::Timeout => AttemptOutcome::TimedOut,
            Self::Cancel(_) => AttemptOutcome::Cancelled,
            Self::Memory => AttemptOutcome::OutOfMemory(MemoryLimit::Resident),
            Self::Budget | Self::BudgetAlone => AttemptOutcome::OutOfMemory(MemoryLimit::Budget),
            Self::Shutdown => AttemptOutcome::Shutdown,
        }
    }
}

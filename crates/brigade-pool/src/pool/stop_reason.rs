//! Why an attempt is stopped, and what that makes of its outcome.

use crate::attempt_report::{AttemptOutcome, MemoryLimit};

/// Why an attempt is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    Timeout,
    Cancel(String),
    Memory,
    Shutdown,
}

impl StopReason {
    /// What an attempt reads that is asked to stop.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Cancel(reason) => reason,
            Self::Timeout => "it ran out of time",
            Self::Memory | Self::Shutdown => "the pool is shutting down",
        }
    }

    /// How an attempt ended that was stopped for this reason.
    pub(super) fn outcome(&self) -> AttemptOutcome {
        match self {
            Self::Timeout => AttemptOutcome::TimedOut,
            Self::Cancel(_) => AttemptOutcome::Cancelled,
            Self::Memory => AttemptOutcome::OutOfMemory(MemoryLimit::Resident),
            Self::Shutdown => AttemptOutcome::Shutdown,
        }
    }
}

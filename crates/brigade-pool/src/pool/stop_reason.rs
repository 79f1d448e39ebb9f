//! Why an attempt is stopped, and what that makes of its outcome.

use crate::attempt_report::{AttemptOutcome, LimitHit, MemoryHold, MemoryLimit};

/// Why an attempt is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    Timeout,
    Cancel(String),
    /// It went over a limit.
    Limit(LimitHit),
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
            Self::Budget | Self::BudgetAlone => "there is no memory left for it",
            Self::Limit(LimitHit::Cpu { .. }) => "it used too much CPU time",
            Self::Limit(_) => "it went over a limit",
            Self::Shutdown => "the pool is shutting down",
        }
    }

    /// Whether the attempt must end at once: what it takes hurts others.
    pub(super) fn is_urgent(&self) -> bool {
        *self == Self::Budget || self.is_crash()
    }

    /// Whether the attempt is at fault, by what it took.
    pub(super) fn is_crash(&self) -> bool {
        match self {
            Self::Limit(hit) => !matches!(hit, LimitHit::Cpu { .. }),
            reason => *reason == Self::BudgetAlone,
        }
    }

    /// The limit that it went over.
    pub(super) fn limit(&self) -> Option<LimitHit> {
        match self {
            Self::Limit(hit) => Some(*hit),
            _ => None,
        }
    }

    /// How an attempt ended that was stopped for this reason; `hold` is what held its memory.
    pub(super) fn outcome(&self, hold: Option<MemoryHold>) -> AttemptOutcome {
        match self {
            Self::Timeout => AttemptOutcome::TimedOut,
            Self::Cancel(_) => AttemptOutcome::Cancelled,
            Self::Limit(LimitHit::Memory { .. }) => AttemptOutcome::OutOfMemory(match hold {
                Some(MemoryHold::ControlGroupV2 | MemoryHold::ControlGroupV1) => {
                    MemoryLimit::Cgroup
                }
                _ => MemoryLimit::Resident,
            }),
            Self::Limit(_) => AttemptOutcome::OverLimit,
            Self::Budget | Self::BudgetAlone => AttemptOutcome::OutOfMemory(MemoryLimit::Budget),
            Self::Shutdown => AttemptOutcome::Shutdown,
        }
    }
}

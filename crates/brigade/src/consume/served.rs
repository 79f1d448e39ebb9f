//! What a consumer did: its counts, and each attempt that it settled.

use std::sync::Arc;

use crate::job::JobId;

/// What a consumer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Jobs that are done.
    pub done: u64,
    /// Attempts that failed or crashed, and were charged to their jobs.
    pub failed: u64,
    /// Jobs that were given back, uncharged.
    pub given_back: u64,
    /// Attempts that were stopped because their jobs were cancelled.
    pub cancelled: u64,
    /// Settlements that came too late, because the lease had ended.
    pub stale: u64,
}

/// An attempt that was settled, see [`Consumer::on_settled`](crate::Consumer::on_settled).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettledAttempt {
    /// Its job.
    pub id: JobId,
    /// Its number, from 1.
    pub attempt: u32,
    /// Whether the broker accepted the settlement. If not, another consumer has the job.
    pub accepted: bool,
}

/// A function that is called after each settlement.
pub(super) type OnSettled = Arc<dyn Fn(&SettledAttempt) + Send + Sync>;

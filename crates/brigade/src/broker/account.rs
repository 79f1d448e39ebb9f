//! What decides over a job whose attempt did not end well: the same for every broker.

use std::time::Duration;

use super::Leased;
use crate::job::AttemptKind;
use crate::retry::Retry;

/// A job that took so many workers down is set aside.
const CRASHES_MAX: u32 = 2;

/// A job's counters and its policy, as its lease has them. Nobody else changes them while the lease holds, and a settlement counts only
/// then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    failed: u32,
    crashed: u32,
    retries: u32,
    retry: Retry,
    /// How long it stays after it is done.
    pub(crate) keep: Option<Duration>,
}

impl Account {
    pub(crate) fn of(leased: &Leased) -> Self {
        let options = &leased.job.options;
        let crashed = leased.crashed;
        let failed = leased.attempt.saturating_sub(1).saturating_sub(crashed);
        Self { failed, crashed, retries: options.retries, retry: options.retry, keep: options.keep }
    }

    /// The pause before the next attempt after one that ended so; `None` if there is none left.
    pub(super) fn pause_after(&self, kind: AttemptKind, retry_in: Option<Duration>, permanent: bool) -> Option<Duration> {
        let crashed = kind == AttemptKind::Crashed;
        let spent = if crashed { self.crashed + 1 >= CRASHES_MAX } else { self.failed >= self.retries };
        if permanent || spent {
            return None;
        }
        let own = || if crashed { Duration::ZERO } else { self.retry.pause_after(self.failed + 1) };
        Some(retry_in.unwrap_or_else(own))
    }
}

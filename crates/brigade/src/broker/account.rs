//! What decides over a job whose attempt did not end well, where the broker cannot run our code
//! itself.

use std::time::Duration;

use crate::job::{AttemptKind, JobOptions};

/// A job that took so many workers down is set aside.
const CRASHES_MAX: u32 = 2;

/// A job's counters and its policy. Nobody else changes them while its lease holds, and a
/// settlement counts only then.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) failed: u32,
    pub(super) crashed: u32,
    pub(super) options: JobOptions,
}

impl Account {
    /// The pause before the next attempt after one that ended so; `None` if there is none left.
    pub(super) fn pause_after(
        &self,
        kind: AttemptKind,
        retry_in: Option<Duration>,
        permanent: bool,
    ) -> Option<Duration> {
        let crashed = kind == AttemptKind::Crashed;
        let spent = if crashed {
            self.crashed + 1 >= CRASHES_MAX
        } else {
            self.failed >= self.options.retries()
        };
        if permanent || spent {
            return None;
        }
        let own = || {
            if crashed {
                Duration::ZERO
            } else {
                self.options.retry().pause_after(self.failed + 1)
            }
        };
        Some(retry_in.unwrap_or_else(own))
    }
}

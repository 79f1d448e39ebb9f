//! When workers may be started again after they failed at start.
//!
//! A worker that served and then died is replaced at once: a crash is the task's affair. Only
//! failures before the handshake slow the pool down, because the next one would most likely fail in
//! the same way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;

/// Failures in a row after which the pool is degraded.
const FAILURES_UNTIL_DEGRADED: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Restart {
    failures: u32,
    not_before: Option<Instant>,
    pub(super) reason: Option<Arc<str>>,
    /// Why it failed is what the host does not offer, so that the caller must ask for something
    /// else.
    pub(super) is_unsupported: bool,
}

impl Restart {
    /// Notes a failed start; returns the pause, multiplied by `jitter`.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        kind: ErrorKind,
        reason: Arc<str>,
        jitter: f64,
    ) -> Duration {
        let pause = PAUSE_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(PAUSE_MAX)
            .mul_f64(jitter);
        self.failures += 1;
        self.not_before = Some(now + pause);
        self.reason = Some(reason);
        self.is_unsupported = kind == ErrorKind::Unsupported;
        pause
    }

    /// Notes a worker that became ready; returns whether the pool had been degraded.
    pub(super) fn succeeded(&mut self) -> bool {
        let recovered = self.is_degraded();
        *self = Self::default();
        recovered
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.failures >= FAILURES_UNTIL_DEGRADED
    }

    /// Whether the last start failed, so that only one worker at a time is tried.
    pub(super) fn is_probing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| not_before <= now)
    }
}

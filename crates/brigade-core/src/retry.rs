//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The pauses between attempts: exponential, with jitter and a cap.
///
/// The pause after attempt n is drawn evenly from the upper half of `base * 2^(n-1)`, but never
/// more than `cap`. Without the jitter, calls that failed together would come back together.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::Retry;
///
/// let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
/// let retry = Retry::exponential(second, minute).within(30 * minute);
/// assert!(retry.pause_after(1) <= second);
/// assert!(retry.pause_after(2) > second / 2);
/// assert!(retry.pause_after(100) <= minute);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retry {
    /// Pause after the first attempt, at most. Default: 100 ms.
    pub base: Duration,
    /// Longest pause. Default: 30 s.
    pub cap: Duration,
    /// No attempt begins later than this after the call was made or the job pushed, the first one
    /// included for a job; then it has failed for good. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Duration>,
}

/// The longest times overflow when they are multiplied.
const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            within: None,
        }
    }
}

impl Retry {
    /// A policy with this first and this longest pause.
    pub fn exponential(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            within: None,
        }
    }

    /// No attempt begins later than this after the call was made or the job pushed.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self {
            within: Some(time),
            ..self
        }
    }

    /// The pause after this attempt, which is counted from 1.
    pub fn pause_after(&self, attempt: u32) -> Duration {
        self.pause_with(attempt, jitter(0.5))
    }

    /// The pause after this attempt with a jitter of the caller's, a factor from 0.5 to 1.
    pub fn pause_with(&self, attempt: u32, jitter: f64) -> Duration {
        let doubled = 1_u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let full = self
            .base
            .saturating_mul(doubled)
            .min(self.cap)
            .min(PAUSE_MAX);
        full.mul_f64(jitter)
    }
}

/// A random factor from `1 - spread` to 1.
pub fn jitter(spread: f64) -> f64 {
    // The standard library seeds each `RandomState` differently; that is all the randomness a
    // jitter needs.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    let unit = f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    1.0 - spread * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_times_do_not_overflow() {
        assert!(Retry::exponential(Duration::MAX, Duration::MAX).pause_after(7) <= PAUSE_MAX);
    }

    #[test]
    fn pauses_grow_to_the_cap_and_stay_within_their_half() {
        let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(60));
        for (attempt, full) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (40, 60),
            (u32::MAX, 60),
        ] {
            let pause = retry.pause_after(attempt).as_secs_f64();
            assert!(
                (f64::from(full) / 2.0..=f64::from(full)).contains(&pause),
                "attempt {attempt}: {pause}"
            );
        }
    }
}

//! How often an idle consumer looks because something changed.
//!
//! Each commit of any process wakes every idle consumer, and most of them find nothing for
//! themselves. A look that was in vain costs a token; they come back at a steady pace. So a
//! consumer whose jobs come one by one looks at once, and each of a hundred that wait while another
//! one is busy looks [`PER_SECOND`] times each, at moments of their own.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::retry::jitter;
use crate::sync::lock;

/// Looks in vain that may follow each other at once.
const TOKENS: f64 = 10.0;
/// Tokens that come back in a second.
const PER_SECOND: f64 = 20.0;
/// A look that takes longer than this costs more: at least so many times the time it took passes
/// before the next.
const COST: f64 = 50.0;
/// A consumer waits no longer than this to look for what is there.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Pace(Mutex<PaceTokens>);

struct PaceTokens {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self(Mutex::new(PaceTokens {
            tokens: TOKENS,
            at: Instant::now(),
        }))
    }

    /// A look that took this long found something, or nothing.
    pub(super) fn note(&self, found: bool, took: Duration) {
        let mut state = lock(&self.0);
        state.tokens = if found {
            TOKENS
        } else {
            state.tokens - (took.as_secs_f64() * COST * PER_SECOND).max(1.0)
        };
    }

    /// How long to wait before a look that a change asks for.
    pub(super) fn pause(&self) -> Duration {
        let mut state = lock(&self.0);
        let now = Instant::now();
        state.tokens =
            (state.tokens + now.duration_since(state.at).as_secs_f64() * PER_SECOND).min(TOKENS);
        state.at = now;
        if state.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-state.tokens / PER_SECOND)
            .min(PAUSE_MAX)
            .mul_f64(jitter(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(50);

    #[test]
    fn looks_in_vain_are_spread_out_and_one_that_finds_something_sets_that_back() {
        let pace = Pace::new();
        for _ in 0..5 {
            assert_eq!(pace.pause(), Duration::ZERO);
            pace.note(false, SHORT);
        }
        for _ in 0..1000 {
            pace.note(false, SHORT);
        }
        assert!((PAUSE_MAX / 2..=PAUSE_MAX).contains(&pace.pause()));
        pace.note(true, SHORT);
        assert_eq!(pace.pause(), Duration::ZERO);
    }

    #[test]
    fn a_look_that_takes_long_is_not_repeated_soon() {
        let pace = Pace::new();
        pace.note(false, Duration::from_millis(20));
        assert!(pace.pause() > Duration::from_millis(100));
    }
}

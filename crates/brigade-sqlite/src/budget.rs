//! How much one step of long work may do: see `sweep` and `steps`.
//!
//! A transaction that writes keeps all other processes from writing. So work that may be long is
//! done in steps, each a transaction, and a step ends after some rows or some time, whichever comes
//! first. The rows bound what the commit has to write; the time bounds everything else, on a slow
//! or busy machine too.

use std::time::{Duration, Instant};

use crate::error::Error;

/// After this time a step begins with no further rows.
const STEP_TIME: Duration = Duration::from_millis(10);
/// Rows that are handled between two looks at the clock.
const ROWS_AT_ONCE: usize = 20;
/// Rows of one step of a sweep.
pub(super) const SWEEP_ROWS: usize = 500;
/// Ends of jobs that one transaction passes on in their flows, after those that it was asked for:
/// a few milliseconds (`flow_ends`).
pub(super) const FLOW_STEPS_MAX: usize = 100;
/// Rows of one step that a caller waits for. Each step is synced, so it is larger than one of a
/// sweep.
const ORDER_ROWS: usize = 2000;
/// The shortest pause between two steps: longer than others wait between two looks for the lock.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(3);
/// The longest pause. A step that took longer than this waited for others most of the time.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What is left of one step.
pub(super) struct StepBudget {
    rows: usize,
    until: Instant,
    /// The first rows are handled however late it is, so that each step gets on.
    has_begun: bool,
}

impl StepBudget {
    pub(super) fn of_sweep() -> Self {
        Self::new(SWEEP_ROWS)
    }

    /// For what a caller ordered and waits for.
    pub(super) fn of_order() -> Self {
        Self::new(ORDER_ROWS)
    }

    fn new(rows: usize) -> Self {
        Self {
            rows,
            until: Instant::now() + STEP_TIME,
            has_begun: false,
        }
    }

    /// Calls `handle` with a number of rows, which returns how many it handled, until that is
    /// fewer, as none is left: `true`. `false` if the budget was used up before.
    ///
    /// # Errors
    ///
    /// Those of `handle`.
    pub(super) fn use_up(
        &mut self,
        mut handle: impl FnMut(usize) -> Result<usize, Error>,
    ) -> Result<bool, Error> {
        loop {
            let limit = self.rows.min(ROWS_AT_ONCE);
            if limit == 0 || self.has_begun && Instant::now() >= self.until {
                return Ok(false);
            }
            let handled = handle(limit)?;
            self.rows = self.rows.saturating_sub(handled);
            self.has_begun |= handled > 0;
            if handled < limit {
                return Ok(true);
            }
        }
    }
}

/// How long to leave the file to others after a step that took this long: at least as long, so that
/// a sweep takes half of the time at most.
pub(super) fn pause_after(step: Duration) -> Duration {
    step.clamp(PAUSE_MIN, PAUSE_MAX)
}

/// A number of rows as SQL takes it.
pub(super) fn limit_of(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_when_no_rows_are_left_or_it_has_had_enough() {
        let mut left: usize = 120;
        let mut take = |limit: usize| {
            let taken = left.min(limit);
            left -= taken;
            Ok(taken)
        };
        let mut budget = StepBudget {
            rows: 100,
            until: Instant::now() + Duration::from_secs(3600),
            has_begun: false,
        };
        assert!(!budget.use_up(&mut take).unwrap(), "rows are used up");
        budget.rows = 100;
        assert!(budget.use_up(&mut take).unwrap(), "20 were left");
        budget.until = Instant::now();
        assert!(!budget.use_up(Ok).unwrap(), "time is up");
    }

    #[test]
    fn a_pause_is_as_long_as_the_step_within_bounds() {
        for (step, pause) in [(1, 3), (20, 20), (5000, 100)] {
            let millis = Duration::from_millis;
            assert_eq!(pause_after(millis(step)), millis(pause));
        }
    }
}

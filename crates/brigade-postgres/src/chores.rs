//! Chores: when this process has the database see to what is due (`schema/chores.sql`).
//!
//! A consuming process does so at a pace, as soon as something that it knows of falls due, and before
//! it says that there is nothing to hand out. Behind a step that found more than it may do at once
//! comes the next.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::clock::{Clock, later};
use crate::error::Error;
use brigade_core::sync::lock;

const CHORES: Statement = Statement::write_again(
    "see to what is due",
    "select is_more, due_in, has_ticks from brigade.chores($1)",
);

/// Rows of a kind that one step sees to.
const ROWS_MAX: i32 = 500;
/// Steps behind one another; what is left is done by the next that asks.
const STEPS_MAX: usize = 100;
/// A busy consumer sees to what is due at least so often.
const EVERY: Duration = Duration::from_millis(50);
/// And for at most this part of its time.
const PART: u32 = 10;
/// What takes no longer may be done at any time.
const CHEAP: Duration = Duration::from_millis(100);

/// When this process last did its chores, and when it has to next.
#[derive(Default)]
pub(super) struct Chores(Mutex<Option<LastChores>>);

#[derive(Clone, Copy)]
struct LastChores {
    at: Instant,
    took: Duration,
    due_at: Option<Instant>,
    /// How the clock of the broker was set.
    clock: (Duration, i64),
}

fn set_of(clock: &Clock) -> (Duration, i64) {
    (clock.ahead(), clock.wall_off_millis())
}

impl Chores {
    /// Whether it is time.
    pub(super) fn are_due(&self, clock: &Clock) -> bool {
        let now = Instant::now();
        lock(&self.0).is_none_or(|done| {
            done.clock != set_of(clock)
                || done.due_at.is_some_and(|due| due <= now)
                || now.duration_since(done.at) >= EVERY.max(done.took * PART)
        })
    }

    /// Whether they may be done once more than they are due. While a foreign transaction holds an old
    /// snapshot they take long, as they walk over what it keeps.
    pub(super) fn are_cheap(&self) -> bool {
        let now = Instant::now();
        lock(&self.0).is_none_or(|done| {
            done.took <= CHEAP || now.duration_since(done.at) >= done.took * PART
        })
    }

    /// Something falls due in this time.
    pub(super) fn expect(&self, due_in: Duration) {
        let due_at = later(Instant::now(), due_in);
        if let Some(done) = lock(&self.0).as_mut() {
            done.due_at = done.due_at.into_iter().chain([due_at]).min();
        }
    }

    /// In how long something falls due, as far as is known.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let due_at = lock(&self.0).as_ref()?.due_at?;
        Some(due_at.saturating_duration_since(Instant::now()))
    }
}

impl Database {
    /// Sees to everything that is due, in steps.
    pub(super) async fn do_chores(&self, chores: &Chores) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            let (began, clock) = (Instant::now(), set_of(&self.clock));
            let row = self.row(CHORES, &[&ROWS_MAX]).await?;
            let read = || {
                let row = row?;
                let due_in: Option<i64> = row.try_get(1).ok()?;
                let has_ticks: bool = row.try_get(2).ok()?;
                Some((row.try_get::<_, bool>(0).ok()?, due_in, has_ticks))
            };
            let (is_more, due_in, has_ticks) =
                read().ok_or_else(|| unreadable("see to what is due"))?;
            let due_in = due_in.map(|millis| Duration::from_millis(millis.unsigned_abs()));
            *lock(&chores.0) = Some(LastChores {
                at: Instant::now(),
                took: began.elapsed(),
                due_at: due_in.map(|due_in| later(Instant::now(), due_in)),
                clock,
            });
            let fired = if has_ticks {
                self.fire_schedules().await?
            } else {
                0
            };
            if !is_more && fired == 0 {
                break;
            }
        }
        Ok(())
    }
}

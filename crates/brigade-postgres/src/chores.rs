//! Chores: when this process has the database see to what is due (`schema/chores.sql`).
//!
//! A consuming process does so at a pace, as soon as something that it knows of falls due, and
//! before it says that there is nothing to hand out. Behind a step that found more than it may do
//! at once comes the next. One caller of a process does them at a time; those that wait for it
//! share the next turn.
//!
//! No answer depends on them: what fails is logged and tried again after a pause, and jobs are
//! handed out, looked at and changed all the same.
//!
//! A look at everything walks over what a foreign transaction with an old snapshot keeps in the
//! indexes. So it comes at most for a part of the time ([`PART`]), and the looks in between begin
//! shortly before the last complete one. Nothing depends on that but when a job is found that was
//! committed late.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Semaphore;

use super::database::{Database, Statement};
use super::sql_error::{may_only_read, unreadable};
use crate::clock::{Clock, later};
use crate::error::{Error, ErrorKind};
use brigade_core::sync::lock;

const CHORES: Statement = Statement::write_again(
    "see to what is due",
    "select is_more, due_in, has_ticks, lease_time, wall_time from brigade.chores($1, $2, $3)",
);

/// Rows of a kind that one step sees to.
const ROWS_MAX: i32 = 500;
/// Steps behind one another; what is left is done by the next that asks.
const STEPS_MAX: usize = 100;
/// A busy consumer sees to what is due at least so often.
const EVERY: Duration = Duration::from_millis(50);
/// And for at most this part of its time.
const PART: u32 = 10;
/// A look that is not at everything begins so long before the last one: transactions that were
/// under way are seen, and clocks that differ a little do not matter.
const OVERLAP: Duration = Duration::from_secs(5);
/// What takes no longer may be done at any time.
const CHEAP: Duration = Duration::from_millis(100);
/// The pause after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// The same where this user, or this server, may only read.
const READER_PAUSE: Duration = Duration::from_secs(10);

/// When this process last did its chores, and when it has to next.
pub(super) struct Chores {
    last: Mutex<Option<LastChores>>,
    /// Of the one caller that does them.
    turn: Semaphore,
    /// When the last turn began that came to its end.
    turn_began: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy)]
struct LastChores {
    at: Instant,
    /// How long the next look is expected to take.
    took: Duration,
    /// They are not done again before.
    pause: Duration,
    due_at: Option<Instant>,
    /// How the clock of the broker was set.
    clock: (Duration, i64),
    /// When a look at everything ended last, and how long it took.
    all_at: Instant,
    all_took: Duration,
    /// Where the next look may begin, for leases and for other times; none if this one was not
    /// complete.
    since: Option<(SystemTime, SystemTime)>,
}

impl LastChores {
    /// Where the next look begins; none if it is at everything.
    fn next_since(&self, now: Instant, clock: (Duration, i64)) -> Option<(SystemTime, SystemTime)> {
        let is_all = self.clock != clock || now.duration_since(self.all_at) >= self.all_took * PART;
        self.since.filter(|_| !is_all)
    }
}

fn set_of(clock: &Clock) -> (Duration, i64) {
    (clock.ahead(), clock.wall_off_millis())
}

impl Default for Chores {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            turn: Semaphore::new(1),
            turn_began: Mutex::default(),
        }
    }
}

impl Chores {
    /// Whether it is time, and no other caller does them.
    pub(super) fn are_due(&self, clock: &Clock) -> bool {
        if self.turn.available_permits() == 0 {
            return false;
        }
        let now = Instant::now();
        lock(&self.last).is_none_or(|done| {
            let since = now.duration_since(done.at);
            let is_time =
                done.due_at.is_some_and(|due| due <= now) || since >= EVERY.max(done.took * PART);
            done.clock != set_of(clock) || (is_time && since >= done.pause)
        })
    }

    /// Whether they may be done once more than they are due. While a foreign transaction holds an
    /// old snapshot they take long, as they walk over what it keeps.
    pub(super) fn are_cheap(&self) -> bool {
        let now = Instant::now();
        lock(&self.last).is_none_or(|done| {
            let since = now.duration_since(done.at);
            since >= done.pause && (done.took <= CHEAP || since >= done.took * PART)
        })
    }

    /// Something falls due in this time.
    pub(super) fn expect(&self, due_in: Duration) {
        let due_at = later(Instant::now(), due_in);
        if let Some(done) = lock(&self.last).as_mut() {
            done.due_at = done.due_at.into_iter().chain([due_at]).min();
        }
    }

    /// In how long something falls due, as far as is known.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let last = (*lock(&self.last))?;
        let now = Instant::now();
        let due_at = last.due_at?.max(later(last.at, last.pause));
        Some(due_at.saturating_duration_since(now))
    }

    /// Whether a turn began and ended since then.
    fn were_done_since(&self, asked: Instant) -> bool {
        lock(&self.turn_began).is_some_and(|began| began >= asked)
    }
}

impl Database {
    /// Sees to everything that is due, in steps.
    ///
    /// # Errors
    ///
    /// `Unreachable`, if the server cannot be reached.
    pub(super) async fn do_chores(&self, chores: &Chores) -> Result<(), Error> {
        let (asked, clock) = (Instant::now(), set_of(&self.clock));
        // It is never closed.
        let _turn = chores.turn.acquire().await.ok();
        if chores.were_done_since(asked) {
            return Ok(());
        }
        let began = Instant::now();
        let done = self.do_steps(chores).await;
        *lock(&chores.turn_began) = Some(began);
        let Err(error) = done else {
            return Ok(());
        };
        let may_only_read = may_only_read(&error);
        *lock(&chores.last) = Some(LastChores {
            at: Instant::now(),
            took: began.elapsed(),
            pause: if may_only_read {
                READER_PAUSE
            } else {
                ERROR_PAUSE
            },
            due_at: None,
            clock,
            all_at: began,
            all_took: Duration::ZERO,
            since: None,
        });
        if may_only_read {
            return Ok(());
        }
        if error.kind() == ErrorKind::Unreachable {
            return Err(error);
        }
        tracing::error!(%error, "could not see to due jobs; trying again in a second");
        Ok(())
    }

    async fn do_steps(&self, chores: &Chores) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            let (began, clock) = (Instant::now(), set_of(&self.clock));
            let last = *lock(&chores.last);
            let since = last.and_then(|last| last.next_since(began, clock));
            let (leases, times) = since.unzip();
            let row = self.row(CHORES, &[&ROWS_MAX, &leases, &times]).await?;
            let read = || {
                let row = row?;
                let due_in: Option<i64> = row.try_get(1).ok()?;
                let has_ticks: bool = row.try_get(2).ok()?;
                let moments: (SystemTime, SystemTime) =
                    (row.try_get(3).ok()?, row.try_get(4).ok()?);
                Some((row.try_get::<_, bool>(0).ok()?, due_in, has_ticks, moments))
            };
            let (is_more, due_in, has_ticks, moments) =
                read().ok_or_else(|| unreadable(CHORES.what))?;
            let due_in = due_in.map(|millis| Duration::from_millis(millis.unsigned_abs()));
            let took = began.elapsed();
            let (all_at, all_took) = match last {
                Some(last) if since.is_some() => (last.all_at, last.all_took),
                _ => (Instant::now(), took),
            };
            let before = |moment: SystemTime| moment.checked_sub(OVERLAP);
            let next_since = before(moments.0)
                .zip(before(moments.1))
                .filter(|_| !is_more);
            // Behind a look at everything comes a short one, which does not wait for its share of
            // time.
            let is_short_next = since.is_none() && next_since.is_some();
            *lock(&chores.last) = Some(LastChores {
                at: Instant::now(),
                took: if is_short_next { Duration::ZERO } else { took },
                pause: Duration::ZERO,
                due_at: due_in.map(|due_in| later(Instant::now(), due_in)),
                clock,
                all_at,
                all_took,
                since: next_since,
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

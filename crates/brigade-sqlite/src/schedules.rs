//! Schedules: what is kept of them, and firing what is due. Everything here runs within a
//! transaction of `lane`, so the jobs of a tick and the step to the next tick are stored together
//! or not at all.
//!
//! `tick` is the next tick, `next_at` when it is looked at: the same, unless a schedule
//! could not be fired and was put off.

use std::time::Duration;

use rusqlite::{Row, params};

use super::budget::limit_of;
use super::store::{Store, millis, no_room};
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::schedule::{DueTick, Schedule, SchedulePlan, Scheduled, tell_skipped, time_of};
use brigade_core::store::PushOutcome;

/// Jobs that one transaction pushes before it leaves the rest to the next.
const PUSHED_MAX: usize = 500;
/// A schedule that cannot be fired is looked at again after this time: a later version of this
/// library may know it.
const PUT_OFF: Duration = Duration::from_secs(60);

/// A schedule as it is stored.
struct StoredSchedule {
    name: Box<str>,
    plan: String,
    job: String,
    tick: i64,
}

const COLUMNS: &str = "SELECT name, plan, job, tick FROM brigade_schedules";

impl StoredSchedule {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            plan: row.get(1)?,
            job: row.get(2)?,
            tick: row.get(3)?,
        })
    }

    fn schedule(&self) -> Result<Schedule, Error> {
        let unreadable = |e| {
            Error::new(
                ErrorKind::Decode,
                format!("read the schedule {:?}: {e}", self.name),
            )
            .with_source(e)
        };
        let (plan, job): (SchedulePlan, Job) = (
            parse(&self.plan).map_err(unreadable)?,
            parse(&self.job).map_err(unreadable)?,
        );
        Ok(Schedule {
            name: self.name.clone(),
            plan,
            job,
        })
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(text)
}

fn write(name: &str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| {
        Error::new(
            ErrorKind::Encode,
            format!("write the schedule {name:?}: {e}"),
        )
        .with_source(e)
    })
}

impl Store<'_> {
    /// Stores a schedule. If the ticks are those of the one that is there, its next one stays, due
    /// or not; so does its pause.
    pub(super) fn schedule(&self, schedule: &Schedule) -> Result<Scheduled, Error> {
        let mut schedule = schedule.clone();
        let found = self.stored_schedule(&schedule.name)?;
        let before = found.and_then(|stored| {
            let plan = parse::<SchedulePlan>(&stored.plan).ok()?;
            Some((plan, stored.tick))
        });
        let same = |(plan, tick): &(SchedulePlan, i64)| {
            (plan.recurrence == schedule.plan.recurrence).then_some(*tick)
        };
        let tick = match before.as_ref().and_then(same) {
            Some(tick) => tick,
            None => schedule.plan.after(self.now.wall)?,
        };
        schedule.plan.paused = before.is_some_and(|(plan, _)| plan.paused);
        self.keep_schedule(&schedule, tick)?;
        Ok(schedule.into_scheduled(time_of(tick)))
    }

    /// Pauses a schedule or ends its pause; whether there is one.
    pub(super) fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool, Error> {
        let Some(stored) = self.stored_schedule(name)? else {
            return Ok(false);
        };
        let mut schedule = stored.schedule()?;
        let tick = schedule
            .plan
            .set_paused(paused, stored.tick, self.now.wall)?;
        self.keep_schedule(&schedule, tick)?;
        Ok(true)
    }

    fn stored_schedule(&self, name: &str) -> Result<Option<StoredSchedule>, Error> {
        self.row(
            "look up a schedule",
            &format!("{COLUMNS} WHERE name = ?1"),
            params![name],
            StoredSchedule::read,
        )
    }

    fn keep_schedule(&self, schedule: &Schedule, tick: i64) -> Result<(), Error> {
        let name = &schedule.name;
        let sql = "INSERT OR REPLACE INTO brigade_schedules (name, plan, job, tick, next_at) \
            VALUES (?1, ?2, ?3, ?4, ?4)";
        let values = params![
            name,
            write(name, &schedule.plan)?,
            write(name, &schedule.job)?,
            tick
        ];
        self.execute("store a schedule", sql, values).map(drop)
    }

    pub(super) fn unschedule(&self, name: &str) -> Result<bool, Error> {
        let count = self.execute(
            "remove a schedule",
            "DELETE FROM brigade_schedules WHERE name = ?1",
            params![name],
        )?;
        Ok(count > 0)
    }

    pub(super) fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        let stored = self.rows(
            "list schedules",
            &format!("{COLUMNS} ORDER BY name"),
            &[],
            StoredSchedule::read,
        )?;
        let readable = stored.iter().filter_map(|stored| match stored.schedule() {
            Ok(schedule) => Some(schedule.into_scheduled(time_of(stored.tick))),
            Err(error) => {
                tracing::warn!(%error, "left a schedule out of a list");
                None
            }
        });
        Ok(readable.collect())
    }

    /// When the next schedule wants to be looked at.
    pub(super) fn next_schedule(&self) -> Result<Option<i64>, Error> {
        let sql = "SELECT min(next_at) FROM brigade_schedules";
        Ok(self
            .row("find the next tick", sql, &[], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .flatten())
    }

    /// Pushes the jobs of all ticks that are due, of at most so many schedules. Returns of
    /// how many; `limit` too if it ended early because the jobs of one transaction are enough.
    pub(super) fn fire_schedules(&self, limit: usize) -> Result<usize, Error> {
        let sql = "SELECT name, plan, job, tick FROM brigade_schedules WHERE next_at <= ?1 ORDER \
            BY next_at LIMIT ?2";
        let due = self.rows(
            "find due schedules",
            sql,
            params![self.now.wall, limit_of(limit)],
            StoredSchedule::read,
        )?;
        let (count, mut pushed) = (due.len(), 0);
        for stored in due {
            if pushed >= PUSHED_MAX {
                return Ok(limit);
            }
            let fired = stored.schedule().and_then(|schedule| {
                let due = schedule.plan.due(stored.tick, self.now.wall)?;
                Ok((schedule, due))
            });
            match fired {
                // What runs needs the room; the tick is made up for as any that was missed.
                Ok((_, due)) if self.tight && !due.fire.is_empty() => {
                    self.put_off(&stored.name, &no_room("fire a schedule"))?
                }
                Ok((schedule, due)) => pushed += self.fire(&schedule, &due)?,
                Err(error) => self.put_off(&stored.name, &error)?,
            }
        }
        Ok(count)
    }

    /// Pushes the jobs of these ticks and moves on to the next.
    fn fire(&self, schedule: &Schedule, due: &DueTick) -> Result<usize, Error> {
        let name = &*schedule.name;
        due.tell(name, &schedule.plan);
        for tick in &due.fire {
            let job = schedule.job_of(*tick);
            let outcome = self.push(&job)?;
            self.note_pushed(&job, &outcome)?;
            if let PushOutcome::Duplicate(job) = outcome {
                tell_skipped(name, *tick, &job);
            }
        }
        let sql = "UPDATE brigade_schedules SET tick = ?2, next_at = ?2 WHERE name = ?1";
        self.execute("move a schedule on", sql, params![name, due.next])?;
        Ok(due.fire.len())
    }

    /// Leaves a schedule as it is for a while, so that it holds up no other.
    fn put_off(&self, name: &str, error: &Error) -> Result<(), Error> {
        tracing::error!(schedule = name, %error, "could not fire a schedule; trying again in a \
            minute");
        let later = self.now.wall.saturating_add(millis(PUT_OFF));
        self.execute(
            "put a schedule off",
            "UPDATE brigade_schedules SET next_at = ?2 WHERE name = ?1",
            params![name, later],
        )
        .map(drop)
    }
}

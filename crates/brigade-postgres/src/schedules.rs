//! Schedules: when a tick is due is decided here, by the server's clock; its jobs and the step to
//! the next tick are stored by one call (`schema/schedules.sql`).
//!
//! There is no scheduler: each process that sees to what is due (`chores`) fires what it finds. A
//! call moves a schedule on from the tick that its caller has seen, so of several processes one
//! fires a tick.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::Row;

use super::database::{Database, Statement, millis};
use super::push::{PushColumns, outcomes_of};
use super::sql_error::unreadable;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use brigade_core::schedule::{DueTick, Schedule, SchedulePlan, Scheduled, tell_skipped, time_of};
use brigade_core::store::PushOutcome;

const LIST: Statement = Statement::read(
    "list schedules",
    "select name, plan, job, tick from brigade.schedules order by name",
);
const FIND: Statement = Statement::read(
    "look up a schedule",
    "select name, plan, job, tick, brigade.wall() from (select) as one left join brigade.schedules on \
        name = $1",
);
const DUE: Statement = Statement::read(
    "find due schedules",
    "select name, plan, job, tick, wall from (select brigade.wall() as wall) as now, \
        brigade.schedules where next_at <= wall order by next_at limit $1",
);
const STORE: Statement = Statement::write(
    "store a schedule",
    "select brigade.store_schedule($1, $2, $3, $4, $5, $6)",
);
const REMOVE: Statement = Statement::write(
    "remove a schedule",
    "delete from brigade.schedules where name = $1 returning 1",
);
const PUT_OFF: Statement = Statement::write(
    "put a schedule off",
    "update brigade.schedules set next_at = $3 where name = $1 and tick = $2",
);
const FIRE: Statement = Statement::write(
    "fire a schedule",
    "select ids, is_new from brigade.fire_schedule($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
        $13, $14, $15, $16, $17, $18)",
);
/// Schedules that are fired before other chores come.
const FIRED_MAX: i64 = 100;
/// A schedule that cannot be fired is looked at again after this time: a later version of this
/// library may know it.
const PUT_OFF_FOR: Duration = Duration::from_secs(60);
/// How often a schedule is stored that other processes store at the same time.
const TRIES: usize = 20;

/// A schedule as it is stored.
struct KeptSchedule {
    name: Box<str>,
    plan: String,
    job: String,
    tick: SystemTime,
}

impl KeptSchedule {
    fn read(row: &Row) -> Option<Self> {
        Some(Self {
            name: row.try_get::<_, String>(0).ok()?.into(),
            plan: row.try_get(1).ok()?,
            job: row.try_get(2).ok()?,
            tick: row.try_get(3).ok()?,
        })
    }

    fn schedule(&self) -> Result<Schedule, Error> {
        let unreadable = |e| {
            let text = format!("read the schedule {:?}: {e}", self.name);
            Error::new(ErrorKind::Decode, text).with_source(e)
        };
        Ok(Schedule {
            name: self.name.clone(),
            plan: serde_json::from_str(&self.plan).map_err(unreadable)?,
            job: serde_json::from_str(&self.job).map_err(unreadable)?,
        })
    }

    /// `None` if a later version of this library wrote it.
    fn plan(&self) -> Option<SchedulePlan> {
        serde_json::from_str(&self.plan).ok()
    }
}

fn write(name: &str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| {
        let text = format!("write the schedule {name:?}: {e}");
        Error::new(ErrorKind::Encode, text).with_source(e)
    })
}

fn always_changed(name: &str) -> Error {
    let text =
        format!("store the schedule {name:?}: other processes change it all the time; try again");
    Error::new(ErrorKind::Timeout, text)
}

/// Milliseconds since 1970, rounded down.
fn millis_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => -millis(before.duration()),
    }
}

impl Database {
    /// Stores a schedule. If the ticks are those of the one that is there, its next one stays, due
    /// or not; so does its pause.
    pub(super) async fn schedule(&self, schedule: &Schedule) -> Result<Scheduled, Error> {
        let mut schedule = schedule.clone();
        for _ in 0..TRIES {
            let (stored, wall) = self.find_schedule(&schedule.name).await?;
            let plan = stored.as_ref().and_then(KeptSchedule::plan);
            let is_same = plan
                .as_ref()
                .is_some_and(|plan| plan.recurrence == schedule.plan.recurrence);
            let tick = match &stored {
                Some(stored) if is_same => stored.tick,
                _ => time_of(schedule.plan.after(millis_of(wall))?),
            };
            schedule.plan.paused = plan.is_some_and(|plan| plan.paused);
            if self.replace(stored.as_ref(), &schedule, tick).await? {
                return Ok(schedule.into_scheduled(tick));
            }
        }
        Err(always_changed(&schedule.name))
    }

    /// Pauses a schedule or ends its pause; whether there is one.
    pub(super) async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool, Error> {
        for _ in 0..TRIES {
            let (stored, wall) = self.find_schedule(name).await?;
            let Some(stored) = stored else {
                return Ok(false);
            };
            let mut schedule = stored.schedule()?;
            let (tick, now) = (millis_of(stored.tick), millis_of(wall));
            let tick = time_of(schedule.plan.set_paused(paused, tick, now)?);
            if self.replace(Some(&stored), &schedule, tick).await? {
                return Ok(true);
            }
        }
        Err(always_changed(name))
    }

    /// The schedule of a name, and the server's time.
    async fn find_schedule(&self, name: &str) -> Result<(Option<KeptSchedule>, SystemTime), Error> {
        let row = self.row(FIND, &[&name]).await?;
        let row = row.ok_or_else(|| unreadable(FIND.what))?;
        let wall = row.try_get(4).map_err(|_| unreadable(FIND.what))?;
        Ok((KeptSchedule::read(&row), wall))
    }

    /// Stores a schedule in the place of the one that was seen; `false` if that is another by now.
    async fn replace(
        &self,
        seen: Option<&KeptSchedule>,
        schedule: &Schedule,
        tick: SystemTime,
    ) -> Result<bool, Error> {
        let name = &*schedule.name;
        let (plan, job) = (write(name, &schedule.plan)?, write(name, &schedule.job)?);
        let (seen_plan, seen_tick) = (seen.map(|seen| &seen.plan), seen.map(|seen| seen.tick));
        let row = self
            .row(STORE, &[&name, &plan, &job, &tick, &seen_plan, &seen_tick])
            .await?;
        Ok(row.is_some_and(|row| row.try_get(0).unwrap_or(false)))
    }

    pub(super) async fn unschedule(&self, name: &str) -> Result<bool, Error> {
        Ok(self.row(REMOVE, &[&name]).await?.is_some())
    }

    pub(super) async fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        let rows = self.rows(LIST, &[]).await?;
        let stored = rows.iter().filter_map(KeptSchedule::read);
        let readable = stored.filter_map(|stored| match stored.schedule() {
            Ok(schedule) => Some(schedule.into_scheduled(stored.tick)),
            Err(error) => {
                tracing::warn!(%error, "left a schedule out of a list");
                None
            }
        });
        Ok(readable.collect())
    }

    /// Pushes the jobs of ticks that are due, of a bounded number of schedules. Gives how many
    /// schedules it looked at.
    pub(super) async fn fire_schedules(&self) -> Result<usize, Error> {
        let rows = self.rows(DUE, &[&FIRED_MAX]).await?;
        let mut looked_at = 0;
        for row in &rows {
            let Some(stored) = KeptSchedule::read(row) else {
                tracing::error!("left out a due schedule that was changed and cannot be read");
                continue;
            };
            looked_at += 1;
            let wall: SystemTime = row.try_get(4).map_err(|_| unreadable(DUE.what))?;
            let due = stored.schedule().and_then(|schedule| {
                let due = schedule.plan.due(millis_of(stored.tick), millis_of(wall))?;
                Ok((schedule, due))
            });
            let fired = match due {
                Ok((schedule, due)) => self.fire(&stored, &schedule, &due).await,
                Err(error) => Err(error),
            };
            match fired {
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => self.put_off(&stored, wall, &error).await?,
                Ok(()) => {}
            }
        }
        Ok(looked_at)
    }

    /// Pushes the jobs of these ticks and moves on to the next, unless another process did.
    async fn fire(
        &self,
        stored: &KeptSchedule,
        schedule: &Schedule,
        due: &DueTick,
    ) -> Result<(), Error> {
        let jobs: Vec<Job> = due.fire.iter().map(|tick| schedule.job_of(*tick)).collect();
        let mut columns = PushColumns::default();
        jobs.iter().try_for_each(|job| columns.add(job, 0))?;
        let (name, next) = (&*stored.name, time_of(due.next));
        let mut values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            vec![&name, &stored.tick, &next];
        values.extend(columns.values());
        let row = self.row(FIRE, &values).await?;
        let outcomes = outcomes_of(row.as_ref(), jobs.len());
        let Some(outcomes) = outcomes else {
            return Ok(());
        };
        due.tell(name, &schedule.plan);
        for (tick, outcome) in due.fire.iter().zip(outcomes) {
            if let PushOutcome::Duplicate(job) = outcome {
                tell_skipped(name, *tick, &job);
            }
        }
        Ok(())
    }

    /// Leaves a schedule as it is for a while, so that it holds up no other.
    async fn put_off(
        &self,
        stored: &KeptSchedule,
        wall: SystemTime,
        error: &Error,
    ) -> Result<(), Error> {
        let name = &*stored.name;
        tracing::error!(schedule = name, %error, "could not fire a schedule; trying again in a \
            minute");
        let later = time_of(millis_of(wall).saturating_add(millis(PUT_OFF_FOR)));
        self.row(PUT_OFF, &[&name, &stored.tick, &later])
            .await
            .map(drop)
    }
}

//! Schedules: jobs that are pushed again and again, by a cron expression in a time zone or at plain
//! intervals.
//!
//! Values and arithmetic, the same for every broker; all that is read is the time zone database. A
//! broker keeps a schedule's [`SchedulePlan`], its job and its next tick, and asks
//! [`SchedulePlan::due`] what a moment means for them. Ticks come from the plan alone, never from
//! the moment of a look, so all processes agree on them.
//!
//! A time is milliseconds since 1970, as a broker stores it.

mod cron;
mod described;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use self::cron::Cron;
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId};
use crate::options::Options;
use crate::tick::Tick;

/// A job to push at each tick. Give it to `Broker::schedule`: any consumer that polls the broker
/// fires the schedules that are due, each tick exactly once.
///
/// ```
/// use brigade::{Broker, Schedule, task};
///
/// #[task]
/// fn report(kind: String) {
///     println!("a report of {kind}");
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}/jobs.db", directory.path().display());
/// let broker = Broker::connect(&url).await?;
/// let nightly = Schedule::cron("nightly report", "30 2 * * *", report("sales".to_owned()))?;
/// let scheduled = broker.schedule(nightly.zone("Europe/Berlin")).await?;
/// println!("the next tick is {:?}", scheduled.next);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a schedule does nothing until a broker has it"]
pub struct Schedule {
    /// Its name.
    pub name: Box<str>,
    /// When it is due.
    pub plan: SchedulePlan,
    /// The job of each tick, for stores: [`job_of`](Schedule::job_of).
    pub job: Job,
}

/// When a schedule has its ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Recurrence {
    /// By a cron expression, in a time zone of the IANA database.
    Cron {
        /// The expression.
        expression: String,
        /// The zone.
        zone: String,
    },
    /// At every multiple of this time since 1970, UTC.
    Every(Duration),
}

/// What happens with missed ticks: those that are late by more than the schedule's
/// [grace](Schedule::grace).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Missed {
    /// They are gone.
    Skip,
    /// One job makes up for all of them, at the last one's tick; none if a tick that is not late is
    /// there as well.
    #[default]
    Once,
    /// Each is made up for, up to the first 1,000 of them.
    All,
}

/// When, and what of missed ticks. Stored as it is: a new field needs a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulePlan {
    /// When it has its ticks.
    pub recurrence: Recurrence,
    /// What happens with missed ticks.
    #[serde(default)]
    pub missed: Missed,
    /// A tick is missed if it is late by more than this.
    #[serde(default = "default_grace")]
    pub grace: Duration,
    /// Of which set it is, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<str>>,
    /// Whether it is paused: its ticks pass without a job. A store keeps this when the schedule is
    /// set again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
}

/// A schedule as its broker has it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scheduled {
    /// Its name.
    pub name: String,
    /// When it has its ticks.
    pub recurrence: Recurrence,
    /// What becomes of missed ticks.
    pub missed: Missed,
    /// How late a tick may be fired before it counts as missed.
    pub grace: Duration,
    /// The queue of its jobs.
    pub queue: String,
    /// The task of its jobs, if it is a task's.
    pub task: Option<String>,
    /// The payload of its jobs, JSON text.
    pub payload: String,
    /// Its next tick.
    pub next: SystemTime,
    /// The group that it is of, see `Broker::set_schedules`.
    pub group: Option<String>,
    /// Whether it is paused: ticks that come meanwhile, the next one included, push no job.
    pub paused: bool,
    /// The options of its jobs.
    options: Options,
}

impl Scheduled {
    /// Whether this is what a broker has of the schedule, paused or not.
    pub fn is_of(&self, schedule: &Schedule) -> bool {
        let mut same = schedule.clone().into_scheduled(self.next);
        same.paused = self.paused;
        *self == same
    }

    /// When it has its ticks, and what of missed ones.
    pub fn plan(&self) -> SchedulePlan {
        SchedulePlan {
            recurrence: self.recurrence.clone(),
            missed: self.missed,
            grace: self.grace,
            group: self.group.as_deref().map(Box::from),
            paused: self.paused,
        }
    }

    /// A job like those of its ticks, to push one by hand: it is for no tick.
    pub fn job(&self) -> Job {
        let task = self.task.as_deref().map(Box::from);
        let mut job = Job::new(self.queue.as_str(), task, self.payload.as_str());
        job.options = self.options.clone();
        job
    }
}

/// What a moment means for a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueTick {
    /// Ticks to push a job for, in their order.
    pub fire: Vec<i64>,
    /// The next tick. It may be due as well, if there are too many for one go.
    pub next: i64,
    /// The first and the last tick that was late.
    pub late: Option<(i64, i64)>,
    /// The first and the last of the late ones that [`Missed::All`] leaves out for their number.
    pub left_out: Option<(i64, i64)>,
}

/// Ticks that are fired in one go, and late ones that are made up for.
pub const TICKS_MAX: usize = 1_000;
/// A thousand ticks may be pushed in one go.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;
const GRACE: Duration = Duration::from_secs(60);
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

fn default_grace() -> Duration {
    GRACE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Schedule {
    /// A schedule that a store has kept. Programs use [`cron`](Schedule::cron) and
    /// [`every`](Schedule::every).
    pub fn new(name: impl Into<Box<str>>, recurrence: Recurrence, job: Job) -> Self {
        Self {
            name: name.into(),
            plan: SchedulePlan {
                recurrence,
                missed: Missed::default(),
                grace: GRACE,
                group: None,
                paused: false,
            },
            job,
        }
    }

    /// The time zone of its cron expression, by a name of the IANA database: `Europe/Berlin`. It
    /// says nothing for plain intervals. Default: `UTC`.
    pub fn zone(mut self, name: impl Into<String>) -> Self {
        if let Recurrence::Cron { zone, .. } = &mut self.plan.recurrence {
            *zone = name.into();
        }
        self
    }

    /// What happens with missed ticks. Default: [`Missed::Once`].
    pub fn missed(mut self, missed: Missed) -> Self {
        self.plan.missed = missed;
        self
    }

    /// How late a tick may be fired before it counts as missed. Default: 60 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.plan.grace = grace;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[doc(hidden)]
    pub fn in_group(mut self, group: &str) -> Self {
        self.plan.group = Some(group.into());
        self
    }

    /// What a store shows of it, with its next tick.
    pub fn into_scheduled(self, next: SystemTime) -> Scheduled {
        let SchedulePlan {
            recurrence,
            missed,
            grace,
            group,
            paused,
        } = self.plan;
        let Job {
            queue,
            task,
            payload,
            options,
            ..
        } = self.job;
        let (queue, task, payload) = (queue.into(), task.map(Into::into), payload.into());
        Scheduled {
            name: self.name.into(),
            recurrence,
            missed,
            grace,
            queue,
            task,
            payload,
            next,
            group: group.map(Into::into),
            paused,
            options,
        }
    }

    /// The job of a tick, in milliseconds since 1970.
    pub fn job_of(&self, tick: i64) -> Job {
        let mut job = self.job.clone();
        job.options.tick = Some(Tick {
            schedule: self.name.to_string(),
            at: time_of(tick),
        });
        job
    }
}

/// An expression's or an interval's ticks.
enum Ticks {
    Cron(Box<Cron>),
    Every(i64),
}

impl Ticks {
    /// The first tick after a time. None is before 1970, which no clock means.
    fn after(&self, time: i64) -> Result<i64, Error> {
        match self {
            Self::Cron(cron) => cron.after(time.max(0)),
            Self::Every(interval) => {
                Ok((time.max(0).div_euclid(*interval) + 1).saturating_mul(*interval))
            }
        }
    }

    /// The last tick before a time, given one that is before it.
    fn last_before(&self, tick: i64, time: i64) -> Result<i64, Error> {
        // Only ever forwards, halving what is left, because there may be millions between.
        let (mut last, mut bound) = (tick, time - 1);
        while last < bound {
            let middle = last + (bound - last) / 2;
            match self.after(middle)? {
                later if later < time => last = later,
                _ => bound = middle,
            }
        }
        Ok(last)
    }
}

impl SchedulePlan {
    /// The first tick after a time.
    ///
    /// # Errors
    ///
    /// `BadOption` if the plan cannot be meant: what is wrong, and where.
    pub fn after(&self, time: i64) -> Result<i64, Error> {
        self.ticks()?.after(time)
    }

    /// Pauses it or ends its pause, if the next tick is this one, and gives the next tick then. A
    /// tick that is due at the pause or at its end is left out, so a pause has no tick to make up
    /// for.
    ///
    /// # Errors
    ///
    /// As [`after`](SchedulePlan::after).
    pub fn set_paused(&mut self, paused: bool, tick: i64, now: i64) -> Result<i64, Error> {
        if self.paused == paused {
            return Ok(tick);
        }
        self.paused = paused;
        if tick > now {
            Ok(tick)
        } else {
            self.after(now)
        }
    }

    /// What the moment `now` means, if the next tick is this one.
    ///
    /// # Errors
    ///
    /// As [`after`](SchedulePlan::after).
    pub fn due(&self, mut tick: i64, now: i64) -> Result<DueTick, Error> {
        let ticks = self.ticks()?;
        let mut due = DueTick::default();
        if self.paused {
            due.next = if tick > now { tick } else { ticks.after(now)? };
            return Ok(due);
        }
        let in_time = now.saturating_sub(i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX));
        if tick < in_time {
            let last = ticks.last_before(tick, in_time)?;
            let next = ticks.after(last)?;
            due.late = Some((tick, last));
            match self.missed {
                Missed::Skip => {}
                Missed::Once if next <= now => {}
                Missed::Once => due.fire.push(last),
                Missed::All => {
                    while tick <= last && due.fire.len() < TICKS_MAX {
                        due.fire.push(tick);
                        tick = ticks.after(tick)?;
                    }
                    due.left_out = (tick <= last).then_some((tick, last));
                }
            }
            tick = next;
        }
        while tick <= now && due.fire.len() < TICKS_MAX {
            due.fire.push(tick);
            tick = ticks.after(tick)?;
        }
        due.next = tick;
        Ok(due)
    }

    fn ticks(&self) -> Result<Ticks, Error> {
        match &self.recurrence {
            Recurrence::Cron { expression, zone } => {
                Cron::new(expression, zone).map(Box::new).map(Ticks::Cron)
            }
            Recurrence::Every(interval)
                if (EVERY_MIN..=EVERY_MAX).contains(interval)
                    && interval.subsec_nanos() % 1_000_000 == 0 =>
            {
                Ok(Ticks::Every(
                    i64::try_from(interval.as_millis()).unwrap_or(i64::MAX),
                ))
            }
            Recurrence::Every(interval) => {
                let text = format!(
                    "schedule by an interval of {interval:?}: it is from {EVERY_MIN:?} to ten \
                        years, in whole milliseconds"
                );
                Err(Error::new(ErrorKind::BadOption, text))
            }
        }
    }
}

impl DueTick {
    /// Logs what was missed.
    pub fn tell(&self, name: &str, plan: &SchedulePlan) {
        if let Some((first, last)) = self.late {
            let (first, last) = (in_words(first), in_words(last));
            tracing::warn!(schedule = name, first, last, missed = ?plan.missed, "ticks of a \
                schedule were missed");
        }
        if let Some((first, last)) = self.left_out {
            let (first, last) = (in_words(first), in_words(last));
            tracing::error!(
                schedule = name,
                first,
                last,
                "too many ticks were missed: these are not made up for"
            );
        }
    }
}

/// Logs that a tick was skipped because a job with its unique key is there.
pub fn tell_skipped(name: &str, tick: i64, job: &JobId) {
    let tick = in_words(tick);
    tracing::warn!(schedule = name, tick, %job, "skipped a tick: there is a job with its unique \
        key already");
}

/// For logs: RFC 3339.
fn in_words(tick: i64) -> String {
    jiff::Timestamp::from_millisecond(tick)
        .map_or_else(|_| tick.to_string(), |tick| tick.to_string())
}

/// The last moment that RFC 3339 can write in every time zone: 9999-12-30T22:00:00Z.
pub const LAST_MILLIS: i64 = 253_402_207_200_000;

/// A time as stores keep it. One that is cut to the longest there is, is shown as the last that can
/// be written.
pub fn time_of(millis: i64) -> SystemTime {
    let millis = millis.clamp(-LAST_MILLIS, LAST_MILLIS);
    let offset = Duration::from_millis(millis.unsigned_abs());
    // A `SystemTime` of Linux has room for more than milliseconds can say.
    let moment = if millis < 0 {
        UNIX_EPOCH.checked_sub(offset)
    } else {
        UNIX_EPOCH.checked_add(offset)
    };
    moment.unwrap_or(UNIX_EPOCH)
}

/// Moments as RFC 3339 text, UTC, in whole milliseconds. One later than that can write is the
/// last that it can.
pub mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    const LATEST: &str = "9999-12-30T22:00:00.000Z";

    pub fn text(moment: SystemTime) -> String {
        match jiff::Timestamp::try_from(moment) {
            Ok(moment) if moment.as_millisecond() < -62_167_219_200_000 => {
                "0000-01-01T00:00:00.000Z".to_owned()
            }
            Ok(moment) => format!("{moment:.3}"),
            Err(_) if moment < SystemTime::UNIX_EPOCH => "0000-01-01T00:00:00.000Z".to_owned(),
            Err(_) => LATEST.to_owned(),
        }
    }

    pub fn serialize<S: Serializer>(moment: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(*moment))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>()
            .map(Into::into)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;

//! Schedules as a user describes them.

use std::time::Duration;

use super::{Recurrence, Schedule};
use crate::error::Error;
use crate::to_job::ToJob;

impl Schedule {
    /// A job at each tick of a cron expression: `minute hour day-of-month month day-of-week`, with
    /// a sixth field first for the second; or `@hourly`, `@daily` (`@midnight`), `@weekly`,
    /// `@monthly`, `@yearly` (`@annually`).
    ///
    /// A field is `*`, a number, a range `1-5`, either with a step `*/15`, or a list of these;
    /// months and days of the week have names too. `L` is the last day of a month, `15W` the
    /// weekday nearest to the 15th, `FRI#2` the second Friday, `FRIL` the last. If both the day of
    /// the month and that of the week are given, either is enough, as in Vixie cron; `+` before the
    /// latter asks for both. So does a `*` at the beginning of one of them: `0 0 */2 * mon` is each
    /// Monday that is an odd day.
    ///
    /// **Summer time.** A fixed time (one second, one minute, one hour) has one tick on each of its
    /// days: where clocks go forwards over it, at the first moment after; where they go back, at
    /// the first of the two. Everything else follows real time: every half hour is every half hour.
    /// A day that a time zone leaves out has no tick.
    ///
    /// # Errors
    ///
    /// What the job says ([`ToJob`]). The expression and the zone are looked at when the schedule
    /// is given to a broker.
    pub fn cron(
        name: impl Into<Box<str>>,
        expression: &str,
        job: impl ToJob,
    ) -> Result<Self, Error> {
        // Spaces make no other schedule.
        let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self::new(
            name,
            Recurrence::Cron {
                expression,
                zone: "UTC".to_owned(),
            },
            job.to_job()?,
        ))
    }

    /// A job at every multiple of this time since 1970 (UTC), so that all who look agree: every
    /// hour is at the full hour. Whole milliseconds, from 100 ms to ten years.
    ///
    /// # Errors
    ///
    /// As [`cron`](Schedule::cron).
    pub fn every(
        name: impl Into<Box<str>>,
        interval: Duration,
        job: impl ToJob,
    ) -> Result<Self, Error> {
        Ok(Self::new(name, Recurrence::Every(interval), job.to_job()?))
    }
}

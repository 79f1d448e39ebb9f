//! A schedule as the command line and files write it, and as a document.

use brigade::{Job, Missed, Recurrence, Schedule, Scheduled};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::exit::usage;
use crate::show;
use crate::times::{self, rfc3339};

#[derive(Clone, Copy, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    /// No job
    Skip,
    /// One job for all of them
    #[default]
    Once,
    /// A job for each, up to the first 1,000
    All,
}

impl Policy {
    pub(super) fn missed(self) -> Missed {
        match self {
            Self::Skip => Missed::Skip,
            Self::Once => Missed::Once,
            Self::All => Missed::All,
        }
    }
}

/// A schedule, with its ticks in the command line's form.
pub(super) fn schedule_of(
    name: &str,
    when: &str,
    zone: Option<String>,
    job: Job,
) -> anyhow::Result<Schedule> {
    Ok(match when.strip_prefix("@every ") {
        Some(_) if zone.is_some() => {
            return Err(usage(
                "an interval has no time zone: it counts from 1970, UTC",
            ));
        }
        Some(interval) => {
            let interval = times::duration(interval)
                .map_err(|help| usage(format!("schedule by {when:?}: {help}")))?;
            Schedule::every(name, interval, job)?
        }
        None if when.starts_with("every ") => {
            return Err(usage(format!(
                "schedule by {when:?}: write an interval with an @, as '@{when}'"
            )));
        }
        None => Schedule::cron(name, when, job)?.zone(zone.unwrap_or_else(|| "UTC".to_owned())),
    })
}

/// A schedule as a document; times are in seconds.
#[derive(Serialize)]
pub(super) struct ScheduleDocument<'a> {
    name: &'a str,
    cron: Option<&'a str>,
    zone: Option<&'a str>,
    every: Option<f64>,
    missed: Missed,
    grace: f64,
    queue: &'a str,
    task: Option<&'a str>,
    payload: Box<RawValue>,
    next: String,
    group: Option<&'a str>,
    paused: bool,
}

impl<'a> ScheduleDocument<'a> {
    pub(super) fn new(schedule: &'a Scheduled) -> Self {
        let (cron, zone, every) = match &schedule.recurrence {
            Recurrence::Cron { expression, zone } => {
                (Some(expression.as_str()), Some(zone.as_str()), None)
            }
            Recurrence::Every(interval) => (None, None, Some(interval.as_secs_f64())),
            _ => (None, None, None),
        };
        Self {
            name: &schedule.name,
            cron,
            zone,
            every,
            missed: schedule.missed,
            grace: schedule.grace.as_secs_f64(),
            queue: &schedule.queue,
            task: schedule.task.as_deref(),
            payload: show::raw(&schedule.payload),
            next: rfc3339(schedule.next),
            group: schedule.group.as_deref(),
            paused: schedule.paused,
        }
    }
}

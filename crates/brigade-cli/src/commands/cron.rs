//! `brigade cron`: jobs that are pushed by the clock.

mod set;

use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, Job, Missed, Recurrence, Schedule, Scheduled};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::push::{self, JobOptions};
use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::{self, usage};
use crate::show::{self, note};
use crate::times::{self, local, rfc3339};

/// Push jobs by the clock: list, add and remove schedules
#[derive(clap::Args)]
pub(crate) struct Cron {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List schedules with their next ticks
    Ls,
    Add(Box<Add>),
    Set(set::Set),
    /// Remove schedules; jobs that they have pushed stay
    Rm {
        /// Names of schedules
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Push a job again and again, by a cron expression or at an interval
///
/// Whoever works on a queue of this broker fires what is due, each tick once; while nobody does,
/// ticks are missed. A schedule of the name that has the same ticks goes on with the new job and
/// policy; one that has others begins anew.
#[derive(clap::Args)]
struct Add {
    /// Name of the schedule
    #[arg(value_name = "NAME")]
    name: String,

    /// '30 3 * * mon-fri' (minute hour day month weekday, or six fields, second first), @daily, or
    /// '@every 15m'
    #[arg(value_name = "WHEN")]
    when: String,

    /// Queue to push to
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// Payload, a JSON value
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    payload: String,

    /// Time zone of the expression, e.g. Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,

    /// What becomes of ticks that nobody was there to fire
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::Once)]
    missed: Policy,

    /// How late a tick may be before it counts as missed
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "60s")]
    grace: Duration,

    #[command(flatten)]
    options: JobOptions,
}

#[derive(Clone, Copy, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Policy {
    /// They are gone
    Skip,
    /// One job makes up for all of them
    #[default]
    Once,
    /// Each is made up for, up to the first 1,000
    All,
}

impl Policy {
    fn missed(self) -> Missed {
        match self {
            Self::Skip => Missed::Skip,
            Self::Once => Missed::Once,
            Self::All => Missed::All,
        }
    }
}

impl Cron {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        match self.action {
            Action::Ls => list(&broker, globals.json).await,
            Action::Add(add) => add.run(&broker, globals.json).await,
            Action::Set(set) => set.run(&broker, globals.json).await,
            Action::Rm { names } => remove(&broker, &names, globals.json).await,
        }
    }
}

impl Add {
    async fn run(self, broker: &Broker, json: bool) -> anyhow::Result<ExitCode> {
        let job = self.options.set_on(
            broker
                .queue(self.queue)
                .job(push::payload(&self.payload)?)?,
        );
        let schedule = schedule_of(&self.name, &self.when, self.zone, job)?;
        let scheduled = broker
            .schedule(schedule.missed(self.missed.missed()).grace(self.grace))
            .await?;
        if json {
            show::json(&ScheduleDocument::new(&scheduled))?;
        } else {
            show::line(&format!("next {}", local(scheduled.next)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A schedule whose ticks are written as the command line has them.
fn schedule_of(name: &str, when: &str, zone: Option<String>, job: Job) -> anyhow::Result<Schedule> {
    Ok(match when.strip_prefix("@every ") {
        Some(_) if zone.is_some() => {
            return Err(usage(
                "an interval has no time zone: it counts from 1970, UTC",
            ));
        }
        Some(interval) => Schedule::every(name, times::duration(interval).map_err(usage)?, job)?,
        None => Schedule::cron(name, when, job)?.zone(zone.unwrap_or_else(|| "UTC".to_owned())),
    })
}

async fn list(broker: &Broker, json: bool) -> anyhow::Result<ExitCode> {
    let schedules = broker.schedules().await?;
    if json {
        schedules
            .iter()
            .try_for_each(|schedule| show::json(&ScheduleDocument::new(schedule)))?;
    } else if schedules.is_empty() {
        note!("no schedules");
    } else {
        let rows = schedules.iter().map(|schedule| {
            let (when, zone) = when(&schedule.recurrence);
            let payload = show::json_cell(&schedule.payload);
            [
                show::cell(&schedule.name),
                show::cell(&when),
                show::cell(zone),
                local(schedule.next),
                show::cell(&schedule.queue),
                payload,
            ]
        });
        show::table(
            ["name", "when", "zone", "next", "queue", "payload"],
            0..0,
            rows,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(broker: &Broker, names: &[String], json: bool) -> anyhow::Result<ExitCode> {
    let mut all = true;
    for name in names {
        let removed = broker.unschedule(name).await?;
        all &= removed;
        if json {
            show::json(&json!({ "name": name, "removed": removed }))?;
        } else if removed {
            show::line(&format!("removed {}", escape(name)))?;
        } else {
            note!("there is no schedule {}", escape(name));
        }
    }
    Ok(exit::found(all))
}

/// As it is given to `add`, and its time zone.
fn when(recurrence: &Recurrence) -> (String, &str) {
    match recurrence {
        Recurrence::Cron { expression, zone } => (expression.clone(), zone),
        Recurrence::Every(interval) => (format!("@every {}", times::short(*interval)), "-"),
        _ => ("?".to_owned(), "-"),
    }
}

/// A schedule as a document; times are in seconds.
#[derive(Serialize)]
struct ScheduleDocument<'a> {
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
}

impl<'a> ScheduleDocument<'a> {
    fn new(schedule: &'a Scheduled) -> Self {
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
        }
    }
}

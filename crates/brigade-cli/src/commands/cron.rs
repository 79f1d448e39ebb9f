//! `brigade cron`: schedules, which push jobs at given times.

mod schedule;
mod set;

use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, Recurrence};
use clap::Subcommand;
use serde_json::json;

use self::schedule::{Policy, ScheduleDocument, schedule_of};
use super::push::{self, JobOptions};
use crate::connection::Globals;
use crate::escape::escape;
use crate::exit;
use crate::show::{self, note};
use crate::times::{self, local};

/// Push jobs on a schedule: list, add, pause and remove schedules
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
    /// Pause a schedule: its ticks push nothing until it is resumed, and are not made up for
    Pause {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// End the pause of a schedule: it pushes a job at its first tick from now on
    Resume {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove schedules; jobs that they have pushed stay
    Rm {
        /// Names of schedules
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Push a job at each tick of a cron expression or an interval
///
/// Any consumer of this broker fires the schedules that are due, each tick once; while no consumer
/// runs, ticks are missed. If a schedule of this name has the same ticks, it keeps its next tick
/// and gets the new job and policy; if its ticks differ, it starts again.
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

    /// What happens with missed ticks
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::Once)]
    missed: Policy,

    /// How late a tick may be before it counts as missed
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "60s")]
    grace: Duration,

    #[command(flatten)]
    options: JobOptions,
}

impl Cron {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        match self.action {
            Action::Ls => list(&broker, globals.json).await,
            Action::Add(add) => add.run(&broker, globals.json).await,
            Action::Set(set) => set.run(&broker, globals.json).await,
            Action::Pause { name } => set_pause(&broker, &name, true, globals.json).await,
            Action::Resume { name } => set_pause(&broker, &name, false, globals.json).await,
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
                if schedule.paused {
                    "paused".to_owned()
                } else {
                    local(schedule.next)
                },
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

async fn set_pause(
    broker: &Broker,
    name: &str,
    paused: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let found = if paused {
        broker.pause_schedule(name).await?
    } else {
        broker.resume_schedule(name).await?
    };
    if !found {
        note!("there is no schedule {}", escape(name));
    } else if json {
        show::json(&json!({ "name": name, "paused": paused }))?;
    } else {
        let did = if paused { "paused" } else { "resumed" };
        show::line(&format!("{did} {}", escape(name)))?;
    }
    Ok(exit::found(found))
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

/// WHEN as `add` takes it, and the time zone.
fn when(recurrence: &Recurrence) -> (String, &str) {
    match recurrence {
        Recurrence::Cron { expression, zone } => (expression.clone(), zone),
        Recurrence::Every(interval) => (format!("@every {}", times::short(*interval)), "-"),
        _ => ("?".to_owned(), "-"),
    }
}

//! `brigade cron set`: all schedules of a group, from a file.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use brigade::{Broker, Schedule, ScheduleChanges, Scheduled};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::schedule::{Policy, ScheduleDocument, schedule_of};
use crate::commands::push::JobOptions;
use crate::escape::escape;
use crate::exit::usage;
use crate::show::{self, note};
use crate::times::{self, local};

/// A file of schedules is read whole; one larger than this is refused.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Make the schedules of a file the schedules of a group
///
/// Adds and changes schedules as `add` does, and removes schedules of the group that the file does
/// not name. Other schedules and pushed jobs stay. The command checks everything before it changes
/// the first schedule.
///
/// The file is a JSON array of objects: name, when, queue and payload as for `add`, and optionally
/// zone, missed, grace, and options, an object with the options of the job.
#[derive(clap::Args)]
pub(super) struct Set {
    /// Name of the group, for example the name of the program
    #[arg(value_name = "GROUP")]
    group: String,

    /// File with the schedules; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// A schedule as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    when: String,
    queue: String,
    payload: Box<RawValue>,
    zone: Option<String>,
    #[serde(default)]
    missed: Policy,
    #[serde(default, deserialize_with = "times::optional")]
    grace: Option<Duration>,
    #[serde(default)]
    options: JobOptions,
}

impl Entry {
    fn schedule(self, broker: &Broker) -> anyhow::Result<Schedule> {
        let job = self
            .options
            .set_on(broker.queue(self.queue).job(&self.payload)?);
        let schedule = schedule_of(&self.name, &self.when, self.zone, job)
            .with_context(|| format!("read the schedule {:?}", self.name))?
            .missed(self.missed.missed());
        Ok(match self.grace {
            Some(grace) => schedule.grace(grace),
            None => schedule,
        })
    }
}

impl Set {
    pub(super) async fn run(self, broker: &Broker, json: bool) -> anyhow::Result<ExitCode> {
        let schedules = read(&self.file)?
            .into_iter()
            .map(|entry| entry.schedule(broker))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let changes = broker.set_schedules(&self.group, schedules).await?;
        if json {
            show::json(&json!({
                "group": self.group,
                "added": documents(&changes.added),
                "changed": documents(&changes.changed),
                "removed": changes.removed,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for (what, schedules) in [("added", &changes.added), ("changed", &changes.changed)] {
            for schedule in schedules {
                let (name, next) = (escape(&schedule.name), local(schedule.next));
                show::line(&format!("{what} {name}, next {next}"))?;
            }
        }
        for name in &changes.removed {
            show::line(&format!("removed {}", escape(name)))?;
        }
        if changes == ScheduleChanges::default() {
            note!(
                "the schedules of {} are as in the file",
                escape(&self.group)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn documents(schedules: &[Scheduled]) -> Vec<ScheduleDocument<'_>> {
    schedules.iter().map(ScheduleDocument::new).collect()
}

fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let what = || format!("read {}", path.display());
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    }
    .with_context(what)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(usage(format!(
            "{}: it has more than {FILE_BYTES_MAX} bytes",
            what()
        )));
    }
    serde_json::from_str(&text).map_err(|e| {
        usage(format!(
            "{}: {e}; expected a JSON array of schedules, as `brigade help cron set` has it",
            what()
        ))
    })
}

//! `brigade take`: prints the next job and removes it.

use std::process::ExitCode;
use std::time::Duration;

use brigade::JobId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::connection::Globals;
use crate::escape::compact_json;
use crate::exit;
use crate::show::{self, note};
use crate::times;

/// Take the next job: print its JSON and remove it from the queue
///
/// At most once: a printed job is gone, whatever happens next. Exit code 3 if there is none. For
/// jobs that come back when their program fails, use `brigade work`.
#[derive(clap::Args)]
pub(crate) struct Take {
    /// Queue to take from
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// Wait this long for a job [default: do not wait]
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "0s", hide_default_value = true)]
    wait: Duration,
}

#[derive(Serialize)]
struct Taken<'a> {
    id: &'a JobId,
    queue: &'a str,
    payload: &'a RawValue,
}

impl Take {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        let Some(job) = broker.queue(self.queue.as_str()).take(self.wait).await? else {
            note!("no job to take");
            return Ok(exit::NOTHING.into());
        };
        if globals.json {
            show::json(&Taken {
                id: job.id(),
                queue: &self.queue,
                payload: &show::raw(job.json()),
            })?;
        } else {
            show::line(&compact_json(job.json()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

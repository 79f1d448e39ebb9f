//! `brigade push`: one job from the command line, or many from standard input.

mod bulk;
mod options;

use std::process::ExitCode;

use brigade::PushOutcome;
use serde_json::json;

pub(super) use self::options::{JobOptions, payload};
use self::options::{PushOptions, job_of};
use crate::connection::Globals;
use crate::show::{self, note};
use crate::trace::TraceOptions;

/// Push a job, or many from standard input
///
/// With JSON, pushes one job with that payload and prints its id. Without it, or with -, reads one
/// JSON value per line from standard input, pushes them in batches of 1,000 (or fewer, when no more
/// input is there), and prints how many. Each batch is pushed whole or not at all. The first bad
/// line ends the command, which then prints how many jobs were pushed before.
#[derive(clap::Args)]
pub(crate) struct Push {
    /// Queue to push to
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// Payload, a JSON value; - for lines of JSON from standard input
    #[arg(
        value_name = "JSON",
        default_value = "-",
        allow_negative_numbers = true
    )]
    payload: String,

    #[command(flatten)]
    options: PushOptions,

    #[command(flatten)]
    trace: TraceOptions,
}

impl Push {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let _tracing = self.trace.start(false)?;
        if self.payload == "-" {
            let broker = globals.connect().await?;
            return bulk::push(
                &broker,
                &broker.queue(self.queue),
                &self.options,
                globals.json,
            )
            .await;
        }
        let payload = payload(&self.payload)?;
        let broker = globals.connect().await?;
        let job = job_of(&broker.queue(self.queue), payload, &self.options)?;
        let pushed = broker.push(job).await?;
        let duplicate = matches!(pushed, PushOutcome::Duplicate(_));
        if globals.json {
            show::json(&json!({ "id": pushed.id(), "duplicate": duplicate }))?;
        } else {
            if duplicate {
                note!("nothing pushed, there is a job with this unique key");
            }
            show::line(pushed.id().as_str())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

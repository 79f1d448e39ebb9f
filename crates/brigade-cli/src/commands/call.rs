//! `brigade call`: a task by its name, run by whichever worker takes it, with its result.

use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, JobId, JobInfo, JobState};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::sleep;

use crate::connection::Globals;
use crate::escape::compact_json;
use crate::exit;
use crate::show::{self, JobDocument, note};
use crate::times;

/// Call a task and print its result
///
/// The task is run by whichever worker of the broker takes it. Each argument is JSON, or text if it is not JSON. A call
/// that runs into its timeout, or is interrupted, is cancelled.
#[derive(clap::Args)]
pub(crate) struct Call {
    /// Name of the task
    #[arg(value_name = "TASK")]
    task: String,

    /// Arguments of the task
    #[arg(value_name = "ARGS", allow_negative_numbers = true)]
    arguments: Vec<String>,

    /// Queue of the task [default: its name]
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,

    /// Longest time to wait for the result; exit code 4 [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    timeout: Option<Duration>,
}

/// How long the result stays for us.
const RESULT_KEPT: Duration = Duration::from_secs(60);

/// What ended the wait.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Waited {
    Ended(Option<JobInfo>),
    TimedOut(Duration),
    Interrupted,
}

impl Call {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let arguments = self.arguments.iter().map(|text| argument(text)).collect::<Result<Vec<_>, _>>()?;
        let broker = globals.connect().await?;
        let queue = broker.queue(self.queue.as_deref().unwrap_or(&self.task));
        let job = queue.job(&arguments)?.task(self.task.as_str()).keep(RESULT_KEPT);
        let id = broker.push(job).await?.id().clone();
        match self.wait(&broker, &id).await? {
            Waited::Ended(None) => anyhow::bail!("call {}: its job {id} was removed before it ended", self.task),
            Waited::Ended(Some(job)) => tell(&self.task, &job, globals.json),
            Waited::TimedOut(after) => {
                broker.cancel(&id, "its caller did not wait any longer").await?;
                note!("no result within {after:?}; job {id} is cancelled");
                Ok(exit::TIMED_OUT.into())
            }
            Waited::Interrupted => {
                broker.cancel(&id, "its caller was interrupted").await?;
                note!("interrupted; job {id} is cancelled");
                Ok(exit::STOPPED.into())
            }
        }
    }

    async fn wait(&self, broker: &Broker, id: &JobId) -> anyhow::Result<Waited> {
        let time_is_over = async {
            match self.timeout {
                Some(timeout) => {
                    sleep(timeout).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            ended = broker.wait(id) => Waited::Ended(ended?),
            after = time_is_over => Waited::TimedOut(after),
            _ = tokio::signal::ctrl_c() => Waited::Interrupted,
        })
    }
}

fn argument(text: &str) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).or_else(|_| to_raw_value(text))
}

fn tell(task: &str, job: &JobInfo, json: bool) -> anyhow::Result<ExitCode> {
    let done = job.state == JobState::Done;
    if json {
        show::json(&JobDocument::new(job))?;
    } else if done {
        show::line(&compact_json(job.result.as_deref().unwrap_or("null")))?;
    } else {
        anyhow::bail!("{task} is {} (job {}): {}", job.state, job.id, job.reason.as_deref().unwrap_or("no reason given"));
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

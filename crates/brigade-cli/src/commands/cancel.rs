//! `brigade cancel`: cancels jobs, waiting or running, and reports how they were stopped.

use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, CancelOutcome, JobId, JobState, Stopped};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::timeout;

use super::job::nothing;
use crate::connection::Globals;
use crate::exit;
use crate::show::{self, StopDocument, note};
use crate::times;

/// Cancel jobs, waiting or running
///
/// A waiting job ends at once. The consumer that has a running job stops it, on whatever host: it
/// asks, then sends SIGTERM, then SIGKILL. With --wait, the command ends when nothing of the jobs
/// runs any more, and prints how they were stopped.
#[derive(clap::Args)]
pub(crate) struct Cancel {
    /// Ids of jobs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Reason, for the job's history
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "cancelled from the command line"
    )]
    reason: String,

    /// Wait until they have ended, at most this long [default: no limit]; else exit code 4
    #[arg(long, value_name = "TIME", value_parser = times::duration, num_args = 0..=1, require_equals = true)]
    wait: Option<Option<Duration>>,
}

/// The result of a cancel.
#[derive(Clone, Debug)]
enum Came {
    To(CancelOutcome),
    Stopped(Stopped),
    /// Its holder was asked to stop it, and it still runs.
    NotYet,
}

impl Cancel {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        // All at once, so that they stop at the same time.
        let came = try_join_all(self.ids.iter().map(|id| self.cancel(&broker, id))).await?;
        for (id, came) in self.ids.iter().zip(&came) {
            let state = broker
                .job(&JobId::new(id.as_str()))
                .await?
                .map(|job| job.state);
            if globals.json {
                came.document(id, state)?
            } else {
                came.tell(id, state)?
            }
        }
        Ok(match () {
            () if came.iter().any(|came| matches!(came, Came::NotYet)) => exit::TIMED_OUT.into(),
            () => exit::found(
                !came
                    .iter()
                    .any(|came| matches!(came, Came::To(CancelOutcome::Nothing))),
            ),
        })
    }

    async fn cancel(&self, broker: &Broker, id: &str) -> anyhow::Result<Came> {
        let id = JobId::new(id);
        let Some(wait) = self.wait else {
            return Ok(Came::To(broker.cancel(&id, &self.reason).await?));
        };
        let stopping = broker.stop(&id, &self.reason);
        let stopped = match wait {
            None => stopping.await?,
            Some(wait) => match timeout(wait, stopping).await {
                Ok(stopped) => stopped?,
                Err(_) => return Ok(Came::NotYet),
            },
        };
        Ok(stopped.map_or(Came::To(CancelOutcome::Nothing), Came::Stopped))
    }
}

impl Came {
    fn tell(&self, id: &str, state: Option<JobState>) -> anyhow::Result<()> {
        let line = match self {
            Self::To(CancelOutcome::Asked) => format!("asked the consumer of job {id} to stop it"),
            Self::To(CancelOutcome::Nothing) => {
                note!("nothing to cancel: {}", nothing(id, state));
                return Ok(());
            }
            Self::To(_) => format!("cancelled job {id}"),
            Self::NotYet => {
                note!("job {id} has not ended yet; its consumer has been asked to stop it");
                return Ok(());
            }
            Self::Stopped(stopped) => match (stopped.state, &stopped.receipt) {
                (Some(JobState::Cancelled), Some(receipt)) => {
                    format!("cancelled job {id}: {receipt}")
                }
                (Some(JobState::Cancelled), None) => format!("cancelled job {id}"),
                (state, _) => format!(
                    "job {id} came to its own end: {}",
                    state.unwrap_or(JobState::Done)
                ),
            },
        };
        Ok(show::line(&line)?)
    }

    fn document(&self, id: &str, state: Option<JobState>) -> anyhow::Result<()> {
        let (answer, receipt) = match self {
            Self::To(answer) => (*answer, None),
            Self::NotYet => (CancelOutcome::Asked, None),
            Self::Stopped(stopped) if stopped.state == Some(JobState::Cancelled) => {
                (CancelOutcome::Cancelled, stopped.receipt.as_ref())
            }
            Self::Stopped(_) => (CancelOutcome::Asked, None),
        };
        show::json(
            &json!({ "id": id, "answer": answer, "state": state, "stop": receipt.map(StopDocument::new) }),
        )
    }
}

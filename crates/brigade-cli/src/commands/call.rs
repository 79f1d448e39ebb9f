//! `brigade call`: calls a task by its name and prints its result.

use std::process::ExitCode;
use std::time::Duration;

use brigade::{Broker, CallError, JobId, JobInfo, JobState};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::sleep;

use crate::connection::Globals;
use crate::escape::compact_json;
use crate::exit;
use crate::show::{self, JobDocument, note};
use crate::times;
use crate::trace::TraceOptions;

/// Call a task and print its result
///
/// Any consumer of the broker that serves the task runs it. Each argument is JSON, or text if it is
/// not JSON. A call that exceeds its timeout, or is interrupted, is cancelled.
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

    #[command(flatten)]
    trace: TraceOptions,
}

/// How long the command waits for a worker to stop a cancelled call.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);
/// How long the broker keeps the result.
const RESULT_KEPT: Duration = Duration::from_secs(60);

/// Why the wait ended.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Waited {
    Ended(Option<JobInfo>),
    TimedOut(Duration),
    Interrupted,
}

impl Call {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let _tracing = self.trace.start(false)?;
        let arguments = self
            .arguments
            .iter()
            .map(|text| argument(text))
            .collect::<Result<Vec<_>, _>>()?;
        let broker = globals.connect().await?;
        if broker.capabilities().answers {
            return self.direct(&broker, &arguments, globals.json).await;
        }
        let queue = broker.queue(self.queue.as_deref().unwrap_or(&self.task));
        let job = queue
            .job(&arguments)?
            .task(self.task.as_str())
            .keep(RESULT_KEPT);
        let id = broker.push(job).await?.id().clone();
        match self.wait(&broker, &id).await? {
            Waited::Ended(None) => anyhow::bail!(
                "call {}: its job {id} was removed before it ended",
                self.task
            ),
            Waited::Ended(Some(job)) => tell(&self.task, &job, globals.json),
            Waited::TimedOut(after) => {
                broker
                    .cancel(&id, "its caller did not wait any longer")
                    .await?;
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

    /// The broker delivers the answer itself: no job is kept.
    async fn direct(
        &self,
        broker: &Broker,
        arguments: &[Box<RawValue>],
        json: bool,
    ) -> anyhow::Result<ExitCode> {
        let call = brigade::Call::<Box<RawValue>>::json(self.task.clone(), arguments);
        let mut calling = broker
            .queue(self.queue.as_deref().unwrap_or(&self.task))
            .call(call);
        let mut progress = calling.progress();
        let mut over = std::pin::pin!(self.time_is_over());
        let (code, why) = loop {
            tokio::select! {
                biased;
                Some(progress) = progress.next() => tell_progress(&progress),
                outcome = &mut calling => return tell_outcome(&self.task, outcome, json),
                after = &mut over => {
                    note!("no result within {after:?}; the call is cancelled");
                    break (exit::TIMED_OUT, "its caller did not wait any longer");
                }
                _ = tokio::signal::ctrl_c() => {
                    note!("interrupted; the call is cancelled");
                    break (exit::STOPPED, "its caller was interrupted");
                }
            }
        };
        drop(calling.cancel(why));
        // The worker gets the cancel; a second signal ends the wait, and so does its time limit.
        tokio::select! {
            _ = calling => {}
            () = sleep(CANCELLED_WITHIN) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(code.into())
    }

    async fn time_is_over(&self) -> Duration {
        match self.timeout {
            Some(timeout) => {
                sleep(timeout).await;
                timeout
            }
            None => std::future::pending().await,
        }
    }

    async fn wait(&self, broker: &Broker, id: &JobId) -> anyhow::Result<Waited> {
        Ok(tokio::select! {
            ended = broker.wait(id) => Waited::Ended(ended?),
            after = self.time_is_over() => Waited::TimedOut(after),
            _ = tokio::signal::ctrl_c() => Waited::Interrupted,
        })
    }
}

fn argument(text: &str) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).or_else(|_| to_raw_value(text))
}

/// Prints progress of the running task.
fn tell_progress(progress: &brigade::Progress) {
    let percent = progress.fraction() * 100.0;
    match progress.payload::<Box<RawValue>>() {
        Ok(payload) if payload.get() != "null" => {
            note!("{percent:.0} % {}", compact_json(payload.get()))
        }
        _ => note!("{percent:.0} %"),
    }
}

fn tell_outcome(
    task: &str,
    outcome: Result<Box<RawValue>, CallError>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let timed_out = matches!(outcome, Err(CallError::TimedOut(_)));
    match outcome {
        Ok(result) if json => {
            show::json(&serde_json::json!({ "task": task, "outcome": "done", "result": result }))?
        }
        Ok(result) => show::line(&compact_json(result.get()))?,
        Err(error) if json => {
            show::json(
                &serde_json::json!({ "task": task, "outcome": error.outcome(), "reason": error.to_string() }),
            )?;
            return Ok(if timed_out {
                exit::TIMED_OUT.into()
            } else {
                ExitCode::FAILURE
            });
        }
        Err(error) if timed_out => {
            note!("{task}: {error}");
            return Ok(exit::TIMED_OUT.into());
        }
        Err(error) => return Err(anyhow::Error::new(error).context(format!("call {task}"))),
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(task: &str, job: &JobInfo, json: bool) -> anyhow::Result<ExitCode> {
    let done = job.state == JobState::Done;
    if json {
        show::json(&JobDocument::new(job))?;
    } else if done {
        show::line(&compact_json(job.result.as_deref().unwrap_or("null")))?;
    } else {
        anyhow::bail!(
            "{task} is {} (job {}): {}",
            job.state,
            job.id,
            job.reason.as_deref().unwrap_or("no reason given")
        );
    }
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! What the user can do to a broker from the screen, after a question.

use brigade::{Broker, CancelOutcome, Error, JobFilter, JobId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::page::{DeadOf, JobsOf};
use super::reader::filter_of;
use super::source::Source;
use crate::causes::with_causes;
use crate::escape::escape;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pause(String),
    Resume(String),
    PauseSchedule(String),
    ResumeSchedule(String),
    Cancel(JobId),
    Retry(JobId),
    RetryGroup(DeadOf),
}

/// Dead letters that are retried at once: the broker commits them together.
const AT_ONCE: usize = 256;
const REASON: &str = "cancelled from brigade top";

impl Action {
    /// The question before it is done.
    pub(super) fn question(&self) -> String {
        match self {
            Self::Pause(queue) => format!("Pause {}? No consumer gets its jobs then.", name(queue)),
            Self::PauseSchedule(schedule) => {
                format!("Pause {}? Its ticks push nothing then.", name(schedule))
            }
            Self::Resume(of) | Self::ResumeSchedule(of) => format!("Resume {}?", name(of)),
            Self::Cancel(id) => format!("Cancel job {id}?"),
            Self::Retry(id) => format!("Retry job {id}?"),
            Self::RetryGroup(group) => format!(
                "Retry {} dead letters of {}?",
                group.count,
                name(&group.queue)
            ),
        }
    }

    /// Does it; what came of it, in words.
    pub(super) async fn run(self, source: &Source) -> String {
        let question = self.question();
        let Source::Broker(source) = source else {
            return "a pool can only be watched here".to_owned();
        };
        match self.carry_out(&source.broker()).await {
            Ok(message) => message,
            Err(error) => {
                let error = with_causes(&error.into());
                format!("failed: {question} {error}")
            }
        }
    }

    async fn carry_out(self, broker: &Broker) -> Result<String, Error> {
        Ok(match self {
            Self::Pause(queue) => {
                broker.queue(queue.as_str()).pause().await?;
                format!("paused {}", name(&queue))
            }
            Self::Resume(queue) => {
                broker.queue(queue.as_str()).resume().await?;
                format!("resumed {}", name(&queue))
            }
            Self::PauseSchedule(schedule) => match broker.pause_schedule(&schedule).await? {
                true => format!("paused {}", name(&schedule)),
                false => format!("the schedule {} is gone", name(&schedule)),
            },
            Self::ResumeSchedule(schedule) => match broker.resume_schedule(&schedule).await? {
                true => format!("resumed {}", name(&schedule)),
                false => format!("the schedule {} is gone", name(&schedule)),
            },
            Self::Cancel(id) => match broker.cancel(&id, REASON).await? {
                CancelOutcome::Asked => format!("asked the consumer of job {id} to stop it"),
                CancelOutcome::Nothing => format!("nothing to cancel: job {id} has ended"),
                _ => format!("cancelled job {id}"),
            },
            Self::Retry(id) => match broker.retry(&id).await? {
                true => format!("retrying job {id}"),
                false => format!("job {id} is no dead letter that can be retried by itself"),
            },
            Self::RetryGroup(group) => {
                let queue = name(&group.queue);
                let count = retry_group(broker, group).await?;
                format!("retrying {count} jobs of {queue}")
            }
        })
    }
}

/// The name of a queue or schedule as it may stand on the screen.
fn name(queue: &str) -> String {
    escape(queue).into_owned()
}

/// Retries all dead letters of a group; how many could be.
async fn retry_group(broker: &Broker, group: DeadOf) -> Result<u64, Error> {
    let mut filter = JobFilter {
        limit: AT_ONCE,
        ..filter_of(&JobsOf::Dead(group))
    };
    let mut count = 0;
    loop {
        let page = broker.find(&filter).await?;
        let retries = stream::iter(&page.jobs)
            .map(|job| broker.retry(&job.id))
            .buffer_unordered(AT_ONCE);
        count += retries
            .try_fold(0, async |count, retried| Ok(count + u64::from(retried)))
            .await?;
        let Some(next) = page.next else {
            return Ok(count);
        };
        filter.after = Some(next);
    }
}

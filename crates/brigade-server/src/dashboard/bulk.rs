//! Operations on all jobs of a filter: retry, cancel, delete.
//!
//! The page before says what will be touched, with the number. The operation then runs in a task of
//! the server, page after page of the filter, and its page shows how far it is. It is not durable:
//! when the server stops, it ends with the jobs that it has begun, a line of the log says how far
//! it came, and the same filter finds the rest. Finished ones are forgotten, the oldest first, when
//! there are more than [`KEPT`].

use std::collections::VecDeque;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use brigade::{Broker, CancelOutcome, Error, JobFilter, JobInfo};
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Operations that are remembered.
const KEPT: usize = 20;
/// Operations that run at once.
const RUNNING_MAX: usize = 3;
/// Requests of one operation that are under way at once.
const AT_ONCE: usize = 16;
/// Jobs that are read at once, with their payloads.
pub(super) const PAGE: usize = 50;
/// How long the jobs of a filter are counted before an operation.
const COUNT_FOR: Duration = Duration::from_millis(400);

/// What is done to each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Retry,
    Cancel,
    Delete,
}

impl Verb {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "retry" => Some(Self::Retry),
            "cancel" => Some(Self::Cancel),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Delete => "delete",
        }
    }

    /// For a button and a heading.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Cancel => "Cancel",
            Self::Delete => "Delete",
        }
    }

    /// What was done.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Cancel => "cancelled",
            Self::Delete => "deleted",
        }
    }

    async fn act(self, broker: &Broker, job: &JobInfo, is_dead: bool) -> Result<bool, Error> {
        match self {
            Self::Retry => broker.retry(&job.id).await,
            Self::Cancel => {
                let outcome = broker
                    .cancel(&job.id, "cancelled from the dashboard")
                    .await?;
                Ok(outcome != CancelOutcome::Nothing)
            }
            // A dead letter that was retried meanwhile stays.
            Self::Delete if is_dead => broker.delete_dead(&job.id).await,
            Self::Delete => broker.delete(&job.id).await,
        }
    }
}

/// How many jobs of a filter there are; `false` if there may be more.
pub(super) async fn count(broker: &Broker, mut filter: JobFilter) -> Result<(u64, bool), Error> {
    let (mut count, began) = (0, Instant::now());
    loop {
        let page = broker.find(&filter).await?;
        count += page.jobs.len() as u64;
        filter.after = page.next;
        if filter.after.is_none() {
            return Ok((count, true));
        }
        if began.elapsed() > COUNT_FOR {
            return Ok((count, false));
        }
    }
}

/// How far an operation is.
#[derive(Clone, Debug, Default)]
pub(super) struct BulkProgress {
    pub(super) changed: u64,
    /// Jobs that were not in the state any more.
    pub(super) skipped: u64,
    pub(super) failed: u64,
    pub(super) first_error: Option<String>,
    pub(super) is_over: bool,
}

/// An operation.
pub(super) struct BulkOperation {
    pub(super) number: u64,
    pub(super) verb: Verb,
    /// What it is about, in words.
    pub(super) text: String,
    pub(super) began: SystemTime,
    pub(super) stop: CancellationToken,
    progress: Mutex<BulkProgress>,
}

impl BulkOperation {
    pub(super) fn progress(&self) -> BulkProgress {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes the end, also of one that was stopped, and how far it came.
    fn end(&self) {
        self.note(|progress| progress.is_over = true);
        let progress = self.progress();
        let (changed, skipped, failed) = (progress.changed, progress.skipped, progress.failed);
        let was_stopped = self.stop.is_cancelled();
        let operation = &self.text;
        tracing::info!(%operation, changed, skipped, failed, was_stopped, "an operation ends");
    }

    fn note(&self, change: impl FnOnce(&mut BulkProgress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The operations of this server. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Operations(Arc<Mutex<VecDeque<Arc<BulkOperation>>>>);

impl Operations {
    /// An operation by its number.
    pub(super) fn get(&self, number: u64) -> Option<Arc<BulkOperation>> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter()
            .find(|operation| operation.number == number)
            .cloned()
    }

    /// Begins one; `None` if enough run.
    pub(super) fn begin(
        &self,
        app: &App,
        verb: Verb,
        text: String,
        filter: JobFilter,
    ) -> Option<Arc<BulkOperation>> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = list.iter().filter(|one| !one.progress().is_over).count();
        if running >= RUNNING_MAX {
            return None;
        }
        let operation = Arc::new(BulkOperation {
            number: list.back().map_or(1, |last| last.number + 1),
            verb,
            text,
            began: SystemTime::now(),
            stop: app.options.stop.child_token(),
            progress: Mutex::default(),
        });
        list.push_back(Arc::clone(&operation));
        let oldest = list.iter().position(|one| one.progress().is_over);
        if list.len() > KEPT
            && let Some(oldest) = oldest
        {
            list.remove(oldest);
        }
        let (broker, running) = (app.broker.clone(), Arc::clone(&operation));
        app.tasks.spawn(async move {
            if let Err(error) = carry_out(&broker, &running, filter).await {
                running.note(|progress| progress.first_error = Some(error.to_string()));
            }
            running.end();
        });
        Some(operation)
    }
}

/// Goes through the jobs once, in the order of their pushes. A job that comes back into the state
/// keeps its position, so it is not met again.
async fn carry_out(
    broker: &Broker,
    operation: &BulkOperation,
    mut filter: JobFilter,
) -> Result<(), Error> {
    let is_dead = filter.state == Some(brigade::JobState::Dead);
    while !operation.stop.is_cancelled() {
        let page = broker.find(&filter).await?;
        let verb = operation.verb;
        // What has begun is waited for and counted, as the broker carries it out in any case.
        let mut outcomes = stream::iter(page.jobs)
            .take_while(|_| ready(!operation.stop.is_cancelled()))
            .map(|job| {
                let broker = broker.clone();
                async move { verb.act(&broker, &job, is_dead).await }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            operation.note(|progress| match outcome {
                Ok(true) => progress.changed += 1,
                Ok(false) => progress.skipped += 1,
                Err(error) => {
                    progress.failed += 1;
                    progress
                        .first_error
                        .get_or_insert_with(|| error.to_string());
                }
            });
        }
        filter.after = page.next;
        if filter.after.is_none() {
            break;
        }
    }
    Ok(())
}

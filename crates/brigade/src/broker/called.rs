//! Calls as jobs: pushed, waited for, and cancelled if the caller goes away. For brokers that do
//! not deliver answers themselves.
//!
//! The broker owns the job and its result. `Awaiting` belongs to one caller and knows whether there
//! is a job to cancel: the push is under way, the job is stored, or neither.
//!
//! Invariants: only a job that this caller pushed is cancelled when its future is dropped, never a
//! duplicate that was there before. A push that is under way is awaited first, in the background,
//! since it may store the job. The limit on waiting holds only until the first attempt begins.
//!
//! It runs nothing, and it does not cancel when it is used outside of an async runtime.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Broker;
use super::stopped::{last_report, last_stop};
use crate::attempt_report::{AttemptOutcome, AttemptReport, Step, StopReceipt};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId, JobInfo, JobState};
use crate::outcome::{CallError, Cancelled, Failure, TimedOut};
use crate::shutdown::Scope;
use crate::store::{CallerLink, CancelOutcome, PushOutcome};

impl Broker {
    /// The result of the job that `push` gives the id of, as its caller gets it. Dropping the
    /// future cancels the job, also while the push is on its way, unless it is another's: a job
    /// that had its unique key already.
    pub(crate) async fn result_of<T: DeserializeOwned>(
        &self,
        push: impl Future<Output = Result<PushOutcome, Error>> + Send + 'static,
        wait: Option<Duration>,
        asks: &CallerLink,
    ) -> Result<T, CallError> {
        let mut caller = Awaiting {
            broker: self.clone(),
            scope: Scope::current(),
            job: Awaited::Pushing(Box::pin(push)),
        };
        let id = caller.pushed().await?;
        let is_ours = matches!(caller.job, Awaited::Pushed(_));
        let waited = self.wait_or_cancel(&id, asks, wait, is_ours).await?;
        let ended = match (waited, wait) {
            (Waited::Ended(ended), _) => ended,
            (Waited::NotBegun, wait) => {
                caller.job = Awaited::Nothing;
                return Err(CallError::TimedOut(TimedOut::Queue(
                    wait.unwrap_or_default(),
                )));
            }
        };
        caller.job = Awaited::Nothing;
        let mut ended = ended
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "wait for a result: the job is gone"))?;
        let report = last_report(&mut ended);
        if let Some(report) = &report {
            asks.set_report(report.clone());
        }
        match ended.state {
            JobState::Done => {
                Ok(Codec::Json.decode(ended.result.as_deref().unwrap_or("null").as_bytes())?)
            }
            JobState::Cancelled => {
                let (stop, report) = last_stop(&mut ended);
                if let Some(receipt) = stop {
                    asks.set_receipt(receipt);
                }
                let reason = ended.reason.unwrap_or_default();
                Err(CallError::Cancelled(Cancelled::new(reason, report)))
            }
            _ => {
                let reason = ended.reason.unwrap_or_default();
                let last = ended.history.last().filter(|last| last.reason == reason);
                let cause = last.map(|last| last.kind).zip(report);
                Err(dead_call(reason, cause))
            }
        }
    }

    /// Waits for the end of a job, and cancels it if its caller wants that.
    async fn wait_or_cancel(
        &self,
        id: &JobId,
        asks: &CallerLink,
        wait: Option<Duration>,
        is_ours: bool,
    ) -> Result<Waited, Error> {
        let mut waited = std::pin::pin!(self.wait_to_begin(id, wait, is_ours));
        tokio::select! {
            waited = &mut waited => return waited,
            reason = asks.cancelled() => {
                if self.cancel(id, reason).await? == CancelOutcome::Cancelled {
                    asks.set_receipt(StopReceipt::new(Step::NotStarted, Duration::ZERO));
                }
            }
        }
        waited.await
    }

    /// Waits for the end of a job, as long as it takes; but no longer than `wait` for its first
    /// attempt to begin.
    async fn wait_to_begin(
        &self,
        id: &JobId,
        wait: Option<Duration>,
        is_ours: bool,
    ) -> Result<Waited, Error> {
        let Some(wait) = wait else {
            return self.wait(id).await.map(Waited::ended);
        };
        if let Ok(ended) = tokio::time::timeout(wait, self.wait(id)).await {
            return ended.map(Waited::ended);
        }
        loop {
            let changed = self.store().changed();
            let job = match self.job(id).await? {
                Some(job) if !job.state.is_terminal() => job,
                ended => return Ok(Waited::ended(ended)),
            };
            if job.state == JobState::Leased || job.failed + job.crashed > 0 {
                changed.await?;
            } else if !is_ours || self.withdraw(id).await? {
                return Ok(Waited::NotBegun);
            }
        }
    }

    /// Cancels a job if no attempt of it has begun by then; whether that is so.
    async fn withdraw(&self, id: &JobId) -> Result<bool, Error> {
        self.store()
            .withdraw(id, "its caller did not wait any longer")
            .await
    }
}

/// How a call ended whose job is a dead letter: as `cause`, the attempt that made it one. A job
/// that is dead for another reason (its time was over, a job before it in its flow failed) has
/// none.
fn dead_call(reason: String, cause: Option<(AttemptKind, Box<AttemptReport>)>) -> CallError {
    match cause {
        Some((AttemptKind::Failed, report))
            if matches!(
                report.ended,
                AttemptOutcome::TimedOut | AttemptOutcome::OverLimit
            ) =>
        {
            CallError::TimedOut(TimedOut::of_report(report))
        }
        Some((AttemptKind::Failed, report))
            if matches!(report.ended, AttemptOutcome::Panicked { .. }) =>
        {
            CallError::Panicked(report)
        }
        Some((AttemptKind::Crashed, report)) => CallError::from_report(report),
        _ => CallError::Failed(Box::new(Failure::new(reason))),
    }
}

/// What a caller waited for.
enum Waited {
    /// The job's end; it may not be there any more.
    Ended(Option<Box<JobInfo>>),
    /// No attempt began in time, and none will for this caller.
    NotBegun,
}

impl Waited {
    fn ended(job: Option<JobInfo>) -> Self {
        Self::Ended(job.map(Box::new))
    }
}

/// Cancels a job when its caller goes away.
struct Awaiting {
    broker: Broker,
    scope: Option<Scope>,
    job: Awaited,
}

enum Awaited {
    /// It has ended, or is not ours to cancel.
    Nothing,
    /// It may be stored already: only the end of the push shows that.
    Pushing(Pin<Box<dyn Future<Output = Result<PushOutcome, Error>> + Send>>),
    Pushed(JobId),
}

impl Awaiting {
    async fn pushed(&mut self) -> Result<JobId, Error> {
        let pushed = match &mut self.job {
            Awaited::Pushing(push) => push.await,
            Awaited::Pushed(id) => Ok(PushOutcome::New(id.clone())),
            Awaited::Nothing => Err(Error::new(
                ErrorKind::Protocol,
                "wait for a push that has ended",
            )),
        };
        self.job = match &pushed {
            Ok(PushOutcome::New(id)) => Awaited::Pushed(id.clone()),
            Ok(PushOutcome::Duplicate(_)) | Err(_) => Awaited::Nothing,
        };
        pushed.map(|pushed| pushed.id().clone())
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        let job = std::mem::replace(&mut self.job, Awaited::Nothing);
        let (Some(scope), false) = (&self.scope, matches!(job, Awaited::Nothing)) else {
            return;
        };
        let mut caller = Self {
            broker: self.broker.clone(),
            scope: None,
            job,
        };
        scope.spawn(async move {
            // A push that failed has left nothing to cancel.
            let Ok(id) = caller.pushed().await else {
                return;
            };
            let is_ours = matches!(
                std::mem::replace(&mut caller.job, Awaited::Nothing),
                Awaited::Pushed(_)
            );
            if is_ours && let Err(error) = caller.broker.cancel(&id, "its caller went away").await {
                tracing::warn!(%error, job = %id, "could not cancel a job");
            }
        });
    }
}

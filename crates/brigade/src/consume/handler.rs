//! A handler: code of the program's own for each job, in place of its tasks.
//!
//! The handler runs as a task of the runtime. Lease, renewal, cancels and settlement are the
//! consumer's, as for any attempt: what the handler returns is settled as what a task returns. Asked
//! to stop (a cancel, a timeout, the end of the consumer, a lost lease), it learns so by
//! [`LeasedJob::cancelled`], and its future is dropped at its next await if it has not ended within
//! [`RunningConsumer::abort_after`](super::RunningConsumer::abort_after).

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::attempt::text_of;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::job_context::JobContext;
use crate::outcome::{CallError, Cancelled, Failure};
use crate::schedule::Tick;
use crate::store::Leased;
use crate::task::Returned;
use crate::traceparent::TraceParent;

/// What a task or a handler made of a job.
pub(super) type Outcome = Result<Box<RawValue>, CallError>;

type Handling = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A handler without its types. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handler(Arc<dyn Fn(LeasedJob) -> Handling + Send + Sync>);

/// A job in the hands of a [handler](super::RunningConsumer::handler). Cheap to clone.
#[derive(Clone)]
pub struct LeasedJob {
    leased: Arc<Leased>,
    context: Arc<JobContext>,
    cancel: Cancel,
}

/// Tells a handler to stop.
#[derive(Clone, Default)]
struct Cancel {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

impl LeasedJob {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.leased.id
    }

    /// The queue it was handed out from.
    pub fn queue(&self) -> &str {
        &self.leased.job.queue
    }

    /// The task that it names, if it does.
    pub fn task(&self) -> Option<&str> {
        self.leased.job.task.as_deref()
    }

    /// Number of this attempt, from 1; passes and interruptions do not count.
    pub fn attempt(&self) -> u32 {
        self.leased.attempt
    }

    /// What a task learns about its job.
    pub fn context(&self) -> &JobContext {
        &self.context
    }

    /// The trace that it belongs to.
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.context.traceparent.as_ref()
    }

    /// The tick it was pushed for, if a schedule did.
    pub fn tick(&self) -> Option<&Tick> {
        self.leased.job.options.tick.as_ref()
    }

    /// How long the handler may run for it; the consumer stops it then.
    pub fn timeout(&self) -> Option<Duration> {
        self.leased.job.options.timeout
    }

    /// The payload, JSON text.
    pub fn json(&self) -> &str {
        &self.leased.job.payload
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// `Decode` if it is not a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Codec::Json.decode(self.json().as_bytes())
    }

    /// Whether the handler was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.token.is_cancelled()
    }

    /// Waits until the handler is asked to stop, and gives the reason. Cancel safe.
    pub async fn cancelled(&self) -> String {
        self.cancel.token.cancelled().await;
        self.cancel.reason.get().cloned().unwrap_or_default()
    }

    fn cancel(&self, reason: String) {
        // The first reason counts.
        if self.cancel.reason.set(reason).is_ok() {
            self.cancel.token.cancel();
        }
    }
}

impl fmt::Debug for LeasedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedJob")
            .field("job", self.id())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

impl Handler {
    pub(super) fn new<H, F, T, E>(handler: H) -> Self
    where
        H: Fn(LeasedJob) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self(Arc::new(move |job| {
            let handling = handler(job);
            Box::pin(async move { outcome_of(Returned::of_result(Codec::Json, handling.await)) })
        }))
    }

    /// Begins to handle a job.
    pub(super) fn begin(&self, leased: &Leased, context: JobContext) -> Handled {
        let job = LeasedJob {
            leased: Arc::new(leased.clone()),
            context: Arc::new(context),
            cancel: Cancel::default(),
        };
        let (handler, of) = (self.clone(), job.clone());
        // Its first step is a part of the handler too: it may panic.
        let handling = async move { (handler.0)(of).await };
        Handled {
            handling: Box::pin(handling),
            job,
        }
    }
}

/// A job that is being handled.
pub(super) struct Handled {
    handling: Handling,
    job: LeasedJob,
}

/// Why a handler is asked to stop.
pub(super) enum StopKind {
    /// Its timeout is over, which is a failure.
    Timeout(Duration),
    /// Anything else.
    Asked(String),
}

impl Handled {
    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&mut self) -> Outcome {
        let outcome = AssertUnwindSafe(&mut self.handling).catch_unwind().await;
        outcome.unwrap_or_else(|panic| failed(&format!("it panicked: {}", text_of(&*panic))))
    }

    /// Asks it to stop, and drops it when `abort` resolves. A value that it still returns counts.
    pub(super) async fn stop(mut self, stop: StopKind, abort: impl Future<Output = ()>) -> Outcome {
        let (reason, instead) = match stop {
            StopKind::Timeout(timeout) => {
                let text = format!("it ran for longer than its timeout of {timeout:?}");
                (text.clone(), failed(&text))
            }
            StopKind::Asked(reason) => {
                let cancelled = Cancelled::without_report("its handler was stopped");
                (reason, Err(CallError::Cancelled(cancelled)))
            }
        };
        self.job.cancel(reason);
        tokio::select! {
            biased;
            outcome = self.ended() => outcome.or(instead),
            () = abort => instead,
        }
    }
}

fn failed(text: &str) -> Outcome {
    Err(CallError::Failed(Box::new(Failure::new(text))))
}

fn outcome_of(returned: Returned) -> Outcome {
    match returned {
        Returned::Done(json) => {
            let text = String::from_utf8(json).ok();
            let value = text.and_then(|text| RawValue::from_string(text).ok());
            value.ok_or_else(|| {
                CallError::Rejected(Error::new(ErrorKind::Encode, "write a result as JSON"))
            })
        }
        Returned::Failed(failure) => Err(CallError::Failed(failure)),
        Returned::Passed(reason) => Err(CallError::Passed(vec![reason])),
        Returned::Refused(refusal) => Err(refusal.0.into_error("a handler").into()),
    }
}

//! A handler: code of the program's own for each job, in place of its tasks.
//!
//! The handler runs as a task of the runtime. Lease, renewal, cancels and settlement are the
//! consumer's, as for any attempt: what the handler returns is settled as what a task returns.
//! Asked to stop (a cancel, a timeout, the end of the consumer, a lost lease), it learns so by
//! [`LeasedJob::cancelled`], and its future is dropped at its next await if it has not ended within
//! [`Consumer::abort_after`](crate::Consumer::abort_after).

use std::any::type_name;
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

use super::disposition::EndedAttempt;
use super::panic_text::text_of;
use crate::Sandbox;
use crate::attempt_report::StopReceipt;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId};
use crate::job_context::JobContext;
use crate::outcome::{CallError, Cancelled, Failure, Pass};
use crate::store::Leased;
use crate::traceparent::TraceParent;
use crate::traceparent::ambient::InTrace;
use brigade_core::printable::shorten;
use brigade_core::{AttemptLimits, Tick};

type Handling = Pin<Box<dyn Future<Output = EndedAttempt> + Send>>;

/// A handler without its types. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handler(Arc<dyn Fn(LeasedJob) -> Handling + Send + Sync>);

/// A job that a [handler](crate::Consumer::handler) handles. Cheap to clone.
#[derive(Clone)]
pub struct LeasedJob {
    leased: Arc<Leased>,
    context: Arc<JobContext>,
    cancel: Cancel,
}

/// Asks a handler to stop.
#[derive(Clone, Default)]
struct Cancel {
    token: CancellationToken,
    reason: Arc<OnceLock<HandlerStop>>,
}

/// Why a handler is asked to stop, see [`LeasedJob::cancelled`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerStop {
    /// The job was cancelled, for this reason.
    Cancelled(String),
    /// It ran for longer than its timeout.
    TimedOut(Duration),
    /// The lease could not be renewed: the job may be another consumer's, and what the handler
    /// returns does not count.
    LeaseLost,
    /// The consumer ends: the job is given back.
    ConsumerEnds,
}

impl fmt::Display for HandlerStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(reason) => f.write_str(reason),
            Self::TimedOut(timeout) => {
                write!(f, "it ran for longer than its timeout of {timeout:?}")
            }
            Self::LeaseLost => f.write_str("its lease was lost"),
            Self::ConsumerEnds => f.write_str("its consumer is ending"),
        }
    }
}

/// Ends of a handler other than a failure or a pass: return one as the error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HandlerEnd {
    /// The job is a dead letter, for this reason: no attempt of it can succeed.
    DeadLetter(String),
    /// The job is given back, uncharged, for this reason: its attempt was cut short.
    GiveBack(String),
    /// As [`Pass`], and the job is handed out again only after this time: for a reason that will
    /// not be gone at once.
    PassLater(String, Duration),
    /// The handler stopped because its job was cancelled, with this receipt.
    Stopped(StopReceipt),
}

impl fmt::Display for HandlerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLetter(reason) => write!(f, "a dead letter: {reason}"),
            Self::GiveBack(reason) => write!(f, "given back: {reason}"),
            Self::PassLater(reason, after) => write!(f, "passed for {after:?}: {reason}"),
            Self::Stopped(receipt) => write!(f, "stopped: {}", receipt.step),
        }
    }
}

impl std::error::Error for HandlerEnd {}

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

    /// The sandbox that it asks for: for the handler to keep, by running the job in a pool or as a
    /// program of its own.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.leased.job.options.sandbox.as_ref()
    }

    /// What an attempt of it may use, as far as the job says so. The handler runs in this process,
    /// which cannot be limited: a program that it starts can be
    /// ([`ProgramTree`](crate::ProgramTree)).
    pub fn limits(&self) -> AttemptLimits {
        self.leased.job.options.limits()
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
    pub async fn cancelled(&self) -> HandlerStop {
        self.cancel.token.cancelled().await;
        let reason = self.cancel.reason.get().cloned();
        reason.unwrap_or(HandlerStop::ConsumerEnds)
    }

    fn cancel(&self, reason: HandlerStop) {
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
            Box::pin(async move { ended_of(handling.await) })
        }))
    }

    /// Begins to handle a job.
    pub(super) fn begin(&self, leased: &Arc<Leased>, context: JobContext) -> Handled {
        let job = LeasedJob {
            leased: Arc::clone(leased),
            context: Arc::new(context),
            cancel: Cancel::default(),
        };
        let (handler, of) = (self.clone(), job.clone());
        // Its first step is a part of the handler too: it may panic.
        let traceparent = job.traceparent().cloned();
        let handling: Handling = Box::pin(async move { (handler.0)(of).await });
        Handled {
            handling: Box::pin(InTrace::new(handling, traceparent)),
            job,
        }
    }
}

/// A job that is being handled.
pub(super) struct Handled {
    handling: Handling,
    job: LeasedJob,
}

impl Handled {
    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&mut self) -> EndedAttempt {
        let ended = AssertUnwindSafe(&mut self.handling).catch_unwind().await;
        ended.unwrap_or_else(|panic| failed(&format!("it panicked: {}", text_of(&*panic))))
    }

    /// Asks it to stop, and drops it when `abort` resolves. A value that it still returns counts.
    pub(super) async fn stop(
        mut self,
        reason: HandlerStop,
        abort: impl Future<Output = ()>,
    ) -> EndedAttempt {
        self.job.cancel(reason.clone());
        let ended = tokio::select! {
            biased;
            ended = self.ended() => Some(ended),
            () = abort => None,
        };
        let is_timeout = matches!(reason, HandlerStop::TimedOut(_));
        let counts = |ended: &EndedAttempt| {
            ended.says_more()
                || match &ended.outcome {
                    Ok(_) => true,
                    Err(error) => is_timeout && matches!(error, CallError::Failed(_)),
                }
        };
        match ended.filter(counts) {
            Some(ended) => ended,
            None if is_timeout => failed(&reason.to_string()),
            None => EndedAttempt::cancelled("its handler was stopped"),
        }
    }
}

fn failed(text: &str) -> EndedAttempt {
    EndedAttempt::of(Err(CallError::Failed(Box::new(Failure::new(text)))))
}

/// What a handler's return is to its job.
fn ended_of<T, E>(result: Result<T, E>) -> EndedAttempt
where
    T: Serialize,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let error: Box<dyn std::error::Error + Send + Sync> = match result {
        Ok(value) => return EndedAttempt::of(json_of(&value).map_err(Into::into)),
        Err(error) => error.into(),
    };
    let first: &(dyn std::error::Error + 'static) = &*error;
    let end = std::iter::successors(Some(first), |error| error.source())
        .take(SOURCES_MAX)
        .find_map(|error| error.downcast_ref::<HandlerEnd>());
    match end.cloned() {
        Some(HandlerEnd::DeadLetter(reason)) => EndedAttempt::set_aside(reason),
        Some(HandlerEnd::GiveBack(reason)) => {
            EndedAttempt::given_back(AttemptKind::Interrupted, reason, Duration::ZERO)
        }
        Some(HandlerEnd::PassLater(reason, after)) => {
            EndedAttempt::given_back(AttemptKind::Passed, reason, after)
        }
        Some(HandlerEnd::Stopped(receipt)) => {
            let stopped = CallError::Cancelled(Cancelled::without_report("its handler stopped"));
            EndedAttempt::stopped(Err(stopped), Some(receipt))
        }
        None => EndedAttempt::of(Err(match Pass::find(first) {
            Some(reason) => CallError::Passed(vec![reason]),
            None => CallError::Failed(Box::new(failure_of(first, type_name::<E>()))),
        })),
    }
}

/// A [`Failure`] keeps the lines of its message, which its `Display` joins.
fn failure_of(error: &(dyn std::error::Error + 'static), type_name: &str) -> Failure {
    let mut failure = Failure::from_error(error, type_name);
    if let Some(own) = error.downcast_ref::<Failure>() {
        shorten(&own.message, MESSAGE_BYTES_MAX).clone_into(&mut failure.message);
    }
    failure
}

fn json_of(value: &impl Serialize) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(Codec::json_text(value)?)
        .map_err(|e| Error::new(ErrorKind::Encode, "write a result as JSON").with_source(e))
}

/// Longest message of a failure.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// How far the `source`s of an error are followed, because they may never end.
const SOURCES_MAX: usize = 16;

//! [`Context`]: what a running task can ask and report.
//!
//! The process that starts the attempt, a worker or the caller's own, fills an `AttemptContext`;
//! after that it is shared by the task, its clones of the context and the code that cancels it.
//! Only the cancel state changes.
//!
//! Invariants: the first cancel counts and later ones do nothing. Its reason is stored before the
//! attempt counts as cancelled. Each abort listener runs once, and a hanging listener does not keep
//! the worker from reading messages. Reporting progress never waits for the caller.
//!
//! It stops nothing by force: the pool does that, by signals.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::sync::Notify;

use crate::codec::Codec;
use crate::job_context::JobContext;
use crate::outcome::{Failure, RetryAdvice};
use crate::progress::PROGRESS_BYTES_MAX;
use crate::sync::lock;
use crate::traceparent::TraceParent;

/// A task's view of its attempt: take `&Context` as the first parameter. Cheap to clone; clones may
/// outlive the attempt, and what is reported through them then is dropped.
///
/// ```standalone_crate
/// use brigade::{Context, task};
///
/// #[task]
/// fn copies(cx: &Context, files: u32) -> u32 {
///     for file in 0..files {
///         if cx.is_cancelled() {
///             return file;
///         }
///         cx.progress(f64::from(file) / f64::from(files), "copied one");
///     }
///     files
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), brigade::CallError> {
/// assert_eq!(copies(3).run_here().await?, 3);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Context(Arc<AttemptContext>);

/// State that the init hook built.
pub type State = Arc<dyn Any + Send + Sync>;

/// Where an attempt's progress goes.
pub trait Sink: Send + Sync {
    fn progress(&self, call: u64, fraction: f64, codec: Codec, payload: &[u8]);
}

pub struct AttemptContext {
    pub call: u64,
    pub number: u32,
    pub worker: u32,
    pub task: &'static str,
    pub codec: Codec,
    pub deadline: Option<Instant>,
    pub tick: Option<SystemTime>,
    pub job: Option<Arc<JobContext>>,
    pub traceparent: Option<TraceParent>,
    pub state: Option<State>,
    /// The id that the attempt has on the wire, and who takes its progress.
    pub sink: Option<(u64, Arc<dyn Sink>)>,
    cancel: CancelState,
}

#[derive(Default)]
struct CancelState {
    asked: AtomicBool,
    reason: OnceLock<String>,
    listeners: Mutex<Vec<AbortListener>>,
    wake: Notify,
}

type AbortListener = Box<dyn FnOnce(&str) + Send>;

impl Context {
    #[doc(hidden)]
    pub fn attempt_of(call: u64, number: u32, task: &'static str, codec: Codec) -> AttemptContext {
        AttemptContext {
            call,
            number,
            worker: 0,
            task,
            codec,
            deadline: None,
            tick: None,
            job: None,
            traceparent: None,
            state: None,
            sink: None,
            cancel: CancelState::default(),
        }
    }

    /// Id of the call within its pool.
    pub fn call(&self) -> u64 {
        self.0.call
    }

    /// Number of this attempt, from 1. Of a job: as its history counts, where passes and
    /// interruptions do not count.
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// The job that this is an attempt of, wherever it runs; `None` for a call that is no job. Its
    /// id is the same for every attempt, so it can be the key by which another service knows that
    /// it has done something already:
    ///
    /// ```
    /// # use brigade::{Context, Failure, task};
    /// # struct Bank; impl Bank { fn pay(&self, key: &str, cents: u64) -> Result<(), Failure> { Ok(()) } }
    /// #[task(retries = 5)]
    /// fn pay(cx: &Context, cents: u64) -> Result<(), Failure> {
    ///     let job = cx.job().ok_or_else(|| Failure::permanent("a payment is a job"))?;
    ///     Bank.pay(&job.id, cents)
    /// }
    /// ```
    pub fn job(&self) -> Option<&JobContext> {
        self.0.job.as_deref()
    }

    /// Number of this worker within its pool, from 1; 0 in the caller's own process.
    pub fn worker(&self) -> u32 {
        self.0.worker
    }

    /// Name of the task.
    pub fn task(&self) -> &str {
        self.0.task
    }

    /// The tick of a schedule that this run is for, whenever it came to run; `None` if no schedule
    /// pushed it.
    pub fn tick(&self) -> Option<SystemTime> {
        self.0.tick
    }

    /// The trace that the attempt belongs to: that of its call or job
    /// ([`Call::traceparent`](crate::Call::traceparent)), or with the feature `otel` the span of
    /// this attempt. What the task pushes and calls goes on with it.
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.0.traceparent.as_ref()
    }

    /// Time left until the timeout of this attempt, if it has one.
    pub fn remaining(&self) -> Option<Duration> {
        self.0
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Reports progress to the caller: a fraction from 0 to 1 and any serde value.
    ///
    /// It never waits for the caller. Values come in order; a caller that does not read keeps only
    /// the newest few. A payload that cannot be encoded, or is over 56 KiB, is a warning in the log
    /// instead.
    pub fn progress(&self, fraction: f64, payload: impl Serialize) {
        let Some((call, sink)) = &self.0.sink else {
            return;
        };
        match self.0.codec.encode(&payload) {
            Ok(payload) if payload.len() > PROGRESS_BYTES_MAX => {
                tracing::warn!(
                    task = self.0.task,
                    bytes = payload.len(),
                    "progress was dropped: it is over 56 KiB"
                );
            }
            Ok(payload) => sink.progress(*call, fraction.clamp(0.0, 1.0), self.0.codec, &payload),
            Err(error) => tracing::warn!(task = self.0.task, %error, "progress was dropped"),
        }
    }

    /// Whether this attempt was asked to stop. Check it in long loops and return early: a task
    /// that stops when asked keeps its worker alive and warm.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.asked.load(Ordering::Acquire)
    }

    /// Why it was asked to stop.
    pub fn cancel_reason(&self) -> Option<&str> {
        self.0.cancel.reason.get().map(String::as_str)
    }

    /// Waits until this attempt is asked to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        let mut wake = std::pin::pin!(self.0.cancel.wake.notified());
        wake.as_mut().enable();
        if !self.is_cancelled() {
            wake.await;
        }
    }

    /// Registers an abort listener: it runs once, on another thread than the task, with the reason,
    /// when this attempt is asked to stop; at once if that has happened already.
    pub fn on_cancel(&self, listener: impl FnOnce(&str) + Send + 'static) {
        let mut listeners = lock(&self.0.cancel.listeners);
        match self.cancel_reason() {
            None => listeners.push(Box::new(listener)),
            Some(reason) => {
                drop(listeners);
                listener(reason);
            }
        }
    }

    /// The state that the pool's init hook built in this worker.
    ///
    /// # Panics
    ///
    /// If there is none of this type: give the pool `.init(hook, args)`. See
    /// [`Context::try_state`].
    pub fn state<S: Send + Sync + 'static>(&self) -> &S {
        self.try_state().unwrap_or_else(|| {
            panic!(
                "no worker state of type {}: build it with Pool::builder().init(..)",
                std::any::type_name::<S>()
            )
        })
    }

    /// The state that the pool's init hook built in this worker, if it is of this type.
    pub fn try_state<S: Send + Sync + 'static>(&self) -> Option<&S> {
        self.0.state.as_deref()?.downcast_ref()
    }

    /// An error that asks for the next attempt after this time, whatever the retry policy says:
    /// `return Err(cx.retry_in(secs(30)).into())`.
    pub fn retry_in(&self, after: Duration) -> Failure {
        Failure::new(format_args!("asks for a retry in {after:?}"))
            .with_retry(RetryAdvice::In(after))
    }
}

impl AttemptContext {
    pub fn into_context(self) -> Context {
        Context(Arc::new(self))
    }
}

impl Context {
    /// Asks the attempt to stop and runs its listeners, on a thread of their own: one that hangs
    /// must not keep the worker from hearing more. A second time does nothing.
    #[doc(hidden)]
    pub fn cancel(&self, reason: &str) {
        let cancel = &self.0.cancel;
        let listeners = {
            let mut listeners = lock(&cancel.listeners);
            if cancel.reason.set(reason.to_owned()).is_err() {
                return;
            }
            cancel.asked.store(true, Ordering::Release);
            std::mem::take(&mut *listeners)
        };
        cancel.wake.notify_waiters();
        if listeners.is_empty() {
            return;
        }
        let reason = reason.to_owned();
        let run = move || listeners.into_iter().for_each(|listener| listener(&reason));
        let thread = thread::Builder::new()
            .name("brigade-abort".to_owned())
            .stack_size(LISTENER_STACK_BYTES);
        if let Err(error) = thread.spawn(run) {
            tracing::error!(%error, "could not run abort listeners");
        }
    }
}

const LISTENER_STACK_BYTES: usize = 1 << 20;

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("task", &self.0.task)
            .field("call", &self.0.call)
            .field("attempt", &self.0.number)
            .finish_non_exhaustive()
    }
}

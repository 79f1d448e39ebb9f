//! [`CallHandle`]: a call that was made, in a pool or through a broker.
//!
//! The handle is the caller's side and the same everywhere; what runs the call stands behind
//! [`RunningCall`]. Whatever runs calls allocates its state once and shares it with the handle, so
//! the handle itself costs nothing more.
//!
//! States: the call runs from the moment the handle exists; it ends once, and its outcome is taken
//! once, by the future. Dropping the handle abandons the call, [`CallHandle::detach`] does not.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use serde::de::DeserializeOwned;

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::codec::Codec;
use crate::error::Error;
use crate::outcome::CallError;
use crate::output::Output;
use crate::payload::sharing;
use crate::progress::Progress;
use crate::sync::lock;

/// A running call as its handle sees it.
///
/// - The call runs whether or not anything here is polled.
/// - `poll_outcome` is called by one task at a time, the others may be by several, which are all
///   woken.
pub trait RunningCall: Send + Sync {
    /// The outcome, given once; pending for ever after that.
    fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CallError>>;

    /// Whether the call has ended.
    fn is_finished(&self) -> bool;

    /// Begins a stop. Never waits.
    fn cancel(&self, reason: &str);

    /// Waits for the end without taking the outcome: the receipt, if a stop ended the call.
    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<Option<StopReceipt>>;

    /// The next progress; `None` after the end.
    fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Option<Progress>>;

    /// The handle was dropped: the call is cancelled unless it has ended.
    fn abandon(&self);

    /// The call runs on without its handle.
    fn detach(self: Arc<Self>);

    /// Its number within its pool.
    fn id(&self) -> Option<u64> {
        None
    }

    /// What the attempt wrote, if it was captured. Given once.
    fn take_output(&self) -> Option<Output> {
        None
    }

    /// The report of the last attempt, once the call has ended.
    fn report(&self) -> Option<Box<AttemptReport>> {
        None
    }

    /// Has a stop that is under way take its last step at once.
    fn hurry(&self) {}
}

/// A call that was made, in a pool or through a broker: a future of its result. It runs whether or
/// not it is awaited; dropping the handle cancels the call, [`detach`](CallHandle::detach) lets it
/// run on.
///
/// Where a pool's queue is full, the call waits for room while its handle is awaited, in order.
///
/// ```
/// # use std::time::Duration;
/// use brigade::{Broker, CallError, task};
///
/// #[task]
/// fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let broker = Broker::connect(&format!("sqlite:{}/jobs.db", dir.path().display())).await?;
/// let mut call = broker.call(add(3, 4));
/// // No consumer is there yet, so the call waits; a `select!` on `&mut call` keeps it.
/// tokio::select! {
///     sum = &mut call => println!("{}", sum?),
///     () = tokio::time::sleep(Duration::from_millis(10)) => {}
/// }
/// call.cancel("the user left").await;
/// assert!(matches!(call.await, Err(CallError::Cancelled(_))));
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// Await `&mut handle` in a `select!`: dropping the reference loses nothing. Dropping the handle
/// cancels the call; at a broker a task of the runtime does that, so in a program that ends at that
/// moment the call may still run.
#[must_use = "dropping a handle cancels its call; detach it to let it run on"]
pub struct CallHandle<T> {
    call: Arc<dyn RunningCall>,
    codec: Codec,
    /// The outcome was taken, or the call runs on by itself: dropping the handle does nothing.
    is_over: bool,
    output: PhantomData<fn() -> T>,
}

impl<T> CallHandle<T> {
    /// A handle of a call whose result has this format.
    #[doc(hidden)]
    pub fn new(call: Arc<dyn RunningCall>, codec: Codec) -> Self {
        Self {
            call,
            codec,
            is_over: false,
            output: PhantomData,
        }
    }

    /// A handle of a call that was never made.
    #[doc(hidden)]
    pub fn rejected(error: Error) -> Self {
        let call = RejectedCall(Mutex::new(Some(error)));
        Self::new(Arc::new(call), Codec::Json)
    }

    /// Id of the call within its pool, as in events, reports and
    /// [`Context::call`](crate::Context::call). `None` at a broker, while the call waits for room
    /// in a pool's queue, and if it was refused.
    pub fn id(&self) -> Option<u64> {
        self.call.id()
    }

    /// Whether the call has ended.
    pub fn is_finished(&self) -> bool {
        self.call.is_finished()
    }

    /// Stops the call, wherever it is, and returns when nothing of it is left. The handle then
    /// gives
    /// [`CallError::Cancelled`] with the reason, or the result if that came first.
    ///
    /// The receipt says which step stopped the attempt. `None`: the call had ended before; or, at a
    /// broker, no attempt was stopped in a pool: none had begun, or its consumer runs tasks in its
    /// own process.
    ///
    /// The stop begins when this is called, not when it is awaited. Only the first reason counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the stop back.
    pub fn cancel(
        &self,
        reason: &str,
    ) -> impl Future<Output = Option<StopReceipt>> + Send + use<T> {
        self.call.cancel(reason);
        let call = Arc::clone(&self.call);
        async move { poll_fn(|cx| call.poll_stopped(cx)).await }
    }

    /// What the running task reports with [`Context::progress`](crate::Context::progress), in
    /// order; ends with the call. Of unread progress, the newest 64 are kept. Brokers that keep
    /// results as jobs (SQLite, Redis) carry none.
    pub fn progress(&self) -> ProgressStream {
        ProgressStream {
            call: Arc::clone(&self.call),
        }
    }

    /// What the attempt wrote, once the call has ended, if it was made in a pool with
    /// [`Call::capture`](crate::Call::capture). Given once.
    pub fn output(&self) -> Option<Output> {
        self.call.take_output()
    }

    /// The report of the attempt that ended the call: how it ended and what it cost, whether it
    /// returned a value, failed or was ended. `None` before the end, and for a call that no attempt
    /// ended: it was rejected, passed by every worker, or cancelled while it waited.
    ///
    /// ```standalone_crate
    /// use brigade::{AttemptOutcome, Pool, task};
    ///
    /// #[task]
    /// fn add(a: i64, b: i64) -> i64 {
    ///     a + b
    /// }
    ///
    /// #[brigade::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let pool = Pool::builder().workers(1).start().await?;
    ///     let mut call = pool.call(add(3, 4));
    ///     assert_eq!((&mut call).await?, 7);
    ///     let report = call.report().ok_or("it has ended")?;
    ///     assert_eq!(report.ended, AttemptOutcome::Returned);
    ///     println!("{} took {:?}", report.task, report.cost.wall);
    ///     pool.shutdown().await;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Through a broker it is known where the broker keeps results as jobs (SQLite, Redis), and
    /// otherwise from the errors that carry one.
    pub fn report(&self) -> Option<Box<AttemptReport>> {
        self.call.report()
    }

    /// Lets the call run on without its handle.
    pub fn detach(mut self) {
        self.is_over = true;
        Arc::clone(&self.call).detach();
    }

    /// Makes a stop that is under way take its last step at once.
    #[doc(hidden)]
    pub fn hurry(&self) {
        self.call.hurry();
    }
}

impl<T: DeserializeOwned> Future for CallHandle<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(self.call.poll_outcome(cx));
        self.is_over = true;
        Poll::Ready(
            outcome.and_then(|bytes| Ok(sharing(&bytes, |bytes| self.codec.decode(bytes))?)),
        )
    }
}

impl<T> Drop for CallHandle<T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.call.abandon();
        }
    }
}

impl<T> fmt::Debug for CallHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallHandle")
            .field("id", &self.id())
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// Progress of one call, see [`CallHandle::progress`]. Several streams of one call share it between
/// them.
pub struct ProgressStream {
    call: Arc<dyn RunningCall>,
}

impl ProgressStream {
    /// The next progress; `None` when the call has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Progress> {
        poll_fn(|cx| self.call.poll_progress(cx)).await
    }
}

impl Stream for ProgressStream {
    type Item = Progress;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.call.poll_progress(cx)
    }
}

impl fmt::Debug for ProgressStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressStream").finish_non_exhaustive()
    }
}

/// A call that was never made; its handle gives the error.
struct RejectedCall(Mutex<Option<Error>>);

impl RunningCall for RejectedCall {
    fn poll_outcome(&self, _: &mut Context<'_>) -> Poll<Result<Bytes, CallError>> {
        match lock(&self.0).take() {
            Some(error) => Poll::Ready(Err(CallError::Rejected(error))),
            None => Poll::Pending,
        }
    }

    fn is_finished(&self) -> bool {
        true
    }

    fn cancel(&self, _: &str) {}

    fn poll_stopped(&self, _: &mut Context<'_>) -> Poll<Option<StopReceipt>> {
        Poll::Ready(None)
    }

    fn poll_progress(&self, _: &mut Context<'_>) -> Poll<Option<Progress>> {
        Poll::Ready(None)
    }

    fn abandon(&self) {}

    fn detach(self: Arc<Self>) {}
}

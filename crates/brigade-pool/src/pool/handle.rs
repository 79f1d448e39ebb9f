//! [`CallHandle`]: a call that was made.
//!
//! The handle owns the caller's side: it waits for a place of the queue where the pool is full,
//! takes the outcome out of the call's cell, decodes it, and cancels the call when it is dropped.
//! Off the pool's own runtime it also checks that this runtime is driven.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::poll_fn;
use serde::de::DeserializeOwned;

use super::Shared;
use super::cell::Cell;
use super::core::{Admission, CallId};
use super::outside::RuntimeCheck;
use crate::attempt_report::{Step, StopReceipt};
use crate::call::Request;
use crate::codec::Codec;
use crate::error::Error;
use crate::outcome::{CallError, Cancelled};
use crate::payload::sharing;
use crate::process::Output;
use crate::progress::Progress;
use crate::sync::lock;

/// A call that was made: a future of its result. It runs whether or not it is awaited; dropping it
/// cancels it, [`detach`](CallHandle::detach) lets it run on.
///
/// Where the pool's queue is full, the call waits for room while its handle is awaited, in order.
///
/// # Cancel safety
///
/// Await `&mut handle` in a `select!`: dropping the reference loses nothing. Dropping the handle
/// cancels the call.
#[must_use = "dropping a handle cancels its call; detach it to let it run on"]
pub struct CallHandle<T> {
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    codec: Codec,
    stage: HandleStage,
    /// When it is waited for outside of the pool's runtime.
    look: Option<RuntimeCheck>,
    output: PhantomData<fn() -> T>,
}

enum HandleStage {
    /// In the pool, under this id.
    Inside(CallId),
    /// Waiting for room in the queue, until it is cancelled.
    Outside(Mutex<Option<WaitingCall>>),
    /// Ended, or let go.
    Over,
}

/// A call that waits for room.
struct WaitingCall {
    request: Box<Request>,
    place: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl<T> CallHandle<T> {
    pub(super) fn inside(shared: Arc<Shared>, cell: Arc<Cell>, codec: Codec, call: CallId) -> Self {
        Self {
            shared,
            cell,
            codec,
            stage: HandleStage::Inside(call),
            look: None,
            output: PhantomData,
        }
    }

    /// A call that never came into the pool.
    pub(super) fn refused(shared: Arc<Shared>, codec: Codec, error: Error) -> Self {
        let cell = Arc::new(Cell::default());
        cell.finish(Err(CallError::Rejected(error)), None, None);
        Self {
            shared,
            cell,
            codec,
            stage: HandleStage::Over,
            look: None,
            output: PhantomData,
        }
    }

    pub(super) fn outside(shared: Arc<Shared>, cell: Arc<Cell>, request: Request) -> Self {
        let (codec, room) = (request.codec, Arc::clone(&shared));
        let place = Box::pin(async move {
            // Closed means that the pool was shut down; admission then refuses the call.
            room.room
                .acquire()
                .await
                .map(tokio::sync::SemaphorePermit::forget)
                .is_ok()
        });
        let waiting = WaitingCall {
            request: Box::new(request),
            place,
        };
        Self {
            shared,
            cell,
            codec,
            stage: HandleStage::Outside(Mutex::new(Some(waiting))),
            look: None,
            output: PhantomData,
        }
    }

    /// Id of the call within its pool, as in events, reports and
    /// [`Context::call`](brigade_core::Context::call). `None` while it waits for room in the queue, and if
    /// it was refused.
    pub fn id(&self) -> Option<u64> {
        match self.stage {
            HandleStage::Inside(call) => Some(call.number()),
            HandleStage::Outside(..) | HandleStage::Over => None,
        }
    }

    /// Whether the call has ended.
    pub fn is_finished(&self) -> bool {
        self.cell.is_finished()
    }

    /// Stops the call and returns when nothing of it is left: `None` if it had ended before. The
    /// handle then gives [`CallError::Cancelled`] with the reason.
    ///
    /// The stop begins when this is called, not when it is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the stop back.
    pub fn cancel(
        &self,
        reason: &str,
    ) -> impl Future<Output = Option<StopReceipt>> + Send + use<T> {
        let reason = reason.to_owned();
        match &self.stage {
            HandleStage::Inside(call) => self
                .shared
                .step(|core, effects| core.cancel(*call, reason, effects)),
            HandleStage::Outside(waiting) => {
                if lock(waiting).take().is_some() {
                    let receipt = StopReceipt::new(Step::NotStarted, std::time::Duration::ZERO);
                    self.cell.finish(
                        Err(CallError::Cancelled(Cancelled::new(reason, None))),
                        Some(receipt),
                        None,
                    );
                }
            }
            HandleStage::Over => {}
        }
        let cell = Arc::clone(&self.cell);
        async move { poll_fn(|cx| cell.poll_receipt(cx.waker())).await }
    }

    /// Makes a stop that is under way take its last step at once.
    #[doc(hidden)]
    pub fn hurry(&self) {
        if let HandleStage::Inside(call) = self.stage {
            self.shared.peek(|core| core.hurry(call));
        }
    }

    /// What the running task reports with [`Context::progress`](brigade_core::Context::progress), in
    /// order; ends with the call. Of unread progress, the newest 64 are kept.
    pub fn progress(&self) -> ProgressStream {
        ProgressStream {
            cell: Arc::clone(&self.cell),
        }
    }

    /// What the attempt wrote, once the call has ended, if it was made with
    /// [`Call::capture`](brigade_core::Call::capture). Given once.
    pub fn output(&self) -> Option<Output> {
        self.cell.take_output()
    }

    /// Lets the call run on without its handle.
    pub fn detach(mut self) {
        if let HandleStage::Outside(waiting) = std::mem::replace(&mut self.stage, HandleStage::Over)
            && let Some(WaitingCall { request, place }) = lock(&waiting).take()
        {
            let (shared, cell) = (Arc::clone(&self.shared), Arc::clone(&self.cell));
            self.shared.scope.spawn(async move {
                // It ends at the latest when the pool closes, and then admission refuses.
                place.await;
                shared.admit_with_place(*request, &cell);
            });
        }
    }
}

impl<T> CallHandle<T> {
    /// Looks now and then whether the pool's runtime is driven, where this is polled outside of it.
    /// If it is not the call is cancelled, for when it is again.
    fn look_at_runtime(&mut self, cx: &mut Context<'_>) -> Option<Error> {
        if self.shared.scope.is_current()
            || !self.look.get_or_insert_with(RuntimeCheck::new).poll(cx)
        {
            return None;
        }
        let call = match self.stage {
            HandleStage::Inside(call) => Some(call),
            HandleStage::Outside(_) | HandleStage::Over => None,
        };
        let error = self.shared.undriven(call)?;
        drop(self.cancel("the runtime of its pool was not driven"));
        Some(error)
    }
}

impl<T: DeserializeOwned> Future for CallHandle<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let request = match &self.stage {
            HandleStage::Outside(waiting) => has_room(&mut lock(waiting), cx),
            HandleStage::Inside(_) | HandleStage::Over => None,
        };
        if let Some(request) = request {
            let admission = self.shared.admit_with_place(*request, &self.cell);
            self.stage = match admission {
                Admission::Admitted(call) => HandleStage::Inside(call),
                Admission::Full(_) | Admission::Refused(_) => HandleStage::Over,
            };
        }
        let outcome = match self.cell.poll_outcome(cx.waker()) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => match self.look_at_runtime(cx) {
                Some(error) => Err(error.into()),
                None => return Poll::Pending,
            },
        };
        self.stage = HandleStage::Over;
        Poll::Ready(
            outcome.and_then(|bytes| Ok(sharing(&bytes, |bytes| self.codec.decode(bytes))?)),
        )
    }
}

/// The request, once there is room for it.
fn has_room(waiting: &mut Option<WaitingCall>, cx: &mut Context<'_>) -> Option<Box<Request>> {
    let is_ready = waiting.as_mut()?.place.as_mut().poll(cx).is_ready();
    waiting.take_if(|_| is_ready).map(|waiting| waiting.request)
}

impl<T> Drop for CallHandle<T> {
    fn drop(&mut self) {
        if let HandleStage::Inside(call) = self.stage
            && !self.cell.is_finished()
        {
            let reason = "its handle was dropped".to_owned();
            self.shared
                .step(|core, effects| core.cancel(call, reason, effects));
        } else if let HandleStage::Outside(waiting) = &self.stage
            && lock(waiting).take().is_some()
        {
            // A reader of its progress must not wait for ever.
            self.cell.finish(
                Err(CallError::Cancelled(Cancelled::new(
                    "its handle was dropped".to_owned(),
                    None,
                ))),
                None,
                None,
            );
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
    cell: Arc<Cell>,
}

impl ProgressStream {
    /// The next progress; `None` when the call has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Progress> {
        poll_fn(|cx| self.cell.poll_update(cx.waker())).await
    }
}

impl Stream for ProgressStream {
    type Item = Progress;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.cell.poll_update(cx.waker())
    }
}

impl fmt::Debug for ProgressStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressStream").finish_non_exhaustive()
    }
}

//! The caller's side of a call in a pool: what stands behind its
//! [`CallHandle`](crate::call_handle::CallHandle).
//!
//! The call's cell is all that the handle holds. Through it the handle waits for room in the queue
//! where the pool is full, takes the outcome, and cancels the call. Off the pool's own runtime it
//! also checks that this runtime is driven.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::cell::{CallPool, Cell, CellPoll, EncodedOutcome, EndFacts, WaitingCall};
use super::core::Admission;
use super::ids::CallId;
use super::shared::Shared;
use crate::attempt_report::{AttemptReport, Step, StopReceipt};
use crate::call_handle::RunningCall;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled};
use crate::output::Output;
use crate::progress::Progress;
use crate::request::Request;

/// Why an abandoned call is cancelled.
const ABANDONED: &str = "its handle was dropped";

impl RunningCall for Cell {
    fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<EncodedOutcome> {
        loop {
            match self.poll(cx) {
                CellPoll::Ended(outcome) => return Poll::Ready(outcome),
                CellPoll::HasRoom(waiting) => self.enter(waiting),
                CellPoll::Pending => break,
            }
        }
        if self.is_on_its_runtime() {
            return Poll::Pending;
        }
        let Some(pool) = self.pool() else {
            // The pool may have ended the call between the two looks.
            return match self.poll(cx) {
                CellPoll::Ended(outcome) => Poll::Ready(outcome),
                CellPoll::HasRoom(_) | CellPoll::Pending => Poll::Ready(Err(pool_gone().into())),
            };
        };
        match self.runtime_error(&*pool, cx) {
            Some(error) => Poll::Ready(Err(error.into())),
            None => Poll::Pending,
        }
    }

    fn is_finished(&self) -> bool {
        Self::is_finished(self)
    }

    fn cancel(&self, reason: &str) {
        if self.cancel_waiting(reason) {
            return;
        }
        if let (Some(call), Some(pool)) = (self.call(), self.pool()) {
            pool.cancel(call, reason);
        }
    }

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<Option<StopReceipt>> {
        self.poll_receipt(cx.waker())
    }

    fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.poll_update(cx.waker())
    }

    fn abandon(&self) {
        if !Self::is_finished(self) {
            self.cancel(ABANDONED);
        }
    }

    fn detach(self: Arc<Self>) {
        match (self.take_waiting(), self.pool()) {
            (Some(waiting), Some(pool)) => pool.admit_later(waiting),
            // A reader of its progress must not wait for ever.
            (Some(_), None) => self.finish(Err(pool_gone().into()), EndFacts::default()),
            (None, _) => {}
        }
    }

    fn id(&self) -> Option<u64> {
        self.call().map(|call| call.number())
    }

    fn take_output(&self) -> Option<Output> {
        Self::take_output(self)
    }

    fn report(&self) -> Option<Box<AttemptReport>> {
        Self::report(self)
    }

    fn hurry(&self) {
        if let (Some(call), Some(pool)) = (self.call(), self.pool()) {
            pool.hurry(call);
        }
    }
}

impl Cell {
    /// Admits a call that has its place of the queue. If that fails, the cell has the error.
    fn enter(&self, waiting: WaitingCall) {
        match self.pool() {
            Some(pool) => {
                if let Some(call) = pool.admit_waiting(waiting) {
                    self.admitted(call);
                }
            }
            None => self.finish(Err(pool_gone().into()), EndFacts::default()),
        }
    }

    /// Ends a call that waits for room in the queue; whether it did.
    fn cancel_waiting(&self, reason: &str) -> bool {
        let is_waiting = self.take_waiting().is_some();
        if is_waiting {
            let receipt = StopReceipt::new(Step::NotStarted, Duration::ZERO);
            let error = CallError::Cancelled(Cancelled::new(reason, None));
            let facts = EndFacts {
                receipt: Some(receipt),
                ..EndFacts::default()
            };
            self.finish(Err(error), facts);
        }
        is_waiting
    }

    /// Checks now and then whether the pool's runtime is driven, where the handle is awaited
    /// outside of it. If it is not, the call is cancelled, for when the runtime is driven again.
    fn runtime_error(&self, pool: &dyn CallPool, cx: &mut Context<'_>) -> Option<Error> {
        if !self.poll_check(cx) {
            return None;
        }
        let error = pool.runtime_error(self.call())?;
        self.cancel("the runtime of its pool was not driven");
        Some(error)
    }
}

/// The last handle of the pool was dropped, and its workers are gone.
fn pool_gone() -> Error {
    Error::new(ErrorKind::Closed, "call a pool that was shut down")
}

impl Shared {
    /// The cell of a call of this pool that a handle awaits.
    pub(super) fn cell(self: &Arc<Self>) -> Arc<Cell> {
        let pool: Weak<Self> = Arc::downgrade(self);
        Arc::new(Cell::with_handle(pool, self.scope.runtime_id()))
    }

    /// A call that waits for room in the queue.
    pub(super) fn waiting(&self, request: Request, cell: &Arc<Cell>) -> WaitingCall {
        let room = Arc::clone(&self.room);
        let place = Box::pin(async move {
            // Closed means that the pool was shut down; admission then refuses the call.
            if let Ok(permit) = room.acquire().await {
                permit.forget();
            }
        });
        WaitingCall {
            request: Box::new(request),
            cell: Arc::clone(cell),
            place,
        }
    }
}

impl CallPool for Shared {
    fn cancel(self: Arc<Self>, call: CallId, reason: &str) {
        let reason = reason.to_owned();
        self.step(|core, effects| core.cancel(call, reason, effects));
    }

    fn hurry(&self, call: CallId) {
        self.peek(|core| core.hurry(call));
    }

    fn admit_waiting(self: Arc<Self>, waiting: WaitingCall) -> Option<CallId> {
        match self.admit_with_place(*waiting.request, &waiting.cell) {
            Admission::Admitted(call) => Some(call),
            Admission::Full(_) | Admission::Refused(_) => None,
        }
    }

    fn admit_later(self: Arc<Self>, mut waiting: WaitingCall) {
        let shared = Arc::clone(&self);
        self.scope.spawn(async move {
            // It ends at the latest when the pool closes, and then admission refuses.
            waiting.place.as_mut().await;
            shared.admit_waiting(waiting);
        });
    }

    fn runtime_error(&self, call: Option<CallId>) -> Option<Error> {
        self.undriven(call)
    }
}

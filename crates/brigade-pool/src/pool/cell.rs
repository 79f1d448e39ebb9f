//! What a call and its handle share: the outcome, once; progress while it runs; the receipt of a
//! stop.
//!
//! The dispatcher's shell fills a cell, the handle reads it. A cell is finished exactly once
//! (`finish` asserts it), and the wakers of its callers are woken outside of its lock. A call that
//! was made for another pool has a [`Relay`] in place of a handle.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::runtime::{Handle, Id};

use super::answered::AnsweredAttempt;
use super::ids::CallId;
use super::runtime_check::RuntimeCheck;
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::error::Error;
use crate::outcome::CallError;
use crate::output::Output;
use crate::progress::Progress;
use crate::progress_queue::ProgressQueue;
use crate::request::Request;
use crate::sync::lock;

/// How a call ended. Its result is not decoded yet.
pub(crate) type EncodedOutcome = Result<Bytes, CallError>;

/// What is known of the end of a call besides its outcome.
#[derive(Default)]
pub(crate) struct EndFacts {
    /// How a stop ended it.
    pub(crate) receipt: Option<StopReceipt>,
    /// What its attempt wrote, if that was captured.
    pub(crate) output: Option<Output>,
    /// Its attempt, if its worker answered it.
    pub(crate) attempt: Option<AnsweredAttempt>,
}

#[derive(Default)]
pub(crate) struct Cell {
    state: Mutex<CellState>,
    /// Gets the outcome instead of a handle.
    relay: Option<Relayed>,
    /// The pool that a handle needs. The pool owns the cells of its calls, so a strong reference
    /// would keep both alive for ever.
    pool: Option<Weak<dyn CallPool>>,
    /// The pool's runtime: who polls there need not look whether it is driven.
    runtime: Option<Id>,
    /// The number of the call as in frames; 0 until the pool has admitted it.
    id: AtomicU64,
}

/// A call that waits for room in the queue.
pub(super) struct WaitingCall {
    pub(super) request: Box<Request>,
    /// Its own cell, which this is taken out of before the handle is gone.
    pub(super) cell: Arc<Cell>,
    /// Ends when there is room, and when the pool closes.
    pub(super) place: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A pool as the handles of its calls reach it.
pub(super) trait CallPool: Send + Sync {
    /// Takes a call up the kill ladder, or out of the queue.
    fn cancel(self: Arc<Self>, call: CallId, reason: &str);

    /// Has a stop that is under way take its last step at once.
    fn hurry(&self, call: CallId);

    /// Admits a call that has its place of the queue. If that fails, its cell has the error.
    fn admit_waiting(self: Arc<Self>, waiting: WaitingCall) -> Option<CallId>;

    /// Admits a call once it has its place of the queue.
    fn admit_later(self: Arc<Self>, waiting: WaitingCall);

    /// The error for a caller, if the pool's runtime is not driven.
    fn runtime_error(&self, call: Option<CallId>) -> Option<Error>;
}

/// What a handle finds in its cell.
pub(super) enum CellPoll {
    Ended(EncodedOutcome),
    /// There is room for the call now.
    HasRoom(WaitingCall),
    Pending,
}

/// Takes the outcome and the progress of a call that was made for another pool.
pub(crate) trait Relay: Send + Sync {
    /// The call ended.
    fn ended(&self, tag: Tag, outcome: EncodedOutcome, facts: EndFacts);

    /// The call reported progress.
    fn progressed(&self, tag: Tag, update: Progress);
}

/// How a relay knows a call: two numbers of its own.
pub(crate) type Tag = (u64, u64);

type Relayed = (Arc<dyn Relay>, Tag);

#[derive(Default)]
struct CellState {
    outcome: Option<EncodedOutcome>,
    finished: bool,
    attempt: Option<AnsweredAttempt>,
    waker: Option<Waker>,
    extra: Option<Box<Extra>>,
}

/// What few calls need.
#[derive(Default)]
struct Extra {
    watchers: Vec<Waker>,
    receipt: Option<StopReceipt>,
    output: Option<Output>,
    /// The report of the error that the caller has taken.
    report: Option<Box<AttemptReport>>,
    progress: ProgressQueue,
    waiting: Option<WaitingCall>,
    /// When the runtime of the pool is checked next, for a handle that is awaited outside of it.
    check: Option<RuntimeCheck>,
}

impl Cell {
    /// A call of this pool that a handle awaits.
    pub(super) fn with_handle(pool: Weak<dyn CallPool>, runtime: Id) -> Self {
        Self {
            pool: Some(pool),
            runtime: Some(runtime),
            ..Self::default()
        }
    }

    /// The pool, unless it is gone.
    pub(super) fn pool(&self) -> Option<Arc<dyn CallPool>> {
        self.pool.as_ref()?.upgrade()
    }

    /// The pool has admitted the call under this id.
    pub(super) fn admitted(&self, call: CallId) {
        self.id.store(call.to_wire(), Ordering::Release);
    }

    /// The call in the pool, once it was admitted.
    pub(super) fn call(&self) -> Option<CallId> {
        let id = self.id.load(Ordering::Acquire);
        (id != 0).then(|| CallId::from_wire(id))
    }

    /// Whether the caller is a task of the pool's own runtime, which is certainly driven.
    pub(super) fn is_on_its_runtime(&self) -> bool {
        self.runtime.is_some()
            && Handle::try_current().map(|runtime| runtime.id()).ok() == self.runtime
    }

    /// A call whose outcome a relay gets.
    #[cfg(feature = "remote")]
    pub(crate) fn relayed(relay: Arc<dyn Relay>, tag: Tag) -> Self {
        Self {
            relay: Some((relay, tag)),
            ..Self::default()
        }
    }

    /// Gives the call its outcome. The one place where a call ends.
    pub(crate) fn finish(&self, outcome: EncodedOutcome, facts: EndFacts) {
        let mut wakers = Vec::new();
        let first = {
            let mut state = lock(&self.state);
            assert!(!state.finished, "a call ends once");
            state.finished = true;
            if let Some((relay, tag)) = &self.relay {
                drop(state);
                return relay.ended(*tag, outcome, facts);
            }
            state.outcome = Some(outcome);
            let EndFacts {
                receipt,
                output,
                attempt,
            } = facts;
            state.attempt = attempt;
            if receipt.is_some() || output.is_some() {
                let extra = state.extra.get_or_insert_default();
                (extra.receipt, extra.output) = (receipt, output);
            }
            if let Some(extra) = &mut state.extra {
                wakers.append(&mut extra.watchers);
                wakers.append(&mut extra.progress.take_readers());
            }
            state.waker.take()
        };
        first.into_iter().chain(wakers).for_each(Waker::wake);
    }

    pub(crate) fn is_finished(&self) -> bool {
        lock(&self.state).finished
    }

    /// Takes the outcome, or the request of a call for which there is room now. Pending for ever
    /// once the outcome was taken.
    ///
    /// The wait for room is polled under the lock, so that a cancel finds the call either waiting
    /// or admitted. That cannot block: the wait is for a permit of a semaphore (`Shared::waiting`),
    /// which knows nothing of cells, and whose permits are given without the lock of any cell.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> CellPoll {
        let mut state = lock(&self.state);
        if let Some(outcome) = state.outcome.take() {
            if let Some(report) = outcome.as_ref().err().and_then(CallError::report) {
                let report = Box::new(report.clone());
                state.extra.get_or_insert_default().report = Some(report);
            }
            return CellPoll::Ended(outcome);
        }
        if let Some(extra) = &mut state.extra
            && let Some(waiting) = &mut extra.waiting
            && waiting.place.as_mut().poll(cx).is_ready()
            && let Some(waiting) = extra.waiting.take()
        {
            return CellPoll::HasRoom(waiting);
        }
        match &mut state.waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        CellPoll::Pending
    }

    /// The call waits for room in the queue.
    pub(super) fn wait_for_room(&self, waiting: WaitingCall) {
        lock(&self.state).extra.get_or_insert_default().waiting = Some(waiting);
    }

    /// The call, if it waits for room in the queue.
    pub(super) fn take_waiting(&self) -> Option<WaitingCall> {
        lock(&self.state).extra.as_mut()?.waiting.take()
    }

    /// Whether it is time to check the runtime of the pool. Wakes the task then.
    pub(super) fn poll_check(&self, cx: &mut Context<'_>) -> bool {
        let mut state = lock(&self.state);
        let check = &mut state.extra.get_or_insert_default().check;
        check.get_or_insert_with(RuntimeCheck::new).poll(cx)
    }

    /// Waits for the end without taking the outcome; gives the receipt if a stop ended it.
    pub(crate) fn poll_receipt(&self, waker: &Waker) -> Poll<Option<StopReceipt>> {
        let mut state = lock(&self.state);
        if state.finished {
            return Poll::Ready(state.extra.as_ref().and_then(|extra| extra.receipt.clone()));
        }
        let watchers = &mut state.extra.get_or_insert_default().watchers;
        if !watchers.iter().any(|known| known.will_wake(waker)) {
            watchers.push(waker.clone());
        }
        Poll::Pending
    }

    /// The report of the attempt that ended the call, if one did.
    pub(crate) fn report(&self) -> Option<Box<AttemptReport>> {
        let state = lock(&self.state);
        if let Some(Err(error)) = &state.outcome
            && let Some(report) = error.report()
        {
            return Some(Box::new(report.clone()));
        }
        let taken = state.extra.as_ref().and_then(|extra| extra.report.clone());
        taken.or_else(|| state.attempt.as_ref().map(AnsweredAttempt::report))
    }

    pub(crate) fn take_output(&self) -> Option<Output> {
        lock(&self.state).extra.as_mut()?.output.take()
    }

    pub(crate) fn update(&self, update: Progress) {
        if let Some((relay, tag)) = &self.relay {
            return relay.progressed(*tag, update);
        }
        let wakers = {
            let mut state = lock(&self.state);
            state.extra.get_or_insert_default().progress.push(update)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The next progress; `None` after the end.
    pub(crate) fn poll_update(&self, waker: &Waker) -> Poll<Option<Progress>> {
        let mut state = lock(&self.state);
        let finished = state.finished;
        let extra = state.extra.get_or_insert_default();
        extra.progress.poll(finished, waker)
    }
}

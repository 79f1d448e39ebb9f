//! [`ConsumerHandle`]: controls a running consumer and shows its state.
//!
//! `Control` is shared by a consumer and all of its handles, and owns what both sides see: the
//! pauses of this consumer, its counters, whether it asks for jobs, and two tokens, for draining
//! and for killing. The mutex is never held across an await.
//!
//! Invariants: the tokens are never reset, and killing implies draining. Each attempt counts as
//! unsettled until its `Unsettled` guard is dropped. A change of the pauses ends the request for
//! jobs that is under way, so that the next one asks for the right queues.
//!
//! A pause here is local to one consumer and reaches no broker; `Queue::pause` does that.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::served::Served;
use super::serving::Serving;
use super::turns::Paused;
use crate::sync::lock;

/// Controls a running [`Consumer`](crate::Consumer): get it with
/// [`Consumer::handle`](crate::Consumer::handle) before the consumer runs. Cheap to clone.
#[derive(Clone)]
pub struct ConsumerHandle(pub(super) Arc<Control>);

/// What a consumer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Jobs that it holds: they run, or wait for a worker process.
    pub held: usize,
    /// What it has done so far.
    pub served: Served,
    /// Queues that are paused here, by name.
    pub paused: Vec<String>,
    /// Whether it leases nothing more.
    pub draining: bool,
}

impl ConsumerHandle {
    /// Leases nothing more from this queue, in this consumer alone, until
    /// [`resume`](ConsumerHandle::resume); jobs that it has leased already run.
    /// [`Queue::pause`](crate::Queue::pause) pauses the queue in all consumers.
    pub fn pause(&self, queue: &str) {
        let mut state = lock(&self.0.state);
        Arc::make_mut(&mut state.paused).insert(queue.into());
        state.ask.cancel();
    }

    /// Ends a pause of this consumer.
    pub fn resume(&self, queue: &str) {
        let mut state = lock(&self.0.state);
        Arc::make_mut(&mut state.paused).remove(queue);
        state.ask.cancel();
    }

    /// What it is doing.
    pub fn stats(&self) -> ConsumerStats {
        let state = lock(&self.0.state);
        ConsumerStats {
            held: state.held,
            served: state.served,
            paused: state.paused.iter().map(ToString::to_string).collect(),
            draining: self.0.draining.is_cancelled(),
        }
    }

    /// Leases nothing more and lets running attempts finish within
    /// [`Consumer::drain_timeout`](crate::Consumer::drain_timeout), as the future given to
    /// [`Consumer::run_until`](crate::Consumer::run_until) does when it resolves.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Leases nothing more and stops running attempts at once, by SIGKILL; their jobs are given
    /// back, uncharged. In process, an attempt ends at its next await; one that reaches none within
    /// a second is left alone, and its job comes back when its lease runs out.
    pub fn kill(&self) {
        self.0.kill();
    }
}

impl fmt::Debug for ConsumerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConsumerHandle")
            .field(&self.stats())
            .finish()
    }
}

/// An attempt that is not settled.
pub(super) struct Unsettled(Arc<Control>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        lock(&self.0.state).unsettled -= 1;
        self.0.changed.notify_waiters();
    }
}

/// Shared by a consumer and its handles.
#[derive(Default)]
pub(super) struct Control {
    pub(super) draining: CancellationToken,
    pub(super) killing: CancellationToken,
    state: Mutex<ControlState>,
    /// Of `unsettled`, `asks` and `serving`.
    changed: Notify,
}

#[derive(Default)]
struct ControlState {
    paused: Paused,
    /// Ends the ask for jobs that is under way, because it asks for the wrong queues.
    ask: CancellationToken,
    held: usize,
    /// Attempts that are not settled.
    unsettled: usize,
    served: Served,
    /// Takes nothing for now: it reloads.
    back: bool,
    /// Whether it asks, as far as it is not full.
    asks: bool,
    serving: Option<Serving>,
}

impl Control {
    pub(super) fn kill(&self) {
        self.draining.cancel();
        self.killing.cancel();
    }

    /// The queues that are paused here; `None` if none may be asked. The token ends when that has
    /// changed, or nothing more is to be asked for.
    pub(super) fn paused(&self) -> (Option<Paused>, CancellationToken) {
        let mut state = lock(&self.state);
        let paused = (!state.back).then(|| Arc::clone(&state.paused));
        state.asks = !state.back;
        state.ask = self.draining.child_token();
        let ask = state.ask.clone();
        drop(state);
        self.changed.notify_waiters();
        (paused, ask)
    }

    pub(super) fn set_held(&self, held: usize) {
        lock(&self.state).held = held;
    }

    /// An attempt has begun; it ends with what is returned.
    pub(super) fn begin(self: &Arc<Self>) -> Unsettled {
        lock(&self.state).unsettled += 1;
        Unsettled(Arc::clone(self))
    }

    pub(super) fn serve(&self, serving: Serving) {
        lock(&self.state).serving = Some(serving);
        self.changed.notify_waiters();
    }

    /// Takes nothing more, or takes again.
    pub(super) fn step_back(&self, back: bool) {
        let mut state = lock(&self.state);
        state.back = back;
        state.ask.cancel();
    }

    /// What it serves, once it does.
    pub(super) async fn serving(&self) -> Serving {
        self.once(|state| state.serving.clone()).await
    }

    /// Waits until it neither asks for anything nor has anything.
    pub(super) async fn is_idle(&self) {
        self.once(|state| (!state.asks && state.unsettled == 0).then_some(()))
            .await;
    }

    /// Waits until no attempt is left that is not settled.
    pub(super) async fn is_settled(&self) {
        self.once(|state| (state.unsettled == 0).then_some(()))
            .await;
    }

    /// Waits until it asks again.
    pub(super) async fn takes(&self) {
        self.once(|state| state.asks.then_some(())).await;
    }

    async fn once<R>(&self, look: impl Fn(&ControlState) -> Option<R>) -> R {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&lock(&self.state)) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Served) -> &mut u64) {
        *count(&mut lock(&self.state).served) += 1;
    }

    pub(super) fn served(&self) -> Served {
        lock(&self.state).served
    }
}

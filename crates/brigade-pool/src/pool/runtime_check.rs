//! Whether the runtime that a pool lives on runs anything, for those who wait outside of it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Context;
use std::time::{Duration, Instant};

use futures_timer::Delay;
use futures_util::future::{Either, select};

/// How often a wait outside checks the runtime.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// Longer than any process runs.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Asks the runtime for a sign of life.
#[derive(Default)]
pub(super) struct RuntimeProbe(pub(super) Option<(Instant, Arc<AtomicBool>)>);

/// The timer of one who waits outside.
pub(super) struct RuntimeCheck(Delay);

impl RuntimeCheck {
    pub(super) fn new() -> Self {
        Self(Delay::new(LOOK))
    }

    /// Whether it is time to look. Wakes the task then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let due = Pin::new(&mut self.0).poll(cx).is_ready();
        if due {
            self.0.reset(LOOK);
            // Registers the waker for the next time.
            if Pin::new(&mut self.0).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        due
    }
}

/// The future's output, if it comes within this time. Needs no runtime.
pub(super) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    match select(pin!(future), Delay::new(time.min(FAR))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

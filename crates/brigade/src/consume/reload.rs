//! Live reload: one worker after the other stops taking, loads, and takes again, across all
//! processes that serve the same queues.
//!
//! ```text
//!   takes --- reload ---> waits for its turn (takes on) ---> takes nothing, what it has ends ---> loads ---> takes again, its turn is over
//! ```
//!
//! The broker keeps the turns (`broker::reload_lock`), one per queue: one that dies loses its turn with
//! its connection or its lease, and the next has it.

use std::sync::Arc;

use super::ConsumerHandle;
use super::control::Control;
use crate::broker::Broker;
use crate::error::{Error, ErrorKind};

/// What a worker serves, for its handles.
#[derive(Clone)]
pub(super) struct Serving {
    broker: Broker,
    /// Sorted: everybody takes turns in the same order, so nobody waits in a circle.
    queues: Arc<[Box<str>]>,
}

impl Serving {
    pub(super) fn of(broker: &Broker, mut queues: Vec<Box<str>>) -> Self {
        queues.sort();
        queues.dedup();
        Self {
            broker: broker.clone(),
            queues: queues.into(),
        }
    }
}

impl ConsumerHandle {
    /// Runs `load` while this worker takes nothing and nothing runs in it, and while no other
    /// worker of its queues does the same: call it in every process, and they load one after the
    /// other, while the others serve. What this worker runs already ends first; what it holds and
    /// has not begun is another's at once. It waits until the worker serves.
    ///
    /// # Errors
    ///
    /// `Closed` if the worker ends, `Unsupported` on a broker that has no turns, and what the
    /// broker says. Then `load` has not run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the turn to the next, and the worker takes again.
    pub async fn reload<F: Future>(&self, load: F) -> Result<F::Output, Error> {
        let ended = || Error::new(ErrorKind::Closed, "reload a worker that ends");
        let draining = &self.0.draining;
        let turns = async {
            let serving = self.0.serving().await;
            let mut turns = Vec::with_capacity(serving.queues.len());
            for queue in &*serving.queues {
                turns.push(serving.broker.reload_lock(queue).await?);
            }
            Ok::<_, Error>(turns)
        };
        let turns = draining
            .run_until_cancelled(turns)
            .await
            .ok_or_else(ended)??;
        let back = SteppedBack::new(&self.0);
        draining
            .run_until_cancelled(self.0.is_idle())
            .await
            .ok_or_else(ended)?;
        let loaded = load.await;
        drop(back);
        // Whoever is next must not stop taking before this one takes again.
        draining.run_until_cancelled(self.0.takes()).await;
        drop(turns);
        Ok(loaded)
    }
}

/// A worker that takes nothing until this is dropped.
struct SteppedBack<'a>(&'a Control);

impl<'a> SteppedBack<'a> {
    fn new(control: &'a Control) -> Self {
        control.step_back(true);
        Self(control)
    }
}

impl Drop for SteppedBack<'_> {
    fn drop(&mut self) {
        self.0.step_back(false);
    }
}

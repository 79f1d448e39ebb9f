//! Live reload: one consumer after the other stops leasing, loads, and leases again, across all
//! processes that serve the same queues.
//!
//! ```text
//!   takes --- reload ---> waits for its turn (takes on) ---> takes nothing, what it has ends ---> loads ---> takes again, its turn is over
//! ```
//!
//! The broker keeps the turns (`broker::reload_lock`), one per queue: a consumer that dies loses
//! its turn with its connection or its lease, and the next one gets it.

use super::control::{ConsumerHandle, Control};
use crate::error::{Error, ErrorKind};

impl ConsumerHandle {
    /// Runs `load` while this consumer leases nothing and runs nothing, and while no other consumer
    /// of its queues does the same. Call it in every process: they load one after the other, while
    /// the others serve. Running attempts end first; jobs that have not begun go back to other
    /// consumers at once. It waits until the consumer serves.
    ///
    /// # Errors
    ///
    /// `Closed` if the consumer ends, `Unsupported` at a broker without turns, and the broker's
    /// errors. Then `load` has not run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future passes the turn on, and the consumer leases again.
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
        // The next consumer must not stop leasing before this one leases again.
        draining.run_until_cancelled(self.0.takes()).await;
        drop(turns);
        Ok(loaded)
    }
}

/// A consumer that leases nothing until this is dropped.
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

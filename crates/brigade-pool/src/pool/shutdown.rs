//! The end of a pool: accepted calls finish or are stopped, then the workers go.
//!
//! A shutdown has one order: take nothing new, wait until no call is left, stop what is left when
//! the time is over, let the workers go, wait until their processes are gone. Where the pool's
//! runtime is not driven, nothing of that can happen, and what can be done without it is done
//! (`outside`). It is safe to begin twice.

use std::time::{Duration, Instant};

use super::Pool;
use super::core::Stage;
use super::runtime_check::within;
use crate::error::Error;

/// What a shutdown came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Whether every accepted call could finish in time.
    pub drained: bool,
    /// How long it took until the last worker was gone.
    pub took: Duration,
    /// Processes of workers that could not be ended in the life of this pool, up to 1,024: they run
    /// as a user whom this program may not signal, or the kernel holds them.
    pub left: Vec<u32>,
    /// Descendants that left their worker's process group could not be looked for, because `/proc`
    /// does not show the processes of this PID namespace. Otherwise nothing but
    /// [`left`](Shutdown::left) is left.
    pub left_unseen: bool,
}

/// How long a shutdown waits for workers' last output to be written.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(1);

impl Pool {
    /// Takes nothing new, lets accepted calls finish (waiting ones too) for as long as
    /// [`Builder::shutdown_timeout`](crate::Builder::shutdown_timeout) says, stops the rest, ends
    /// the workers; one that is still starting by then is given
    /// [`Builder::teardown_timeout`](crate::Builder::teardown_timeout). Returns when every process
    /// is gone, and reports those that could not be ended ([`Shutdown::left`]). Safe to call twice,
    /// and on any executor: where the pool's own runtime is not driven, workers are killed at once
    /// and every call ends as [`NoRuntime`](crate::error::ErrorKind::NoRuntime).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pool closed to new calls; call it again to go on.
    pub async fn shutdown(&self) -> Shutdown {
        self.shutdown_within(self.shared().config.shutdown_timeout)
            .await
    }

    /// Stops everything at once: `shutdown_within(Duration::ZERO)`. Attempts still get the steps of
    /// the kill ladder.
    pub async fn kill(&self) -> Shutdown {
        self.shutdown_within(Duration::ZERO).await
    }

    /// As [`shutdown`](Pool::shutdown), with this much time for accepted calls.
    pub async fn shutdown_within(&self, time: Duration) -> Shutdown {
        let (shared, began) = (self.shared(), Instant::now());
        shared.step(|core, effects| core.advance(Stage::Draining, effects));
        shared.room.close();
        let (drained, undriven) = match self.end_within(time).await {
            Ok(drained) => (drained, Vec::new()),
            Err(error) => (false, shared.end_undriven(&error).await),
        };
        // A terminal that takes nothing must not keep the caller.
        within(CONSOLE_TIMEOUT, crate::process::flush_console()).await;
        let (mut left, left_unseen) = shared.peek(|core| core.left());
        left.extend(undriven);
        Shutdown {
            drained,
            took: began.elapsed(),
            left,
            left_unseen,
        }
    }

    /// Lets accepted calls finish for so long, stops the rest and lets the workers go. Returns
    /// whether all could finish.
    async fn end_within(&self, time: Duration) -> Result<bool, Error> {
        let shared = self.shared();
        let empty = || shared.until(|core| core.is_empty().then_some(()));
        let drained = within(time, empty()).await.transpose()?.is_some();
        if !drained {
            shared.step(|core, effects| core.stop_all(effects));
            empty().await?;
        }
        shared.step(|core, effects| {
            core.advance(Stage::Closed, effects);
            core.retire_all(effects);
        });
        shared.scope.close();
        shared.driven(shared.scope.ended()).await?;
        Ok(drained)
    }
}

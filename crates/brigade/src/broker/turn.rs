//! Turns: of all processes that want one of the same name, one has it at a time.
//!
//! A broker may know how to give them ([`Backend::turn`](super::Backend::turn)). Otherwise the turn
//! is a job with a unique key in a queue of its own: whoever holds its lease has the turn, and
//! gives it back. A process that dies loses its lease.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Broker, Lease, Settled};
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::shutdown::Scope;

/// A turn; dropping it gives it to the next.
#[derive(Debug)]
pub(crate) struct Turn(
    #[expect(dead_code, reason = "dropped, it tells whoever keeps the turn")] DropGuard,
);

/// How long a turn outlives a process that died.
const LEASE: Duration = Duration::from_secs(20);
/// One wait.
const WAIT: Duration = Duration::from_secs(5);

impl Turn {
    /// It is over when the token is cancelled, which happens when it is dropped.
    pub(super) fn until(over: CancellationToken) -> Self {
        Self(over.drop_guard())
    }
}

impl Broker {
    /// Waits for the turn of a queue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the row of those who wait.
    pub(crate) async fn turn(&self, queue: &str) -> Result<Turn, Error> {
        if let Some(turn) = self.backend().turn(queue) {
            return turn.await;
        }
        if !self.capabilities().unique {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "wait for a turn: this broker has neither turns nor unique keys",
            ));
        }
        let name = format!("brigade.turn.{queue}");
        let queue = self.queue(&*name);
        let lease = loop {
            // It is there already, but for the very first one.
            self.push(Job::new(&*name, None, "null").unique("turn"))
                .await?;
            if let Some(lease) = queue.lease(LEASE, WAIT).await? {
                break lease;
            }
        };
        let over = CancellationToken::new();
        let scope = Scope::current().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "wait for a turn outside of an async runtime (tokio)",
            )
        })?;
        scope.spawn(keep(lease, over.clone()));
        Ok(Turn::until(over))
    }
}

/// Holds the lease until the turn is over, and gives it back.
async fn keep(lease: Lease, over: CancellationToken) {
    while over.run_until_cancelled(sleep(LEASE / 3)).await.is_some() {
        match lease.extend(LEASE).await {
            Ok(Settled::Accepted(_)) => {}
            Ok(Settled::Stale) => {
                return tracing::warn!(queue = lease.queue(), "a turn was lost before it was over");
            }
            Err(error) => {
                tracing::warn!(%error, queue = lease.queue(), "could not keep a turn; trying again")
            }
        }
    }
    if let Err(error) = lease.pass("its turn is over").await {
        tracing::warn!(%error, "could not give a turn back: the next has it when its lease runs \
            out");
    }
}

//! Locks of a broker: of all processes that want the lock of a queue, one has it at a time.
//!
//! A store may have locks of its own ([`ReloadLock`](crate::store::ReloadLock)). Otherwise the lock
//! is a job with a unique key in a queue of its own: the holder of its lease has the lock. A
//! process that dies loses its lease, and with it the lock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Broker, Lease};
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::shutdown::Scope;
use crate::store::{ReloadGuard, Settled};

/// How long a lock outlives a process that died.
const LEASE: Duration = Duration::from_secs(20);
/// One wait.
const WAIT: Duration = Duration::from_secs(5);

impl Broker {
    /// Waits for the lock of a queue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line of waiting processes.
    pub(crate) async fn reload_lock(&self, queue: &str) -> Result<ReloadGuard, Error> {
        if let Some(locks) = Arc::clone(self.store()).reload_lock() {
            return locks.lock(queue).await;
        }
        if !self.capabilities().unique {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "wait for the lock of a reload: this broker has neither locks nor unique keys",
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
                "wait for the lock of a reload outside of an async runtime (tokio)",
            )
        })?;
        scope.spawn(keep(lease, over.clone()));
        Ok(ReloadGuard::new(over))
    }
}

/// Extends the lease until the lock is released, and then gives it back.
async fn keep(lease: Lease, over: CancellationToken) {
    while over.run_until_cancelled(sleep(LEASE / 3)).await.is_some() {
        match lease.extend(LEASE).await {
            Ok(Settled::Accepted(_)) => {}
            Ok(Settled::Stale) => {
                return tracing::warn!(
                    queue = lease.queue(),
                    "the lock of a reload was lost before it was released"
                );
            }
            Err(error) => {
                tracing::warn!(%error, queue = lease.queue(), "could not keep the lock of a reload; trying again")
            }
        }
    }
    if let Err(error) = lease.pass("the lock was released").await {
        tracing::warn!(%error, "could not release the lock of a reload: the next process has \
            it when its lease runs out");
    }
}

//! [`ReloadLock`]: a lock per queue, of which one process has each at a time.
//!
//! Consumers take it to reload one after another (`ConsumerHandle::reload`). A store without one
//! ([`JobStore::reload_lock`](super::JobStore::reload_lock) is `None`) can still do this where it
//! has unique keys: `Broker` then leases a job with a unique key for as long as it holds the lock.

use tokio_util::sync::{CancellationToken, DropGuard};

use super::reply::Reply;

/// Gives out locks.
///
/// - Processes get the lock of a queue in the order in which they asked.
/// - A process that dies loses its locks.
/// - Dropping the future leaves the line of waiting processes.
pub trait ReloadLock: Send + Sync {
    /// Waits for the lock of a queue.
    fn lock<'a>(&'a self, queue: &'a str) -> Reply<'a, ReloadGuard>;
}

/// A lock that is held. Dropping it releases the lock.
#[derive(Debug)]
pub struct ReloadGuard {
    _released: DropGuard,
}

impl ReloadGuard {
    /// A lock that is released by cancelling this token, which the drop of the guard does.
    pub fn new(released: CancellationToken) -> Self {
        Self {
            _released: released.drop_guard(),
        }
    }
}

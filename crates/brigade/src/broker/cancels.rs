//! Cancels on their way to the holders of leases: a holder learns of them long before it extends
//! its lease.
//!
//! One per broker, shared by all its consumers and leases. However many of them learn of a change,
//! one request to the broker serves all, and at most one every [`LOOK_PAUSE`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::Error;
use crate::store::{CancelRequest, JobStore};

/// Between two requests: short for a caller that waits for a stop, long for the broker.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// After a broker's error.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Cancels {
    store: Arc<dyn JobStore>,
    last: Mutex<Option<Look>>,
}

struct Look {
    /// When it was begun.
    at: Instant,
    found: Arc<[CancelRequest]>,
}

impl Cancels {
    pub(super) fn new(store: Arc<dyn JobStore>) -> Self {
        Self {
            store,
            last: Mutex::default(),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn JobStore> {
        &self.store
    }

    /// The cancel requests now. Cancel safe.
    pub(crate) async fn look(&self) -> Result<Arc<[CancelRequest]>, Error> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(look) = &*last {
            if look.at >= asked {
                return Ok(Arc::clone(&look.found));
            }
            sleep_until(look.at + LOOK_PAUSE).await;
        }
        let at = Instant::now();
        let found: Arc<[CancelRequest]> = self.store.cancel_requests().await?.into();
        *last = Some(Look {
            at,
            found: Arc::clone(&found),
        });
        Ok(found)
    }

    /// Goes through the cancel requests, now and after each change while `wants` is true, until
    /// `pick` finds one. Cancel safe.
    pub(crate) async fn find<R>(
        &self,
        wants: impl Fn() -> bool,
        mut pick: impl FnMut(&CancelRequest) -> Option<R>,
    ) -> R {
        loop {
            let changed = self.store.changed();
            let looked = async {
                let found = if wants() {
                    self.look().await?.iter().find_map(&mut pick)
                } else {
                    None
                };
                if found.is_none() {
                    changed.await?;
                }
                Ok::<_, Error>(found)
            };
            match looked.await {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not look for cancels; trying again");
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}

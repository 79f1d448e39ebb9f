//! The manager: jobs for clients that know nothing but the broker.

use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;

use super::Broker;
use crate::error::Error;
use crate::policy::check_name;
use crate::store::Managed;

/// Gives a queue's jobs to plain clients, see [`Broker::manager`].
#[derive(Clone, Debug)]
#[must_use = "a manager does nothing until it runs"]
pub struct Manager {
    broker: Broker,
    queue: Box<str>,
    collect_within: Duration,
}

/// After an error of the broker.
const PAUSE: Duration = Duration::from_millis(200);
/// Looked at in any case after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Broker {
    /// A manager of a queue, for clients of any language that speak the broker's own protocol. On
    /// Redis a client says that it is free with `RPUSH brigade:{emails}:free <id>` and waits for
    /// its job with `BLPOP brigade:{emails}:to:<id>`; the manager hands jobs to free clients in the
    /// order in which they asked. A job is removed when its client has collected it; a job that is
    /// not collected in time goes back to the head of the queue. Several managers may serve one
    /// queue.
    ///
    /// A client that asks again before it was given a job counts once. One that wants several jobs
    /// at once asks by several ids.
    pub fn manager(&self, queue: impl Into<Box<str>>) -> Manager {
        Manager {
            broker: self.clone(),
            queue: queue.into(),
            collect_within: Duration::from_secs(60),
        }
    }
}

impl Manager {
    /// How long a client may take to collect a job. Default: 60 s; at least 1 s.
    pub fn collect_within(mut self, time: Duration) -> Self {
        self.collect_within = time.max(Duration::from_secs(1));
        self
    }

    /// Hands out jobs until `stop` resolves, what there is at once in any case. Returns how many.
    ///
    /// # Errors
    ///
    /// `Unsupported` on a broker without plain clients, `BadOption` for a bad name. The manager
    /// logs other errors of the broker and tries again.
    pub async fn run_until<S>(self, stop: impl Future<Output = S>) -> Result<u64, Error> {
        check_name("queue", &self.queue)?;
        let store = self.broker.store();
        let mut stop = std::pin::pin!(stop);
        let mut handed = 0;
        loop {
            let changed = store.changed();
            let pause = match store.manage(&self.queue, self.collect_within).await {
                Ok(Managed {
                    handed: count,
                    next,
                }) => {
                    handed += count;
                    next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, queue = %self.queue, "could not manage a queue; trying \
                        again");
                    tokio::select! {
                        _ = &mut stop => return Ok(handed),
                        () = sleep(PAUSE) => continue,
                    }
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                _ = &mut stop => return Ok(handed),
                _ = changed => {}
                () = sleep(pause) => {}
            }
        }
    }
}

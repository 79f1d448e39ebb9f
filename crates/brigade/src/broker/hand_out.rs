//! Handing out and settling without a handle: [`Broker::lease`], [`Broker::settle`].

use super::lease::settle;
use super::{Broker, Lease};
use crate::error::Error;
use crate::job::JobId;
use crate::policy::check_name;
use crate::store::{Disposition, LeaseRequest, Settled};

impl Broker {
    /// Jobs of several queues, or several jobs at once, on leases; none if no job comes within the
    /// wait of the request. [`Queue::lease`](crate::Queue::lease) is this for one job of one queue.
    ///
    /// In the mode [`Take`](crate::store::DeliveryMode::Take) the jobs are gone from their queues,
    /// and a settlement of their leases is [`Settled::Stale`].
    ///
    /// # Errors
    ///
    /// `BadOption` for a name that no queue can have, and
    /// [errors of the broker](Broker#errors-of-a-broker).
    ///
    /// # Cancel safety
    ///
    /// A leased job that is on its way when the future is dropped comes back when its lease runs
    /// out, and a taken one is gone: end the wait with [`LeaseRequest::enough`] instead.
    pub async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, Error> {
        for queue in request.queues.iter() {
            check_name("queue", queue)?;
        }
        let request = LeaseRequest {
            mode: request.mode.bounded(),
            ..request
        };
        let leased = self.store().lease(request).await?;
        let lease = |leased| Lease {
            cancels: self.cancels(),
            leased,
        };
        Ok(leased.into_iter().map(lease).collect())
    }

    /// Settles a lease by its job and its [token](Lease::token), for a holder that kept no
    /// [`Lease`]: it may have restarted since. RabbitMQ accepts it only on the connection that the
    /// lease was handed out on.
    ///
    /// ```
    /// # use brigade::{Broker, Error, JobId, Settled, store::Disposition};
    /// # async fn example(broker: Broker, id: JobId, token: i64) -> Result<(), Error> {
    /// match broker.settle(&id, token, Disposition::ack(None)).await? {
    ///     Settled::Accepted(_) => println!("done"),
    ///     Settled::Stale => println!("the lease had run out: another holder may have the job"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Lease::ack`].
    pub async fn settle(
        &self,
        id: &JobId,
        token: i64,
        disposition: Disposition,
    ) -> Result<Settled, Error> {
        settle(self.store(), id, token, disposition).await
    }
}

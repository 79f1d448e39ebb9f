//! Announcing consumers that are not [`Consumer`](crate::Consumer)s of this process.

use std::time::Duration;

use super::Broker;
use crate::error::Error;
use crate::store::LiveConsumer;

impl Broker {
    /// Lists a consumer for this time from now on, in place of what was announced by its id before.
    /// A [`Consumer`](crate::Consumer) announces itself; this is for programs that hand out jobs to
    /// others, as a server does. A minute is a good time, with an announcement every 20 seconds and
    /// a moment after each change.
    ///
    /// On SQLite and RabbitMQ it is listed no longer than this process runs.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`consumers`](crate::Capabilities::consumers), and
    /// [errors of the broker](Broker#errors-of-a-broker).
    pub async fn announce_consumer(
        &self,
        consumer: &LiveConsumer,
        lasts: Duration,
    ) -> Result<(), Error> {
        self.store().announce_consumer(consumer, lasts).await
    }

    /// Takes a consumer that was announced off the list.
    ///
    /// # Errors
    ///
    /// As [`announce_consumer`](Self::announce_consumer).
    pub async fn retire_consumer(&self, consumer: &LiveConsumer) -> Result<(), Error> {
        self.store().retire_consumer(consumer).await
    }
}

//! The broker in between: RabbitMQ, 3.10 or newer.
//!
//! From below: `url` (where it is, and how to use it), `reach` (opening a connection), `fault` (what errors mean), `link` (the supervisor: a
//! connection that is made again), `publish` (confirmed messages).
//!
//! Two connections: one publishes, the other takes and acks. The broker stops reading from a connection that publishes while it is short of
//! memory or disk, and acks are what relieves it.

mod fault;
mod link;
mod publish;
mod reach;
mod url;

use std::sync::Arc;

use self::link::Link;
use self::publish::Publisher;
use self::url::{Place, Queues};
use super::{Backend, Capabilities, LeaseAsk, Leased, Order, Ordered, Pushed, Query, Reply, Settled, Settlement, View};
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::shutdown::Scope;

/// What RabbitMQ 4 allows by itself (`max_message_size`).
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

pub(super) struct RabbitMq {
    place: Arc<Place>,
    /// What publishes.
    out: Link,
    /// What takes and acks.
    hands: Link,
    publisher: Publisher,
    scope: Scope,
}

pub(super) async fn connect(url: &str) -> Result<Arc<dyn Backend>, Error> {
    let scope = Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "open a broker outside of an async runtime (tokio)"))?;
    let place = Arc::new(Place::parse(url)?);
    let (out, hands) = tokio::try_join!(Link::connect(&place, "publish", &scope), Link::connect(&place, "take", &scope))?;
    let publisher = Publisher::start(&place, &out, &scope);
    Ok(Arc::new(RabbitMq { place, out, hands, publisher, scope }))
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.scope.close();
    }
}

fn unsupported<T>(what: &str) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Unsupported, format!("{what}: RabbitMQ cannot do that")))
}

impl Backend for RabbitMq {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            listing: false,
            scheduling: true,
            schedules: false,
            priorities: matches!(self.place.queues, Queues::Priorities(_)),
            keys: false,
            unique: false,
            limits: false,
            manager: false,
            flows: false,
            results: false,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }

    fn push(&self, _: Vec<Job>) -> Reply<'_, Vec<Pushed>> {
        Box::pin(async { unsupported("push") })
    }

    fn lease(&self, _: LeaseAsk) -> Reply<'_, Vec<Leased>> {
        Box::pin(async { unsupported("lease") })
    }

    fn settle(&self, _: Vec<Settlement>) -> Reply<'_, Vec<Settled>> {
        Box::pin(async { unsupported("settle") })
    }

    fn look(&self, _: Query) -> Reply<'_, View> {
        Box::pin(async { unsupported("look") })
    }

    fn order(&self, _: Order) -> Reply<'_, Ordered> {
        Box::pin(async { unsupported("order") })
    }

    fn changed(&self) -> Reply<'_, ()> {
        Box::pin(async {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            Ok(())
        })
    }
}

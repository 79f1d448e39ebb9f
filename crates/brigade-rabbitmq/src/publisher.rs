//! Publishing with confirms.
//!
//! One [`ConfirmPublisher`] publishes by one channel at a time, without waiting for one confirm
//! before it sends the next message. It keeps each request until the broker has confirmed it, and
//! publishes it again, with the same ids, on the next channel if it had not. There are four, so
//! that none waits for another: two for jobs (the second for queues whose confirms may take their
//! time), one for requests of calls, one for answers.
//!
//! Each message has a [`PublishPolicy`]: whether a queue has to take it, for how long it is
//! published again, who hears of its outcome. A publisher only reports outcomes. What follows from
//! one (the queue is declared and the message sent again, another message goes in its place) is
//! decided by the code that waits for it, or by the owner of the message: no task waits for each
//! call. A message that the broker returned, as its queue does not exist, has the outcome
//! `Unroutable`, although the broker confirms it too.
//!
//! Bounds: [`WAITING_MAX`] groups of requests wait to be sent, then their senders wait. In
//! `channel`: the requests and bytes that are sent and not confirmed.

mod channel;
mod request;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::channel::{ChannelPublisher, ConnectionSetup};
pub(super) use self::request::{Message, MessageOwner, PublishPolicy, PublishRequest, Published};
use super::fault::AmqpFault;
use super::link::Link;
use super::url::RabbitMqConfig;
use crate::error::ErrorKind;
use crate::shutdown::Scope;

/// Groups of requests that wait to be sent.
const WAITING_MAX: usize = 1024;

/// Where requests are handed over. Cheap to clone.
#[derive(Clone)]
pub(super) struct ConfirmPublisher(mpsc::Sender<Vec<PublishRequest>>);

impl ConfirmPublisher {
    /// Publishes what is handed over, for as long as the broker is there.
    pub(super) fn start(config: &Arc<RabbitMqConfig>, link: &Link, scope: &Scope) -> Self {
        Self::start_prepared(None, config, link, scope)
    }

    /// The same, with what has to be done on each connection before anything is published by it.
    pub(super) fn start_prepared(
        setup: Option<Box<ConnectionSetup>>,
        config: &Arc<RabbitMqConfig>,
        link: &Link,
        scope: &Scope,
    ) -> Self {
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        let publisher = ChannelPublisher::new(setup, config, link, inbox);
        scope.spawn_until_closed(publisher.run());
        Self(sender)
    }

    /// Hands a request over now.
    ///
    /// # Errors
    ///
    /// Gives it back if there is no room, or the broker was dropped.
    pub(super) fn try_send(&self, request: PublishRequest) -> Result<(), Box<PublishRequest>> {
        self.0.try_send(vec![request]).or_else(|left| {
            let left = left.into_inner().pop();
            left.map_or(Ok(()), |request| Err(Box::new(request)))
        })
    }

    /// Hands a request over when there is room. Nothing happens if the broker was dropped. Cancel
    /// safe: then nothing was handed over.
    pub(super) async fn send(&self, request: PublishRequest) {
        self.0.send(vec![request]).await.ok();
    }

    /// Publishes these in this order; one outcome for each, at the latest at that moment.
    ///
    /// # Cancel safety
    ///
    /// Messages that were handed over are published even if no caller waits for the outcome.
    pub(super) async fn publish(
        &self,
        messages: Vec<Arc<Message>>,
        give_up_at: Instant,
    ) -> Vec<Published> {
        if messages.is_empty() {
            return Vec::new();
        }
        let request = |message| PublishRequest::new(message, PublishPolicy::until(give_up_at));
        self.publish_all(messages.into_iter().map(request)).await
    }

    /// The same for messages with policies of their own.
    pub(super) async fn publish_all(
        &self,
        requests: impl IntoIterator<Item = PublishRequest>,
    ) -> Vec<Published> {
        let closed = |uncertain| Published::Failed {
            fault: AmqpFault::new(ErrorKind::Closed, "the broker was dropped"),
            uncertain,
        };
        let requests = requests.into_iter().map(PublishRequest::watched);
        let (requests, waiting): (Vec<_>, Vec<_>) = requests.unzip();
        if self.0.send(requests).await.is_err() {
            return vec![closed(false); waiting.len()];
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for outcome in waiting {
            outcomes.push(outcome.await.unwrap_or_else(|_| closed(true)));
        }
        outcomes
    }
}

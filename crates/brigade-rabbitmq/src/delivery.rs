//! One delivery of a message: of one channel, and gone with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::consumer_channel::{AckAction, ConsumerChannel, Room};
use super::fault::AmqpFault;

#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) opened: Arc<ConsumerChannel>,
    pub(super) tag: u64,
    /// The subscription that it came by; none if it was asked for.
    subscription: Option<Room>,
    /// From when on the broker counts the time that it may be held.
    since: Instant,
}

impl Delivery {
    pub(super) fn new(opened: &Arc<ConsumerChannel>, tag: u64, subscription: Option<Room>) -> Self {
        opened.note(tag);
        if let Some((subscriptions, number)) = &subscription {
            subscriptions.take_room(*number);
        }
        Self {
            opened: Arc::clone(opened),
            tag,
            subscription,
            since: Instant::now(),
        }
    }

    /// Whether it still is this process's; if not, the broker gives it to others.
    pub(super) fn is_alive(&self) -> bool {
        self.opened.is_alive()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.tag == other.tag && self.opened.number == other.opened.number
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The number of the subscription that it came by.
    pub(super) fn subscription(&self) -> Option<u64> {
        self.subscription.as_ref().map(|(_, number)| *number)
    }

    /// Acks it. Returns when the broker has read the ack.
    ///
    /// # Errors
    ///
    /// If the channel ended before: the broker may have read it or not.
    pub(super) async fn ack(&self) -> Result<(), AmqpFault> {
        self.acknowledge(AckAction::Ack).await
    }

    /// Goes back to its queue. Returns, and fails, as [`ack`](Self::ack).
    pub(super) async fn requeue(&self) -> Result<(), AmqpFault> {
        self.acknowledge(AckAction::Requeue).await
    }

    async fn acknowledge(&self, action: AckAction) -> Result<(), AmqpFault> {
        let room = self.subscription.clone();
        self.opened.acknowledge(self.tag, action, room).await
    }

    /// Ends the subscription that it came by, so that the broker sends no other job when it is
    /// acked.
    pub(super) async fn close_subscription(&self) {
        let closed = self.subscription.as_ref();
        let tag = closed.and_then(|(subscriptions, number)| subscriptions.close(*number));
        if let Some(tag) = tag {
            let ConsumerChannel {
                connection,
                channel,
                ..
            } = &*self.opened;
            // It ends with its channel in any case.
            connection.cancel(channel, tag).await.ok();
        }
    }
}

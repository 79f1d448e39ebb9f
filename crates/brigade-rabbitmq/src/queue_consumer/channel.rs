//! The channel that jobs of a queue come by: how it is opened, and what its end means.
//!
//! With a channel go all deliveries that came by it: what is ready is dropped, leases are lost, and
//! the broker gives the jobs to others. A queue that was deleted ends only what came from it, if
//! other queues share the channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapin::options::BasicGetOptions;
use tokio::sync::oneshot;

use super::super::RabbitMqCore;
use super::super::consumer_channel::ConsumerChannel;
use super::super::fault::Fault;
use super::super::lease_table::Delivery;
use super::super::link::LiveConnection;
use super::QueueConsumer;
use crate::error::ErrorKind;
use crate::sync::lock;

impl QueueConsumer {
    /// Asks the broker for one job now; `false` if there is none.
    pub(in super::super) async fn fetch(
        self: &Arc<Self>,
        core: &Arc<RabbitMqCore>,
    ) -> Result<bool, Fault> {
        let (opened, _) = self.opened(core).await?;
        let (source, core, (tell, told)) = (Arc::clone(self), Arc::clone(core), oneshot::channel());
        let scope = core.scope.clone();
        // In a task of its own: what is on its way when the ask is dropped must be noted.
        scope.spawn_until_closed(async move {
            let name = core.storage.topology.name(&source.kind);
            let options = BasicGetOptions { no_ack: false };
            let getting = opened.channel.basic_get(name, options);
            let answer = match opened.connection.answer(getting).await {
                Ok(None) => Ok(false),
                Ok(Some(message)) => {
                    source.arrived(&core, &opened, 0, message.delivery);
                    Ok(true)
                }
                Err(fault) => {
                    source.fail(&core, &opened, &fault);
                    Err(fault)
                }
            };
            tell.send(answer).ok();
        });
        told.await
            .unwrap_or_else(|_| Err(Fault::new(ErrorKind::Closed, "the broker was dropped")))
    }

    /// The channel there is, or a new one; the queue is there then, and its jobs are counted.
    pub(super) async fn opened(
        &self,
        core: &Arc<RabbitMqCore>,
    ) -> Result<(Arc<ConsumerChannel>, Option<u32>), Fault> {
        let _opening = self.opening.lock().await;
        if let Some(opened) = lock(&self.state)
            .opened
            .as_ref()
            .filter(|opened| opened.is_alive())
        {
            return Ok((Arc::clone(opened), None));
        }
        let connection = core.consume_link.connection().await?;
        let count = self.count(core, &connection).await?;
        let name = core.storage.topology.name(&self.kind);
        core.served.is_heard(&name).await;
        let opened = core
            .consumers
            .channels
            .open(core, connection, self.is_alone.load(Ordering::Relaxed))
            .await?;
        let before = lock(&self.state).opened.replace(Arc::clone(&opened));
        if let Some(before) = before {
            self.end(core, &before);
        }
        Ok((opened, Some(count)))
    }

    /// Declares the queue; how many jobs wait in it.
    pub(super) async fn count(
        &self,
        core: &RabbitMqCore,
        connection: &LiveConnection,
    ) -> Result<u32, Fault> {
        core.storage
            .topology
            .count_on(connection, &self.kind)
            .await
            .map(|(_, count)| count)
    }

    /// Something went wrong on a channel: it is over.
    pub(super) fn fail(&self, core: &RabbitMqCore, opened: &Arc<ConsumerChannel>, fault: &Fault) {
        tracing::warn!(%fault, queue = self.queue, "a channel that took jobs failed");
        core.learn(fault);
        self.end(core, opened);
    }

    /// A channel is over, and all that came by it is another's by now.
    pub(super) fn end(&self, core: &RabbitMqCore, opened: &Arc<ConsumerChannel>) {
        opened.dead.cancel();
        {
            let mut state = lock(&self.state);
            state
                .ready
                .retain(|(delivery, _)| delivery.opened.number != opened.number);
            if state
                .opened
                .as_ref()
                .is_none_or(|current| current.number == opened.number)
            {
                state.opened = None;
                state.subscriptions.clear();
            }
        }
        core.leases.lose(opened.number, None);
        self.poke.notify_one();
    }

    /// The queue was deleted: what was taken from it is gone. Others that take by the same channel
    /// go on.
    pub(super) fn begin_anew(&self, core: &RabbitMqCore, opened: &Arc<ConsumerChannel>) {
        if !opened.is_shared {
            return self.end(core, opened);
        }
        {
            let mut state = lock(&self.state);
            state
                .ready
                .retain(|(delivery, _)| delivery.opened.number != opened.number);
            state.opened = None;
            state.subscriptions.clear();
        }
        core.leases.lose(opened.number, Some(&self.queue));
        self.poke.notify_one();
    }

    /// Nothing more will be said of it.
    pub(in super::super) fn released(&self, delivery: &Delivery) {
        let mut state = lock(&self.state);
        if let Some(subscription) = state
            .subscriptions
            .iter_mut()
            .find(|subscription| subscription.number == delivery.subscription)
        {
            subscription.taken = subscription.taken.saturating_sub(1);
            // The broker may be sending the next one.
            subscription.is_fenced = false;
        }
        state.releases += 1;
        drop(state);
        self.poke.notify_one();
    }

    /// Ends the consumer that this came by, so that nothing is sent in its stead when it is acked.
    pub(in super::super) async fn close_consumer(&self, delivery: &Delivery) {
        let tag = {
            let mut state = lock(&self.state);
            let subscription = state
                .subscriptions
                .iter_mut()
                .find(|subscription| subscription.number == delivery.subscription);
            subscription.and_then(|subscription| {
                std::mem::take(&mut subscription.is_open).then(|| subscription.tag.clone())
            })
        };
        let Some(tag) = tag else { return };
        let opened = &delivery.opened;
        // It ends with its channel in any case.
        opened.connection.cancel(&opened.channel, tag).await.ok();
    }
}

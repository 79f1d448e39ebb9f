//! The channel of a queue consumer: how it is opened, and what its end means.
//!
//! All deliveries of a channel end with it: ready jobs are dropped, leases are lost, and the broker
//! gives the jobs to other consumers. If several queues share a channel, a queue that was deleted
//! ends only its own deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapin::options::BasicGetOptions;
use tokio::sync::oneshot;

use super::super::consumer_channel::ConsumerChannel;
use super::super::fault::AmqpFault;
use super::super::link::LiveConnection;
use super::QueueConsumer;
use crate::error::ErrorKind;
use crate::sync::lock;

impl QueueConsumer {
    /// Asks the broker for one job now; `false` if there is none.
    pub(in super::super) async fn fetch(self: &Arc<Self>) -> Result<bool, AmqpFault> {
        let (opened, _) = self.opened().await?;
        let (source, (sender, outcome)) = (Arc::clone(self), oneshot::channel());
        let scope = &self.intake.scope;
        // In a task of its own: a job on its way when the ask is dropped must be noted.
        scope.spawn_until_closed(async move {
            let name = source.intake.storage.topology.name(&source.kind);
            let options = BasicGetOptions { no_ack: false };
            let getting = opened.channel.basic_get(name, options);
            let answer = match opened.connection.answer(getting).await {
                Ok(None) => Ok(false),
                Ok(Some(message)) => {
                    let tag = message.delivery.delivery_tag;
                    source.arrived(&opened, None, message.delivery);
                    source.until_in_order(&opened, tag).await;
                    Ok(true)
                }
                Err(fault) => {
                    source.fail(&opened, &fault);
                    Err(fault)
                }
            };
            sender.send(answer).ok();
        });
        outcome
            .await
            .unwrap_or_else(|_| Err(AmqpFault::new(ErrorKind::Closed, "the broker was dropped")))
    }

    /// Returns when all deliveries up to this one have come, or the channel is over.
    async fn until_in_order(&self, opened: &ConsumerChannel, tag: u64) {
        let have_come = async {
            loop {
                let mut news = std::pin::pin!(self.intake.news.notified());
                news.as_mut().enable();
                if opened.has_noted(tag) {
                    return;
                }
                news.await;
            }
        };
        opened.dead.run_until_cancelled(have_come).await;
    }

    /// The channel there is, or a new one; the queue is there then, and its jobs are counted.
    pub(super) async fn opened(&self) -> Result<(Arc<ConsumerChannel>, Option<u32>), AmqpFault> {
        let intake = &*self.intake;
        let _opening = self.opening.lock().await;
        let known = lock(&self.state).opened.clone();
        match known {
            Some(opened) if opened.is_alive() => return Ok((opened, None)),
            Some(over) => self.end(&over),
            None => {}
        }
        let connection = intake.link.connection().await?;
        let count = self.count(&connection).await?;
        let name = intake.storage.topology.name(&self.kind);
        intake.served.is_heard(&name).await;
        let is_alone = self.is_alone.load(Ordering::Relaxed);
        let opening = intake.channels.open(&intake.scope, connection, is_alone);
        let opened = opening.await?;
        lock(&self.state).opened = Some(Arc::clone(&opened));
        Ok((opened, Some(count)))
    }

    /// Declares the queue; how many jobs wait in it.
    pub(super) async fn count(&self, connection: &LiveConnection) -> Result<u32, AmqpFault> {
        self.intake
            .storage
            .topology
            .declare_on(connection, &self.kind)
            .await
            .map(|found| found.message_count)
    }

    /// Something went wrong on a channel: it is over.
    pub(super) fn fail(&self, opened: &ConsumerChannel, fault: &AmqpFault) {
        tracing::warn!(%fault, queue = self.queue, "a channel that took jobs failed");
        self.intake.learn(fault);
        self.end(opened);
    }

    /// A channel is over: the broker gives its deliveries to other consumers.
    pub(super) fn end(&self, opened: &ConsumerChannel) {
        opened.dead.cancel();
        self.forget(opened);
        self.intake.leases.lose(opened.number, None);
        self.subscriptions.wake();
    }

    /// The queue was deleted, with all its jobs. Other queues of the same channel go on.
    pub(super) fn begin_again(&self, opened: &ConsumerChannel) {
        if !opened.is_shared {
            return self.end(opened);
        }
        self.forget(opened);
        self.intake.leases.lose(opened.number, Some(&self.queue));
        self.subscriptions.wake();
    }

    fn forget(&self, opened: &ConsumerChannel) {
        let mut state = lock(&self.state);
        state
            .ready
            .retain(|(delivery, _)| delivery.opened.number != opened.number);
        let current = state.opened.as_ref();
        if current.is_none_or(|current| current.number == opened.number) {
            state.opened = None;
            self.subscriptions.clear();
        }
    }
}

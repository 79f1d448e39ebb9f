//! AMQP consumers of a queue: how they begin, how it is known that a queue has nothing more, and
//! their end.
//!
//! Each has as much room (prefetch) as jobs were wanted when it began. Whether the queue has more
//! is known after a *fence*: the queue counts no job, and one question to the channel, whose answer
//! comes after all deliveries that were sent before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::ShortString;
use tokio::time::sleep;

use super::super::RabbitMqCore;
use super::super::consumer_channel::ConsumerChannel;
use super::super::fault::Fault;
use super::super::topology::PATIENCE;
use super::{FAILURES_MAX, FENCE_PAUSE, QueueConsumer, Subscription, hold_long};
use crate::sync::lock;

/// The pause before one more question doubles so often.
const UNSURE_MAX: u32 = 8;

impl QueueConsumer {
    pub(super) async fn consume(
        self: &Arc<Self>,
        core: &Arc<RabbitMqCore>,
        room: usize,
    ) -> Result<(), Fault> {
        let _turn = core.consumers.channels.opening.acquire().await;
        let (opened, counted) = self.opened(core).await?;
        let only_listens = lock(&self.state).asks.is_empty();
        let has_some = only_listens
            && match counted {
                Some(count) => count,
                None => self.count(core, &opened.connection).await?,
            } > 0;
        if has_some {
            // An ask comes for it when those before have none.
            self.listen(false);
            self.tell_groups();
            return Ok(());
        }
        let prefetch = u16::try_from(room).unwrap_or(u16::MAX);
        let (number, tag, patience) = self.add_subscription(core, &opened, prefetch);
        match self
            .subscribe(core, &opened, prefetch, tag, PATIENCE * patience)
            .await
        {
            Ok(deliveries) => {
                lock(&self.state).failures = 0;
                let (source, core) = (Arc::clone(self), Arc::clone(core));
                let scope = core.scope.clone();
                scope.spawn_until_closed(async move {
                    source.read(&core, &opened, number, deliveries).await
                });
                Ok(())
            }
            Err(fault) => {
                // Next time it breaks no channel of others.
                self.is_alone.fetch_or(!fault.is_lost(), Ordering::Relaxed);
                self.end(core, &opened);
                Err(fault)
            }
        }
    }

    /// Notes an AMQP consumer that is about to begin: its number and tag, and how many tries there
    /// were since one that went well.
    fn add_subscription(
        &self,
        core: &RabbitMqCore,
        opened: &ConsumerChannel,
        prefetch: u16,
    ) -> (u64, ShortString, u32) {
        let mut state = lock(&self.state);
        state.next_number += 1;
        state.failures = (state.failures + 1).min(FAILURES_MAX);
        let number = state.next_number;
        let tag: ShortString = format!(
            "brigade-{}-{}-{}-{number}",
            std::process::id(),
            opened.number,
            core.consumers.next_number()
        )
        .into();
        state.subscriptions.push(Subscription {
            number,
            tag: tag.clone(),
            room: prefetch.into(),
            taken: 0,
            is_open: true,
            is_fenced: false,
        });
        (number, tag, state.failures)
    }

    async fn subscribe(
        &self,
        core: &RabbitMqCore,
        opened: &ConsumerChannel,
        prefetch: u16,
        tag: ShortString,
        patience: Duration,
    ) -> Result<lapin::Consumer, Fault> {
        let name = core.storage.topology.name(&self.kind);
        let (connection, channel) = (&opened.connection, &opened.channel);
        let _alone = opened.consuming.lock().await;
        connection
            .answer(channel.basic_qos(prefetch, BasicQosOptions { global: false }))
            .await?;
        let consuming =
            channel.basic_consume(name, tag, BasicConsumeOptions::default(), hold_long());
        // As a declaration, it may hang. What is held by this channel would be lost with it.
        let is_used = core.leases.table().holds_by(opened.number);
        let patience = if is_used { Duration::MAX } else { patience };
        connection.answer_within(patience, consuming).await
    }

    /// Finds out whether the queue has something that is not here: how many jobs wait there, and
    /// then one question to the channel, whose answer comes after all deliveries before.
    pub(super) async fn fence(&self, core: &Arc<RabbitMqCore>) -> Result<(), Fault> {
        let _turn = core.consumers.channels.opening.acquire().await;
        let (opened, releases) = {
            let state = lock(&self.state);
            (state.opened.clone(), state.releases)
        };
        let Some(opened) = opened else { return Ok(()) };
        let count = self.count(core, &opened.connection).await?;
        opened.connection.round_trip(&opened.channel).await?;
        // Its reader has been woken by them.
        tokio::task::yield_now().await;
        let (is_sure, unsure) = {
            let mut state = lock(&self.state);
            let is_sure = count == 0 && state.releases == releases;
            state
                .subscriptions
                .iter_mut()
                .for_each(|subscription| subscription.is_fenced |= is_sure);
            state.unsure = if is_sure {
                0
            } else {
                (state.unsure + 1).min(UNSURE_MAX)
            };
            (is_sure, state.unsure)
        };
        if !is_sure {
            sleep(FENCE_PAUSE * 2_u32.pow(unsure)).await;
        }
        Ok(())
    }

    /// Reads a consumer's deliveries until there are no more.
    async fn read(
        self: &Arc<Self>,
        core: &Arc<RabbitMqCore>,
        opened: &Arc<ConsumerChannel>,
        number: u64,
        mut deliveries: lapin::Consumer,
    ) {
        loop {
            match opened.dead.run_until_cancelled(deliveries.next()).await {
                None => return self.end(core, opened),
                Some(Some(Ok(delivery))) => self.arrived(core, opened, number, delivery),
                Some(Some(Err(error))) => return self.fail(core, opened, &error.into()),
                Some(None) => break,
            }
        }
        let was_asked = {
            let mut state = lock(&self.state);
            let subscription = state
                .subscriptions
                .iter_mut()
                .find(|subscription| subscription.number == number);
            subscription.is_none_or(|subscription| !std::mem::take(&mut subscription.is_open))
        };
        if !opened.is_alive() {
            return self.end(core, opened);
        }
        if !was_asked {
            tracing::error!(
                queue = self.queue,
                "the broker ended the consumer of this queue, as the queue was deleted; declaring it \
                    again"
            );
            // What was held of it is gone with it.
            self.begin_anew(core, opened);
        }
        self.poke.notify_one();
    }
}

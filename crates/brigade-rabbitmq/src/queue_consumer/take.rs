//! The AMQP consumers of a queue: how they begin and end, and how it is known that the queue has no
//! more jobs.
//!
//! Each has as much room (prefetch) as jobs were wanted when it began. A *fence* shows whether the
//! queue has more: the queue counts no job, and then the broker answers a request on the channel,
//! which it does after all deliveries that it sent before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::ShortString;
use tokio::time::sleep;

use super::super::consume::begin_consuming;
use super::super::consumer_channel::ConsumerChannel;
use super::super::fault::AmqpFault;
use super::super::topology::PATIENCE;
use super::{FAILURES_MAX, FENCE_PAUSE, QueueConsumer, hold_long};
use crate::sync::lock;

/// The number of the next subscription of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// The pause before one more question doubles so often.
const UNSURE_MAX: u32 = 8;

impl QueueConsumer {
    /// Begins to consume, with room for so many jobs.
    pub(super) async fn consume(self: &Arc<Self>, room: usize) -> Result<(), AmqpFault> {
        let _turn = self.intake.channels.opening.acquire().await;
        let (opened, counted) = self.opened().await?;
        let only_listens = lock(&self.state).asks.is_empty();
        let has_some = only_listens
            && match counted {
                Some(count) => count,
                None => self.count(&opened.connection).await?,
            } > 0;
        if has_some {
            // An ask comes for it when those before have none.
            self.listen(false);
            self.notify_groups();
            return Ok(());
        }
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        match self.subscribe(&opened, number, room).await {
            Ok(deliveries) => {
                lock(&self.state).failures = 0;
                let source = Arc::clone(self);
                self.intake.scope.spawn_until_closed(async move {
                    source.read(&opened, number, deliveries).await
                });
                Ok(())
            }
            Err(fault) => {
                // Next time it breaks no channel of others.
                self.is_alone.fetch_or(!fault.is_lost(), Ordering::Relaxed);
                self.end(&opened);
                Err(fault)
            }
        }
    }

    async fn subscribe(
        &self,
        opened: &ConsumerChannel,
        number: u64,
        room: usize,
    ) -> Result<lapin::Consumer, AmqpFault> {
        let prefetch = u16::try_from(room).unwrap_or(u16::MAX);
        let process = std::process::id();
        let tag: ShortString = format!("brigade-{process}-{}-{number}", opened.number).into();
        let failures = {
            let mut state = lock(&self.state);
            state.failures = (state.failures + 1).min(FAILURES_MAX);
            self.subscriptions.add(number, tag.clone(), prefetch);
            state.failures
        };
        let name = self.intake.storage.topology.name(&self.kind);
        let (connection, channel) = (&opened.connection, &opened.channel);
        let _alone = opened.consuming.lock().await;
        connection
            .answer(channel.basic_qos(prefetch, BasicQosOptions { global: false }))
            .await?;
        let options = BasicConsumeOptions::default();
        let consuming = begin_consuming(channel, &name, tag, options, hold_long());
        // As a declaration, it may hang. What is held by this channel would be lost with it.
        let is_used = self.intake.leases.table().holds_by(opened.number);
        let patience = if is_used {
            Duration::MAX
        } else {
            PATIENCE * failures
        };
        connection.answer_within(patience, consuming).await
    }

    /// Finds out whether the queue has something that is not here: how many jobs wait there, and
    /// then one question to the channel, whose answer comes after all deliveries before.
    pub(super) async fn fence(&self) -> Result<(), AmqpFault> {
        let _turn = self.intake.channels.opening.acquire().await;
        let releases = self.subscriptions.releases();
        let Some(opened) = lock(&self.state).opened.clone() else {
            return Ok(());
        };
        let count = self.count(&opened.connection).await?;
        opened.connection.round_trip(&opened.channel).await?;
        // Its reader has been woken by them.
        tokio::task::yield_now().await;
        if count == 0 && self.subscriptions.fence(releases) {
            lock(&self.state).unsure = 0;
            return Ok(());
        }
        let unsure = {
            let mut state = lock(&self.state);
            state.unsure = (state.unsure + 1).min(UNSURE_MAX);
            state.unsure
        };
        sleep(FENCE_PAUSE * 2_u32.pow(unsure)).await;
        Ok(())
    }

    /// Reads a consumer's deliveries until there are no more.
    async fn read(
        self: &Arc<Self>,
        opened: &Arc<ConsumerChannel>,
        number: u64,
        mut deliveries: lapin::Consumer,
    ) {
        loop {
            match opened.dead.run_until_cancelled(deliveries.next()).await {
                None => return self.end(opened),
                Some(Some(Ok(delivery))) => self.arrived(opened, Some(number), delivery),
                Some(Some(Err(error))) => return self.fail(opened, &error.into()),
                Some(None) => break,
            }
        }
        let is_unexpected = self.subscriptions.close(number).is_some();
        if !opened.is_alive() {
            return self.end(opened);
        }
        if is_unexpected {
            tracing::error!(
                queue = self.queue,
                "the broker ended the consumer of this queue, as the queue was deleted; declaring it \
                    again"
            );
            // Its jobs are gone with it, the held ones too.
            self.begin_again(opened);
        }
        self.subscriptions.wake();
    }
}

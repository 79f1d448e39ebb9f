//! Jobs and calls that are held for longer than the broker lets anybody hold a delivery.
//!
//! The broker takes back what is not settled within its `consumer_timeout`, half an hour by
//! default, and closes the channel with all that it has. So a delivery that comes near that time is
//! exchanged for a fresh one of the same message, while its attempt runs on:
//!
//! ```text
//!   1. a copy is put into a queue that this process alone takes from ({ns}.{queue}.held.{id}), and confirmed
//!   2. it comes from there                -> from now on the lease is that delivery
//!   3. the delivery before it is acked
//! ```
//!
//! The lease, its token and its time stay what they are; only its delivery changes. At each step
//! the broker has the message at least once:
//!
//! - Should this process or a connection end, what it held in that queue expires there, and goes
//!   back to the queue that it came from. A queue of held jobs is never consumed from again: each
//!   channel has one of its own. So a copy that comes is one whose original is not acked yet, and
//!   if the lease is over by then the copy is dropped: what its holder did to the original counts,
//!   or the broker has given that to another.
//! - An end between 1 and 3 leaves two messages of one number, as an end between a settlement and
//!   its ack does: the job may be run twice.
//! - A copy that cannot be stored, as the broker takes nothing for now, changes nothing: it is
//!   tried again. If the broker's time is over before, the leases of that channel are lost as with
//!   any channel.
//!
//! Newer brokers (3.11.15) let consumers ask for more time, which ours do; what is fetched without
//! a consumer does not have it, so this does not depend on it. The broker does not publish its
//! `consumer_timeout`: half an hour or what the URL says is believed, until the broker closes a
//! channel because of a shorter one and names it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery as Received;
use lapin::types::{AMQPValue, ShortString};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

use super::RabbitMqCore;
use super::consumer_channel::{AckAction, ConsumerChannel};
use super::fault::Fault;
use super::lease_table::{Delivery, HeldDelivery};
use super::message::{self, Envelope};
use super::publisher::{Message, Published};
use super::queue_consumer::{QueueConsumer, hold_long};
use super::topology::QueueKind;
use super::values::{number_of, random_id};
use crate::error::{Error, ErrorKind};

/// The header that says whose lease it is.
const TOKEN: &str = "brigade-held";
/// Between tries to exchange the same delivery.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// A channel by which nothing is held is kept for so long.
const UNUSED_FOR: Duration = Duration::from_secs(600);

/// Where held jobs come from, by the queue that they are of.
#[derive(Default)]
pub(super) struct RefreshQueues(AsyncMutex<HashMap<Box<str>, RefreshQueue>>);

#[derive(Clone)]
struct RefreshQueue {
    opened: Arc<ConsumerChannel>,
    target: QueueKind,
    since: Instant,
}

impl RabbitMqCore {
    /// How long the broker lets a delivery be held, as far as is known.
    pub(super) fn consumer_timeout(&self) -> Duration {
        self.config.consumer_timeout.min(Duration::from_millis(
            self.learnt_timeout.load(Ordering::Relaxed),
        ))
    }

    /// The broker closed a channel. If it did so because of its `consumer_timeout`, and named one
    /// that is shorter than what is believed, that one is.
    pub(super) fn learn(&self, fault: &Fault) {
        let Some(time) = fault.consumer_timeout() else {
            return;
        };
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if self.learnt_timeout.fetch_min(millis, Ordering::Relaxed) > millis
            && time < self.config.consumer_timeout
        {
            tracing::warn!(
                broker = ?time,
                url = ?self.config.consumer_timeout,
                "the consumer_timeout of the broker is shorter than what the URL says: jobs were \
                    taken back; write it into the URL"
            );
        }
    }

    /// A job that may take longer than the broker lets a delivery be held: said once for a queue.
    pub(super) fn warn_of_time(&self, source: &QueueConsumer, envelope: &Envelope) {
        let limit = self.consumer_timeout();
        if envelope
            .job
            .options
            .timeout
            .is_some_and(|time| time >= limit)
            && source.warns_of_time()
        {
            tracing::warn!(
                queue = source.queue,
                ?limit,
                "a job may run for longer than the broker lets a delivery be held \
                    (consumer_timeout); \
                 its delivery will be refreshed in time if the URL says no more than the broker has"
            );
        }
    }

    /// Begins to exchange the deliveries that are near the end of their time.
    pub(super) fn refresh_old_deliveries(self: &Arc<Self>) {
        let limit = self.consumer_timeout();
        let old = self.leases.table().older_than(limit / 2);
        let mut by_queue: HashMap<Box<str>, Vec<(i64, HeldDelivery)>> = HashMap::new();
        for (token, held) in old {
            by_queue
                .entry(held.source.queue.clone())
                .or_default()
                .push((token, held));
        }
        for old in by_queue.into_values() {
            let core = Arc::clone(self);
            self.scope.spawn_until_closed(async move {
                let tokens: Vec<i64> = old.iter().map(|(token, _)| *token).collect();
                let mut pause = AGAIN_MIN;
                if let Err(fault) = core.refresh_deliveries(&old).await {
                    tracing::warn!(%fault, "could not hold jobs beyond the broker's \
                        consumer_timeout; trying again");
                    pause = (limit / 20).clamp(AGAIN_MIN, AGAIN_MAX);
                }
                // Also for copies that are stored and have not come yet.
                sleep(pause).await;
                core.leases.table().refreshed(&tokens);
            });
        }
    }

    /// Step 1 for leases of one queue. Returns when the copies are stored.
    async fn refresh_deliveries(
        self: &Arc<Self>,
        old: &[(i64, HeldDelivery)],
    ) -> Result<(), Fault> {
        let Some((_, first)) = old.first() else {
            return Ok(());
        };
        let refresh = self.refresh_queue(&first.source).await?;
        let name = self.storage.topology.name(&refresh.target);
        // Some may have been settled meanwhile: a copy of these would be another's.
        let still: Vec<_> = old
            .iter()
            .filter(|(token, held)| self.leases.table().holds(*token, &held.delivery))
            .collect();
        let copies = still
            .into_iter()
            .map(|(token, held)| copy(&held.envelope, *token, name.clone()))
            .collect::<Result<Vec<_>, _>>();
        let copies = copies.map_err(|error| {
            Fault::with_source(error.kind(), "a held job cannot be written again", error)
        })?;
        for published in self.storage.publish_slowly(copies).await {
            match published {
                Published::Safe => {}
                Published::Failed { fault, .. } => return Err(fault),
                Published::Unroutable | Published::Declined => {
                    return Err(Fault::new(
                        ErrorKind::Unreachable,
                        "the queue for what is held does not take it",
                    ));
                }
            }
        }
        Ok(())
    }

    /// A queue that this process takes from, and whose channel lives.
    async fn refresh_queue(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
    ) -> Result<RefreshQueue, Fault> {
        let mut queues = self.refresh_queues.0.lock().await;
        if let Some(refresh) = queues
            .get(&source.queue)
            .filter(|refresh| refresh.opened.is_alive())
        {
            return Ok(refresh.clone());
        }
        let target = QueueKind::Refresh(source.queue.clone(), random_id().into());
        self.storage.topology.prepare(&target).await?;
        let connection = self.consume_link.connection().await?;
        let channel = connection.channel().await?;
        let opened = ConsumerChannel::start(
            self.consumers.next_number(),
            connection,
            channel,
            false,
            &self.scope,
        );
        let name = self.storage.topology.name(&target);
        // No prefetch: what comes is held already.
        let deliveries = opened
            .connection
            .consume(&opened.channel, &name, hold_long())
            .await?;
        let refresh = RefreshQueue {
            opened: Arc::clone(&opened),
            target,
            since: Instant::now(),
        };
        queues.insert(source.queue.clone(), refresh.clone());
        let (core, source, scope) = (Arc::clone(self), Arc::clone(source), self.scope.clone());
        scope.spawn_until_closed(
            async move { core.read_refreshed(&source, &opened, deliveries).await },
        );
        Ok(refresh)
    }

    /// Closes the channels of queues of which nothing has been held by them for a while.
    pub(super) async fn tidy_refresh_queues(&self) {
        self.refresh_queues.0.lock().await.retain(|_, refresh| {
            let is_used = self.leases.table().holds_by(refresh.opened.number)
                || refresh.since.elapsed() < UNUSED_FOR;
            if !is_used {
                refresh.opened.dead.cancel();
            }
            is_used && refresh.opened.is_alive()
        });
    }

    async fn read_refreshed(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        opened: &Arc<ConsumerChannel>,
        mut deliveries: lapin::Consumer,
    ) {
        while let Some(Some(next)) = opened.dead.run_until_cancelled(deliveries.next()).await {
            match next {
                Ok(received) => {
                    opened.note(received.delivery_tag);
                    let (core, source, opened) =
                        (Arc::clone(self), Arc::clone(source), Arc::clone(opened));
                    self.scope.spawn_until_closed(async move {
                        core.on_refreshed(&source, &opened, &received).await
                    });
                }
                Err(error) => {
                    let fault = Fault::from(error);
                    tracing::warn!(%fault, queue = source.queue, "the channel of held jobs failed");
                    self.learn(&fault);
                    break;
                }
            }
        }
        // What is held by it is another's by now, or will be as soon as the broker hears this.
        opened.dead.cancel();
        self.leases.lose(opened.number, None);
        opened.channel.close(200, "over".into()).await.ok();
    }

    /// Steps 2 and 3: a held job has come by another delivery.
    async fn on_refreshed(
        &self,
        source: &QueueConsumer,
        opened: &Arc<ConsumerChannel>,
        received: &Received,
    ) {
        let new = Delivery::new(opened, received.delivery_tag, 0);
        let headers = received.properties.headers().clone().unwrap_or_default();
        let token = number_of(&headers, TOKEN).and_then(|token| i64::try_from(token).ok());
        let id = received
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str());
        let exchange = |token| self.leases.table().replace_delivery(token, id?, &new);
        match token.and_then(exchange) {
            Some(old) => {
                // Its room is not free: the attempt runs on.
                source.close_consumer(&old).await;
                if old
                    .opened
                    .acknowledge(vec![old.tag], AckAction::Ack)
                    .await
                    .is_err()
                {
                    tracing::warn!(
                        job = id,
                        "a job that is held may be run by another as well: its old delivery could \
                            not be acked"
                    );
                }
                source.released(&old);
            }
            None => drop(opened.acknowledge(vec![new.tag], AckAction::Ack).await),
        }
    }
}

/// The same message once more.
fn copy(envelope: &Envelope, token: i64, queue: ShortString) -> Result<Message, Error> {
    let message = envelope.write(queue)?;
    let mut headers = message.properties.headers().clone().unwrap_or_default();
    headers.insert(TOKEN.into(), AMQPValue::LongLongInt(token));
    // What it had to begin in is over: it has begun.
    let properties = message::without_expiration(&message.properties).with_headers(headers);
    // A call need not have one.
    let properties = properties.with_message_id(envelope.id.as_str().into());
    Ok(Message {
        properties,
        ..message
    })
}

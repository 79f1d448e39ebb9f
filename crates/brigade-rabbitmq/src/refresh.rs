//! Refreshing the deliveries of jobs and calls that are held for long.
//!
//! The broker takes back a delivery that is not settled within its `consumer_timeout`, half an hour
//! by default, and closes the channel with all its deliveries. So a delivery that comes near that
//! time is exchanged for a fresh one of the same message, while its attempt runs on:
//!
//! ```text
//!   1. publish a copy to a queue that only this process takes from ({ns}.{queue}.held.{id}), and wait for the confirm
//!   2. receive the copy from there: from now on the lease is this delivery
//!   3. ack the delivery before it
//! ```
//!
//! The lease, its token and its time stay the same; only its delivery changes. At each step the
//! broker has the message at least once:
//!
//! - When this process or its connection ends, the copies in that queue expire and go back to the
//!   queue of jobs. No process consumes from that queue again: each channel has its own. So a
//!   copy that arrives is one whose original is not acked yet. If the lease has ended by then, the
//!   copy is dropped: the settlement of the original counts, or the broker has given the original
//!   to another consumer.
//! - A crash between 1 and 3 leaves two messages of one number, as a crash between a settlement and
//!   its ack does: the job may run twice.
//! - If the broker does not take a copy for now, it is tried again. If the broker's time is over
//!   before, the leases of that channel are lost, as with any channel.
//!
//! Consumers ask brokers for more time, which brokers from 3.11.15 on grant. Refreshing does not
//! depend on that, as a job that was fetched without a consumer does not have it. No client can ask
//! for the `consumer_timeout`: half an hour or the time in the URL is assumed, until the broker
//! closes a channel and names a shorter one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

use super::consumer_channel::ConsumerChannel;
use super::consumer_channel::Delivery;
use super::fault::AmqpFault;
use super::intake::Intake;
use super::leases::HeldDelivery;
use super::message::{self, Envelope};
use super::publisher::{Message, Published};
use super::queue_consumer::hold_long;
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
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Refreshes deliveries that are held for long.
pub(super) struct Refresher {
    intake: Arc<Intake>,
    /// Where held jobs come from, by the queue that they are of.
    queues: AsyncMutex<HashMap<Box<str>, RefreshQueue>>,
}

#[derive(Clone)]
struct RefreshQueue {
    opened: Arc<ConsumerChannel>,
    name: ShortString,
    since: Instant,
}

impl Refresher {
    /// Ends leases when their time is over, and refreshes their deliveries before, for as long as
    /// the broker is there.
    pub(super) fn start(intake: &Arc<Intake>) {
        let refresher = Arc::new(Self {
            intake: Arc::clone(intake),
            queues: AsyncMutex::default(),
        });
        let watching = Arc::clone(&refresher);
        intake.scope.spawn_until_closed(async move {
            loop {
                watching.intake.until_leases_are_old().await;
                // Not awaited: one that the broker does not take for long delays no other.
                drop(watching.intake.end_expired());
                watching.refresh_old_deliveries();
            }
        });
        intake.scope.spawn_until_closed(async move {
            loop {
                sleep(TIDY_EVERY).await;
                refresher.tidy().await;
            }
        });
    }

    /// Begins to exchange the deliveries that are near the end of their time.
    fn refresh_old_deliveries(self: &Arc<Self>) {
        let limit = self.intake.consumer_timeout();
        let old = self.intake.leases.table().older_than(limit / 2);
        let mut by_queue: HashMap<Box<str>, Vec<(i64, HeldDelivery)>> = HashMap::new();
        for (token, held) in old {
            by_queue
                .entry(held.envelope.job.queue.clone())
                .or_default()
                .push((token, held));
        }
        for (queue, old) in by_queue {
            let refresher = Arc::clone(self);
            self.intake.scope.spawn_until_closed(async move {
                let tokens: Vec<i64> = old.iter().map(|(token, _)| *token).collect();
                let mut pause = AGAIN_MIN;
                if let Err(fault) = refresher.refresh_deliveries(&queue, &old).await {
                    tracing::warn!(%fault, "could not hold jobs beyond the broker's \
                        consumer_timeout; trying again");
                    pause = (limit / 20).clamp(AGAIN_MIN, AGAIN_MAX);
                }
                // Also for copies that are stored and have not come yet.
                sleep(pause).await;
                refresher.intake.leases.table().refreshed(&tokens);
            });
        }
    }

    /// Step 1 for leases of one queue. Returns when the copies are stored.
    async fn refresh_deliveries(
        self: &Arc<Self>,
        queue: &str,
        old: &[(i64, HeldDelivery)],
    ) -> Result<(), AmqpFault> {
        let name = self.refresh_queue(queue).await?;
        let leases = &self.intake.leases;
        // Some may have been settled meanwhile: another consumer would run a copy of these.
        let still = old
            .iter()
            .filter(|(token, held)| leases.table().holds(*token, &held.delivery));
        let copies = still
            .map(|(token, held)| copy(&held.envelope, *token, name.clone()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AmqpFault::of("a held job cannot be written again", error))?;
        for published in self.intake.storage.publish_slowly(copies).await {
            match published {
                Published::Safe => {}
                Published::Failed { fault, .. } => return Err(fault),
                Published::Unroutable | Published::Declined => {
                    return Err(AmqpFault::new(
                        ErrorKind::Unreachable,
                        "the queue for what is held does not take it",
                    ));
                }
            }
        }
        Ok(())
    }

    /// A queue that this process takes from, and whose channel lives.
    async fn refresh_queue(self: &Arc<Self>, queue: &str) -> Result<ShortString, AmqpFault> {
        let mut queues = self.queues.lock().await;
        if let Some(refresh) = queues.get(queue).filter(|one| one.opened.is_alive()) {
            return Ok(refresh.name.clone());
        }
        let target = QueueKind::Refresh(queue.into(), random_id().into());
        let Intake {
            storage,
            link,
            scope,
            ..
        } = &*self.intake;
        storage.topology.prepare(&target).await?;
        let connection = link.connection().await?;
        let channel = connection.channel().await?;
        let opened = ConsumerChannel::start(connection, channel, false, scope);
        let name = storage.topology.name(&target);
        // No prefetch: the jobs that come are held already.
        let deliveries = opened
            .connection
            .consume(&opened.channel, &name, hold_long())
            .await?;
        let refresh = RefreshQueue {
            opened: Arc::clone(&opened),
            name: name.clone(),
            since: Instant::now(),
        };
        queues.insert(queue.into(), refresh);
        let (intake, queue) = (Arc::clone(&self.intake), Box::from(queue));
        scope.spawn_until_closed(async move { intake.read(queue, &opened, deliveries).await });
        Ok(name)
    }

    /// Closes the channels of queues of which nothing has been held by them for a while.
    async fn tidy(&self) {
        self.queues.lock().await.retain(|_, refresh| {
            let is_used = self.intake.leases.table().holds_by(refresh.opened.number)
                || refresh.since.elapsed() < UNUSED_FOR;
            if !is_used {
                refresh.opened.dead.cancel();
            }
            is_used && refresh.opened.is_alive()
        });
    }
}

impl Intake {
    /// Reads the deliveries from a queue of held jobs.
    async fn read(
        self: &Arc<Self>,
        queue: Box<str>,
        opened: &Arc<ConsumerChannel>,
        mut deliveries: lapin::Consumer,
    ) {
        while let Some(Some(next)) = opened.dead.run_until_cancelled(deliveries.next()).await {
            match next {
                Ok(received) => {
                    let new = Delivery::new(opened, received.delivery_tag, None);
                    let intake = Arc::clone(self);
                    self.scope.spawn_until_closed(async move {
                        intake.on_refreshed(&new, &received.properties).await
                    });
                }
                Err(error) => {
                    let fault = AmqpFault::from(error);
                    tracing::warn!(%fault, queue, "the channel of held jobs failed");
                    self.learn(&fault);
                    break;
                }
            }
        }
        // The broker gives its deliveries to other consumers, at the latest when it reads this.
        opened.dead.cancel();
        self.leases.lose(opened.number, None);
        opened.channel.close(200, "over".into()).await.ok();
    }

    /// Steps 2 and 3: a held job has come by another delivery.
    async fn on_refreshed(&self, new: &Delivery, properties: &BasicProperties) {
        let headers = properties.headers().clone().unwrap_or_default();
        let token = number_of(&headers, TOKEN).and_then(|token| i64::try_from(token).ok());
        let id = properties.message_id().as_ref().map(|id| id.as_str());
        let exchange = |token| self.leases.table().replace_delivery(token, id?, new);
        match token.and_then(exchange) {
            Some(old) => {
                // Its room is not free: the attempt runs on.
                old.close_subscription().await;
                if old.ack().await.is_err() {
                    tracing::warn!(
                        job = id,
                        "a job that is held may be run by another as well: its old delivery could \
                            not be acked"
                    );
                }
            }
            None => drop(new.ack().await),
        }
    }
}

/// The same message once more.
fn copy(envelope: &Envelope, token: i64, queue: ShortString) -> Result<Message, Error> {
    let message = envelope.write(queue)?;
    let mut headers = message.properties.headers().clone().unwrap_or_default();
    headers.insert(TOKEN.into(), AMQPValue::LongLongInt(token));
    // It has begun, so the time in which it had to begin is not needed.
    let properties = message::without_expiration(&message.properties).with_headers(headers);
    // A call need not have one.
    let properties = properties.with_message_id(envelope.id.as_str().into());
    Ok(Message {
        properties,
        ..message
    })
}

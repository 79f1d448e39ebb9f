//! Jobs and calls that are held for longer than the broker lets anybody hold a delivery.
//!
//! The broker takes back what nobody settles within its `consumer_timeout`, half an hour by
//! default, and closes the channel with all that it has. So a delivery that comes near that time is
//! exchanged for a fresh one of the same message, while its attempt runs on:
//!
//! ```text
//!   1. a copy is put into a queue that this process alone takes from ({ns}.{queue}.held.{id}), and confirmed
//!   2. it comes from there                -> from now on the lease is that delivery
//!   3. the delivery before it is acked
//! ```
//!
//! The lease, its token and its time stay what they are; only its grip changes. At each step the
//! broker has the message at least once:
//!
//! - Should this process or a connection end, what it held in that queue expires there, and goes
//!   back to the queue that it came from. Nobody takes from a queue of held jobs again: each
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
//! a consumer does not have it, so this does not depend on it. The broker tells nobody its
//! `consumer_timeout`: half an hour or what the URL says is believed, until the broker closes a
//! channel because of a shorter one and names it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::BasicConsumeOptions;
use lapin::types::AMQPValue;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

use super::RabbitMqCore;
use super::acks::{Opened, Said};
use super::fault::Fault;
use super::held::{Grip, Held};
use super::message::{self, Envelope, number_of, short};
use super::publisher::{Message, Published};
use super::tap::{Tap, hold_long};
use super::topology::Spot;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

/// The header that says whose lease it is.
const TOKEN: &str = "brigade-held";
/// Between tries to exchange the same delivery.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// A channel by which nothing is held is kept for so long.
const UNUSED_FOR: Duration = Duration::from_secs(600);

/// Where held jobs come from, by the queue that they are of.
#[derive(Default)]
pub(super) struct Parks(AsyncMutex<HashMap<Box<str>, Park>>);

#[derive(Clone)]
struct Park {
    opened: Arc<Opened>,
    spot: Spot,
    since: Instant,
}

impl RabbitMqCore {
    /// How long the broker lets a delivery be held, as far as is known.
    pub(super) fn consumer_timeout(&self) -> Duration {
        self.place.consumer_timeout.min(Duration::from_millis(
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
            && time < self.place.consumer_timeout
        {
            tracing::warn!(
                broker = ?time,
                url = ?self.place.consumer_timeout,
                "the consumer_timeout of the broker is shorter than what the URL says: jobs were \
                    taken back; write it into the URL"
            );
        }
    }

    /// A job that may take longer than the broker lets a delivery be held: said once for a queue.
    pub(super) fn warn_of_time(&self, tap: &Tap, envelope: &Envelope) {
        let limit = self.consumer_timeout();
        if envelope
            .job
            .options
            .timeout
            .is_some_and(|time| time >= limit)
            && tap.warns_of_time()
        {
            tracing::warn!(
                queue = tap.queue,
                ?limit,
                "a job may run for longer than the broker lets a delivery be held \
                    (consumer_timeout); \
                 its delivery will be exchanged in time if the URL says no more than the broker has"
            );
        }
    }

    /// Begins to exchange the deliveries that are near the end of their time.
    pub(super) fn exchange_old(self: &Arc<Self>) {
        let limit = self.consumer_timeout();
        let old = lock(&self.hands).older_than(limit / 2);
        let mut by_queue: HashMap<Box<str>, Vec<(i64, Held)>> = HashMap::new();
        for (token, held) in old {
            by_queue
                .entry(held.tap.queue.clone())
                .or_default()
                .push((token, held));
        }
        for old in by_queue.into_values() {
            let core = Arc::clone(self);
            self.scope.spawn_until_closed(async move {
                let tokens: Vec<i64> = old.iter().map(|(token, _)| *token).collect();
                let mut pause = AGAIN_MIN;
                if let Err(fault) = core.exchange(&old).await {
                    tracing::warn!(%fault, "could not hold jobs beyond the broker's \
                        consumer_timeout; trying again");
                    pause = (limit / 20).clamp(AGAIN_MIN, AGAIN_MAX);
                }
                // Also for copies that are stored and have not come yet.
                sleep(pause).await;
                lock(&core.hands).exchanged(&tokens);
            });
        }
    }

    /// Step 1 for leases of one queue. Returns when the copies are stored.
    async fn exchange(self: &Arc<Self>, old: &[(i64, Held)]) -> Result<(), Fault> {
        let Some((_, first)) = old.first() else {
            return Ok(());
        };
        let park = self.park(&first.tap).await?;
        let name = self.storage.topology.name(&park.spot);
        // Some may have been settled meanwhile: a copy of these would be another's.
        let still: Vec<_> = old
            .iter()
            .filter(|(token, held)| lock(&self.hands).holds(*token, &held.grip))
            .collect();
        let copies = still
            .into_iter()
            .map(|(token, held)| copy(&held.envelope, *token, &name))
            .collect::<Result<Vec<_>, _>>();
        let copies = copies.map_err(|error| {
            Fault::with_source(error.kind(), "a held job cannot be written anew", error)
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
    async fn park(self: &Arc<Self>, tap: &Arc<Tap>) -> Result<Park, Fault> {
        let mut parks = self.parks.0.lock().await;
        if let Some(park) = parks.get(&tap.queue).filter(|park| park.opened.is_alive()) {
            return Ok(park.clone());
        }
        let spot = Spot::Held(tap.queue.clone(), message::random_id().into());
        self.storage.topology.prepare(&spot).await?;
        let line = self.hands_link.line().await?;
        let channel = line.channel().await?;
        let opened = Opened::start(self.next_number(), line, channel, false, &self.scope);
        let name = short(&self.storage.topology.name(&spot))
            .map_err(|_| Fault::new(ErrorKind::BadOption, "its name is too long"))?;
        // No prefetch: what comes is held already.
        let consuming = opened.channel.basic_consume(
            name,
            "".into(),
            BasicConsumeOptions::default(),
            hold_long(),
        );
        let deliveries = opened.line.answer(consuming).await?;
        let park = Park {
            opened: Arc::clone(&opened),
            spot,
            since: Instant::now(),
        };
        parks.insert(tap.queue.clone(), park.clone());
        let (core, tap, scope) = (Arc::clone(self), Arc::clone(tap), self.scope.clone());
        scope.spawn_until_closed(async move { core.read_park(&tap, &opened, deliveries).await });
        Ok(park)
    }

    /// Closes the channels of queues of which nothing has been held by them for a while.
    pub(super) async fn tidy_parks(&self) {
        self.parks.0.lock().await.retain(|_, park| {
            let is_used =
                lock(&self.hands).holds_by(park.opened.number) || park.since.elapsed() < UNUSED_FOR;
            if !is_used {
                park.opened.dead.cancel();
            }
            is_used && park.opened.is_alive()
        });
    }

    async fn read_park(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        opened: &Arc<Opened>,
        mut deliveries: lapin::Consumer,
    ) {
        while let Some(Some(next)) = opened.dead.run_until_cancelled(deliveries.next()).await {
            match next {
                Ok(delivery) => {
                    opened.note(delivery.delivery_tag);
                    let (core, tap, opened) =
                        (Arc::clone(self), Arc::clone(tap), Arc::clone(opened));
                    self.scope.spawn_until_closed(async move {
                        core.take_over(&tap, &opened, &delivery).await
                    });
                }
                Err(error) => {
                    let fault = Fault::from(error);
                    tracing::warn!(%fault, queue = tap.queue, "the channel of held jobs failed");
                    self.learn(&fault);
                    break;
                }
            }
        }
        // What is held by it is another's by now, or will be as soon as the broker hears this.
        opened.dead.cancel();
        self.lose(opened.number, None);
        opened.channel.close(200, "over".into()).await.ok();
    }

    /// Steps 2 and 3: a held job has come by another delivery.
    async fn take_over(&self, tap: &Tap, opened: &Arc<Opened>, delivery: &Delivery) {
        let new = Grip::new(opened, delivery.delivery_tag, 0);
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let token = number_of(&headers, TOKEN).and_then(|token| i64::try_from(token).ok());
        let id = delivery
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str());
        let exchange = |token| lock(&self.hands).exchange(token, id?, &new);
        match token.and_then(exchange) {
            Some(old) => {
                // Its room is nobody's to fill: the attempt runs on.
                tap.close_consumer(&old).await;
                if old.opened.say(vec![old.tag], Said::Ack).await.is_err() {
                    tracing::warn!(
                        job = id,
                        "a job that is held may be run by another as well: its old delivery could \
                            not be acked"
                    );
                }
                tap.released(&old);
            }
            None => drop(opened.say(vec![new.tag], Said::Ack).await),
        }
    }
}

/// The same message once more.
fn copy(envelope: &Envelope, token: i64, queue: &str) -> Result<Message, Error> {
    let message = envelope.write(queue, None)?;
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

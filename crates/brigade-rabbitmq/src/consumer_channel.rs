//! A channel that brings deliveries; a delivery, which is gone with its channel; and acks.
//!
//! AMQP does not confirm acks. An ack counts here when the broker has answered a request that was
//! sent after it on the same channel. Before that answer it is unknown whether the delivery will
//! come again. Acks that gather while one answer is awaited share the next request.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::fault::AmqpFault;
use super::link::LiveConnection;
use super::subscriptions::Subscriptions;
use crate::shutdown::Scope;
use crate::sync::lock;

/// The number of the next channel.
static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// Beyond that, senders wait.
const WAITING_MAX: usize = 4096;
/// That share one answer.
const TOGETHER_MAX: usize = 1024;

/// A channel, for as long as it lives. Its number is never given to another.
pub(super) struct ConsumerChannel {
    pub(super) number: u64,
    pub(super) channel: Channel,
    pub(super) connection: LiveConnection,
    /// Cancelled when it is over: the broker gives its deliveries to other consumers.
    pub(super) dead: CancellationToken,
    /// Several queues are taken from by it.
    pub(super) is_shared: bool,
    /// Held from the setting of a prefetch to the start of the consumer that it is for.
    pub(super) consuming: AsyncMutex<()>,
    tags: Mutex<Tags>,
    requests: mpsc::Sender<AckRequest>,
}

/// Which deliveries there are. Tags are given from 1 on, but several readers may note them in
/// another order.
#[derive(Default)]
struct Tags {
    /// Neither acked nor given back.
    open: BTreeSet<u64>,
    /// All up to this one have been noted.
    noted: u64,
    /// Those beyond that have.
    early: BTreeSet<u64>,
}

impl Tags {
    fn note(&mut self, tag: u64) {
        self.open.insert(tag);
        self.early.insert(tag);
        while self.early.remove(&(self.noted + 1)) {
            self.noted += 1;
        }
    }

    /// Takes these out; up to which tag nothing is open then, so that one ack may stand for all.
    fn close(&mut self, tags: impl Fn(&u64) -> bool) -> u64 {
        self.open.retain(|tag| !tags(tag));
        self.open
            .first()
            .map_or(self.noted, |lowest| self.noted.min(lowest - 1))
    }
}

/// A subscription, and its number there.
type Room = (Arc<Subscriptions>, u64);

/// An ack of a delivery, or its way back.
struct AckRequest {
    tag: u64,
    action: AckAction,
    /// The subscription that it came by, whose room is free then.
    room: Option<Room>,
    done: oneshot::Sender<Result<(), AmqpFault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckAction {
    Ack,
    /// Back to its queue, where it was if that is possible.
    Requeue,
}

impl ConsumerChannel {
    pub(super) fn start(
        connection: LiveConnection,
        channel: Channel,
        is_shared: bool,
        scope: &Scope,
    ) -> Arc<Self> {
        let (requests, done) = mpsc::channel(WAITING_MAX);
        let dead = connection.down.child_token();
        let opened = Arc::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            channel,
            connection,
            dead,
            is_shared,
            consuming: AsyncMutex::default(),
            tags: Mutex::default(),
            requests,
        });
        let sending = Acker {
            channel: opened.channel.clone(),
            connection: opened.connection.clone(),
            of: Arc::downgrade(&opened),
        };
        let dead = opened.dead.clone();
        scope.spawn_until_closed(async move {
            dead.run_until_cancelled(sending.run(done)).await;
        });
        opened
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.dead.is_cancelled() && self.channel.status().connected()
    }

    /// A delivery came.
    fn note(&self, tag: u64) {
        lock(&self.tags).note(tag);
    }

    /// Whether this delivery and all before it have come.
    pub(super) fn has_noted(&self, tag: u64) -> bool {
        tag <= lock(&self.tags).noted
    }
}

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

    /// Whether all that the broker sent before it have come.
    pub(super) fn is_next(&self) -> bool {
        self.opened.has_noted(self.tag)
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The number of the subscription that it came by.
    pub(super) fn subscription(&self) -> Option<u64> {
        self.subscription.as_ref().map(|(_, number)| *number)
    }

    /// Acks it. Returns when the broker has read that. If the channel ends before, or the future is
    /// dropped, the broker may have read it or not.
    pub(super) async fn ack(&self) -> Result<(), AmqpFault> {
        self.acknowledge(AckAction::Ack).await
    }

    /// Gives it back to its queue; returns as [`ack`](Self::ack).
    pub(super) async fn requeue(&self) -> Result<(), AmqpFault> {
        self.acknowledge(AckAction::Requeue).await
    }

    async fn acknowledge(&self, action: AckAction) -> Result<(), AmqpFault> {
        let (done, outcome) = oneshot::channel();
        let request = AckRequest {
            tag: self.tag,
            action,
            room: self.subscription.clone(),
            done,
        };
        let sending = async {
            self.opened.requests.send(request).await.ok()?;
            outcome.await.ok()
        };
        let sent = self.opened.dead.run_until_cancelled(sending).await;
        sent.flatten().unwrap_or_else(|| Err(AmqpFault::timeout()))
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

struct Acker {
    channel: Channel,
    connection: LiveConnection,
    of: Weak<ConsumerChannel>,
}

impl Acker {
    async fn run(self, mut requests: mpsc::Receiver<AckRequest>) {
        while let Some(first) = requests.recv().await {
            // A holder that settles several sends the others right after this one.
            tokio::task::yield_now().await;
            let mut together = vec![first];
            while together.len() < TOGETHER_MAX
                && let Ok(next) = requests.try_recv()
            {
                together.push(next);
            }
            let done = self.send_all(&together).await;
            if done.is_err()
                && let Some(opened) = self.of.upgrade()
            {
                opened.dead.cancel();
            }
            for request in together {
                if let Some((subscriptions, number)) = request.room {
                    subscriptions.release(number);
                }
                // The one that waits may have gone.
                request.done.send(done.clone()).ok();
            }
        }
    }

    /// Sends all of them and one request, and waits for the answer to that alone: the broker reads
    /// a channel in order.
    async fn send_all(&self, requests: &[AckRequest]) -> Result<(), AmqpFault> {
        let of = |action| {
            requests
                .iter()
                .filter(move |request| request.action == action)
                .map(|request| request.tag)
        };
        let requeued: Vec<u64> = of(AckAction::Requeue).collect();
        let acked: BTreeSet<u64> = of(AckAction::Ack).collect();
        let closed = self.of.upgrade().map(|opened| {
            lock(&opened.tags).close(|tag| acked.contains(tag) || requeued.contains(tag))
        });
        let below = closed.and_then(|closed| acked.range(..=closed).next_back().copied());
        let channel = &self.channel;
        let ack = |tag, multiple| channel.basic_ack(tag, BasicAckOptions { multiple });
        // Requeued ones first: an ack of several would take those below it along.
        for tag in requeued {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            send(channel.basic_nack(tag, options))?;
        }
        if let Some(tag) = below {
            send(ack(tag, true))?;
        }
        let single = acked.iter().filter(|tag| Some(**tag) > below);
        for tag in single {
            send(ack(*tag, false))?;
        }
        self.connection.round_trip(&self.channel).await
    }
}

/// The frame is on its way when this returns; its writing need not be waited for.
fn send(sending: impl Future<Output = lapin::Result<()>>) -> Result<(), AmqpFault> {
    let sent = sending.now_or_never().unwrap_or(Ok(()));
    sent.map_err(AmqpFault::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ack_never_stands_for_a_delivery_that_was_not_noted_or_is_open() {
        let mut tags = Tags::default();
        [1, 2, 4, 5].into_iter().for_each(|tag| tags.note(tag));
        assert_eq!(
            tags.close(|tag| [1, 2, 4].contains(tag)),
            2,
            "3 is on its way"
        );
        tags.note(3);
        assert_eq!(tags.close(|_| false), 2, "3 and 5 are open");
        assert_eq!(tags.close(|tag| *tag == 3), 4);
        assert_eq!(tags.close(|tag| *tag == 5), 5);
        assert!(tags.early.is_empty() && tags.open.is_empty());
    }
}

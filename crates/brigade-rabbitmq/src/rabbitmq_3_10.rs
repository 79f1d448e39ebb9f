//! What only RabbitMQ 3.10 needs. Delete this file with its support, and then what no longer
//! compiles: `Storage::goes_alone`, what asks it, and `Storage::store_request` but for its use
//! after a return.
//!
//! **The first message to a quorum queue on a connection goes alone.** For a moment after the start
//! of its server a quorum queue has no leader. A channel that publishes to it then may stand still
//! for more than a minute, with all else that it was given, although there is a leader a few
//! hundred milliseconds later: the broker's process of that channel waits for an answer that never
//! comes (seen with 3.10.8, which registers a channel at a queue with its first message). On any
//! other channel the queue can be used as soon as it has its leader. So a [`LeaderProbe`] publishes
//! the first message on a channel of its own, and after a while without a confirm on another; when
//! it is confirmed, the rest follows by the publishers. A queue that stands still holds up nothing
//! but itself. A confirm that is merely late leaves two messages of one id and number, as after a
//! connection that broke.
//!
//! **Nothing is put into a quorum queue that is less than a second old.** One that was declared
//! less than half a second before the broker is killed is there afterwards, but empty, with all
//! that was confirmed to be in it: the registry of quorum queues is written every 500 ms
//! (`names.dets`; seen with 3.10.8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::fault::AmqpFault;
use super::link::Link;
use super::message::has_caller;
use super::publisher::{ConfirmPublisher, Message, Published};
use super::url::{Blocked, QueueType, RabbitMqConfig};
use crate::error::ErrorKind;
use crate::shutdown::Scope;
use crate::sync::lock;

/// For the first confirm; doubled each time. An election takes some hundred milliseconds.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After something failed.
const AGAIN: Duration = Duration::from_millis(200);
/// So old a quorum queue is before something is put into it.
const NEW_FOR: Duration = Duration::from_secs(1);
/// Queues that are remembered; beyond that all are forgotten.
const PROBED_MAX: usize = 16_384;

/// Returns when a queue that was declared just now survives a crash of the broker.
pub(super) async fn until_registered() {
    sleep(NEW_FOR).await;
}

/// Publishes the first message to each quorum queue on a connection.
pub(super) struct LeaderProbe {
    config: Arc<RabbitMqConfig>,
    link: Link,
    scope: Scope,
    probed: Mutex<HashMap<ShortString, Probed>>,
}

#[derive(Clone, Default)]
struct Probed {
    /// On which connection a message was confirmed to be in it, if on any.
    reached: u64,
    /// Held while the first message is on its way.
    probing: Arc<AsyncMutex<()>>,
}

impl LeaderProbe {
    pub(super) fn new(config: &Arc<RabbitMqConfig>, link: &Link, scope: &Scope) -> Self {
        Self {
            config: Arc::clone(config),
            link: link.clone(),
            scope: scope.clone(),
            probed: Mutex::default(),
        }
    }

    /// Publishes messages to one quorum queue that is there, the first one alone if need be; one
    /// outcome for each.
    pub(super) async fn publish_all(
        &self,
        publisher: &ConfirmPublisher,
        mut messages: Vec<Arc<Message>>,
    ) -> Vec<Published> {
        let until = || Instant::now() + self.config.answer_timeout;
        let first = match messages.first() {
            Some(first) => self.publish_first(first, until()).await,
            None => None,
        };
        let Some(first) = first else {
            return publisher.publish(messages, until()).await;
        };
        messages.remove(0);
        let rest = if let Published::Safe = first {
            publisher.publish(messages, until()).await
        } else {
            vec![first.clone().not_sent(); messages.len()]
        };
        [vec![first], rest].concat()
    }

    /// Whether this is a call to a quorum queue that has not taken a message on this connection.
    pub(super) fn holds_back(&self, message: &Message) -> bool {
        self.config.queues == QueueType::Quorum
            && has_caller(&message.properties)
            && !self.has_reached(&message.queue)
    }

    /// Whether a quorum queue has taken a message on this connection, so that the next one may go
    /// together with others.
    fn has_reached(&self, name: &ShortString) -> bool {
        let number = self.link.number();
        lock(&self.probed)
            .get(name)
            .is_some_and(|known| Some(known.reached) == number)
    }

    fn probed(&self, name: &ShortString) -> Probed {
        let mut probed = lock(&self.probed);
        if probed.len() >= PROBED_MAX {
            probed.clear();
        }
        probed.entry(name.clone()).or_default().clone()
    }

    fn reached(&self, name: &ShortString, number: u64) {
        if let Some(known) = lock(&self.probed).get_mut(name) {
            known.reached = number;
        }
    }

    /// Publishes the first message to a queue, alone; `None` if it may go together with others.
    async fn publish_first(&self, message: &Arc<Message>, until: Instant) -> Option<Published> {
        let name = &message.queue;
        if self.has_reached(name) {
            return None;
        }
        let probing = self.probed(name).probing;
        let Ok(_alone) = timeout_at(until, probing.lock()).await else {
            return Some(Published::failed(&AmqpFault::timeout(), false));
        };
        if self.has_reached(name) {
            return None;
        }
        let before = self.link.number();
        let published = self.publish(message, until).await;
        if let (Published::Safe, Some(number)) = (&published, before) {
            self.reached(name, number);
        }
        Some(published)
    }

    /// Publishes it, by one channel of its own after the other.
    async fn publish(&self, message: &Arc<Message>, until: Instant) -> Published {
        let (mut patience, mut uncertain) = (PATIENCE, false);
        loop {
            // Its channel ends with it.
            let publisher = ConfirmPublisher::start(&self.config, &self.link, &self.scope);
            let confirmed_by = until.min(Instant::now() + patience);
            let published = publisher.publish(vec![Arc::clone(message)], confirmed_by);
            let fault = match published.await.pop() {
                // An earlier one may be there.
                Some(Published::Declined) if uncertain => AmqpFault::declined(),
                Some(Published::Failed {
                    fault,
                    uncertain: may_be_there,
                }) => {
                    uncertain |= may_be_there;
                    fault
                }
                published => return published.unwrap_or(Published::Safe),
            };
            let may_pass = fault.is_lost() || uncertain || self.waits_while_blocked(&fault);
            if !may_pass || Instant::now() >= until {
                return Published::Failed { fault, uncertain };
            }
            if !fault.is_lost() {
                sleep(AGAIN).await;
            }
            patience *= 2;
        }
    }

    /// Whether the broker only takes nothing for now, and pushes wait for that.
    fn waits_while_blocked(&self, fault: &AmqpFault) -> bool {
        let is_blocked = fault.kind() == ErrorKind::QueueFull && !fault.is_lasting();
        is_blocked && self.config.blocked == Blocked::Wait
    }
}

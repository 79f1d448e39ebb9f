//! Deliveries that came, and are not handed out as they are: read, refused, put elsewhere, dropped.
//!
//! A message that cannot be run never ends a consumer: a call is answered as rejected, anything
//! else goes to the dead letters with the reason. A delivery is acked only when the message that
//! takes its place is confirmed; if this process ends before, the broker has the old message, or
//! both.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::message::Delivery as Received;
use tokio::time::sleep;

use super::super::RabbitMqCore;
use super::super::checks::is_unprintable;
use super::super::consumer_channel::AckAction;
use super::super::lease_table::Delivery;
use super::super::message::{Envelope, Unreadable, is_counted};
use super::super::publisher::{Message, Published};
use super::super::queue_consumer::QueueConsumer;
use super::super::topology::QueueKind;
use crate::error::Error;
use crate::policy::{PAYLOAD_BYTES_MAX, too_late};
use crate::registry;
use crate::sync::lock;

/// Before what could not be set aside is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl RabbitMqCore {
    /// Reads what came; `None` if it is not to be handed out.
    pub(in super::super) fn admit(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        received: Received,
    ) -> Option<Envelope> {
        let is_redelivered = received.redelivered;
        let mut read = Envelope::read(
            &source.queue,
            received.properties,
            received.data,
            PAYLOAD_BYTES_MAX,
        );
        if let Ok(envelope) = &mut read {
            envelope.returned = self.leases.table().returned(envelope);
            envelope.is_uncounted =
                is_redelivered && envelope.returned == 0 && !is_counted(&envelope.properties);
        }
        let envelope = match read {
            Ok(envelope) => envelope,
            Err(unreadable) => {
                self.refuse(source, delivery, unreadable);
                return None;
            }
        };
        let to = envelope.properties.reply_to().as_ref();
        if let Some(to) = to.filter(|to| self.is_own(to.as_str())) {
            let why = format!(
                "its reply_to names {:?}, a queue of jobs: its answer would be run there as a job",
                to.as_str()
            );
            let message = Message {
                queue: "".into(),
                properties: envelope.properties.clone(),
                body: envelope.job.payload.into_string().into_bytes().into(),
            };
            self.set_aside(source, delivery, &why, message);
            return None;
        }
        let early = envelope
            .due
            .and_then(|due| due.duration_since(SystemTime::now()).ok());
        if let Some(early) = early {
            let message = self.storage.message(envelope.next(), early);
            self.aside(source, delivery.clone(), "wait longer", message);
            return None;
        }
        Some(envelope)
    }

    /// Sees to a delivery that is not to be handed out as it is; `false` if it may be. One that
    /// this worker passed before is to be forwarded after a pause.
    pub(super) fn goes_elsewhere(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        envelope: &Arc<Envelope>,
        forward_after: Option<Duration>,
    ) -> bool {
        if !delivery.opened.is_alive() {
            return true;
        }
        let delivery = delivery.clone();
        if self.leases.table().is_being_settled(envelope) {
            self.requeue_later(source, delivery, Arc::clone(envelope));
            return true;
        }
        if self.leases.table().is_copy(envelope) {
            tracing::info!(job = %envelope.id, "the broker brought a job once more that is \
                settled, or held; it is dropped");
            self.drop_copy(source, delivery);
            return true;
        }
        let cancelled = if envelope.is_call() {
            self.leases.table().take_cancelled(envelope)
        } else {
            None
        };
        if let Some(reason) = cancelled {
            self.end_cancelled(source, &delivery, envelope.properties.clone(), reason);
        } else if envelope.is_uncounted && source.counts_deliveries() {
            self.hand_on(source, delivery, envelope, envelope.recounted());
        } else if let Some(pause) = forward_after {
            match self.storage.message(envelope.next(), pause) {
                Ok((QueueKind::Jobs(_), message)) if envelope.is_call() => {
                    self.forward_call(source, delivery, envelope, message)
                }
                message => self.aside(source, delivery, "forward it", message),
            }
        } else if envelope
            .begins_by()
            .is_some_and(|by| by < SystemTime::now())
        {
            self.bury(source, delivery, envelope);
        } else {
            return false;
        }
        true
    }

    /// What cannot be read is answered as rejected, or set aside.
    fn refuse(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        unreadable: Unreadable,
    ) {
        let Unreadable {
            why,
            properties,
            body,
        } = unreadable;
        if self.may_answer(&properties) {
            tracing::warn!(
                queue = source.queue,
                why,
                "a message that is no call is refused"
            );
            return self.refuse_call(source, delivery, *properties, why);
        }
        let message = Message {
            queue: "".into(),
            body,
            properties: *properties,
        };
        self.set_aside(source, delivery, &why, message);
    }

    fn set_aside(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        why: &str,
        message: Message,
    ) {
        tracing::warn!(
            queue = source.queue,
            why,
            "a message that is no job goes to the dead letters"
        );
        self.aside(
            source,
            delivery.clone(),
            "set it aside",
            Ok(self.storage.dead_letter(&source.queue, why, message)),
        );
    }

    /// Whether a refusal may go to whom this message names: to no queue of jobs, and to no name
    /// that cannot be one.
    fn may_answer(&self, properties: &BasicProperties) -> bool {
        let to = properties
            .reply_to()
            .as_ref()
            .map(|to| to.as_str())
            .filter(|to| !to.is_empty());
        to.is_some_and(|to| !is_unprintable(to) && !self.is_own(to))
    }

    /// Whether this is a queue of ours that is not for answers: one that tasks of this program or
    /// this process take from, or that goes with one.
    pub(in super::super) fn is_own(&self, name: &str) -> bool {
        let queue = self.config.queue_of(name);
        if queue == name && !self.config.namespace.is_empty() {
            return false;
        }
        if let Some(rest) = queue.strip_prefix("brigade-") {
            return !rest.starts_with("answers.");
        }
        let base = queue.strip_suffix(".dead").or_else(|| {
            queue
                .rsplit_once(".delay.")
                .or_else(|| queue.rsplit_once(".held."))
                .map(|(base, _)| base)
        });
        let is_task = |name: &str| {
            registry::tasks()
                .is_ok_and(|mut tasks| tasks.any(|task| task.queues().any(|queue| queue == name)))
        };
        let is_queue =
            |name: &str| lock(&self.consumers.queues).contains_key(name) || is_task(name);
        is_queue(queue) || base.is_some_and(is_queue)
    }

    pub(super) fn bury(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: Delivery,
        envelope: &Envelope,
    ) {
        let why = &too_late(envelope.attempt() - 1);
        let dead = envelope
            .next()
            .write("".into())
            .map(|message| self.storage.dead_letter(&source.queue, why, message));
        self.aside(source, delivery, "set it aside", dead);
    }

    /// Goes on as this new message, at the end of its queue.
    pub(in super::super) fn hand_on(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: Delivery,
        envelope: &Envelope,
        next: Envelope,
    ) {
        match self.storage.message(next, Duration::ZERO) {
            Ok((_, message)) if envelope.is_call() => {
                self.forward_call(source, delivery, envelope, message)
            }
            parcel => self.aside(source, delivery, "hand it on", parcel),
        }
    }

    /// What its holder's settlement comes to is known soon; until then it is neither to be run nor
    /// to be dropped.
    pub(super) fn requeue_later(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: Delivery,
        envelope: Arc<Envelope>,
    ) {
        let (core, source) = (Arc::clone(self), Arc::clone(source));
        self.scope.spawn_until_closed(async move {
            sleep(AGAIN).await;
            core.leases.table().returns(&envelope);
            delivery
                .opened
                .acknowledge(vec![delivery.tag], AckAction::Requeue)
                .await
                .ok();
            source.released(&delivery);
        });
    }

    pub(super) fn drop_copy(self: &Arc<Self>, source: &Arc<QueueConsumer>, delivery: Delivery) {
        let (core, source) = (Arc::clone(self), Arc::clone(source));
        self.scope.spawn_until_closed(async move {
            core.drop_delivery(&source, &delivery).await;
        });
    }

    /// Acks a delivery that is not needed any more.
    pub(in super::super) async fn drop_delivery(
        &self,
        source: &QueueConsumer,
        delivery: &Delivery,
    ) {
        delivery
            .opened
            .acknowledge(vec![delivery.tag], AckAction::Ack)
            .await
            .ok();
        source.released(delivery);
    }

    /// Puts a delivery elsewhere, and acks it when it is safe there.
    pub(super) fn aside(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: Delivery,
        what: &'static str,
        parcel: Result<(QueueKind, Message), Error>,
    ) {
        let (core, source) = (Arc::clone(self), Arc::clone(source));
        self.scope
            .spawn_until_closed(self.moving.track_future(async move {
                let parcel = match parcel {
                    Ok(parcel) => parcel,
                    // It stays where it is, and comes again with the next connection.
                    Err(error) => return tracing::error!(%error, what, "could not write a message"),
                };
                while delivery.opened.is_alive() {
                    match core.storage.store(vec![parcel.clone()]).await.pop() {
                        Some(Published::Safe) => {
                            delivery
                                .opened
                                .acknowledge(vec![delivery.tag], AckAction::Ack)
                                .await
                                .ok();
                            return source.released(&delivery);
                        }
                        outcome => tracing::warn!(
                            ?outcome,
                            what,
                            "could not store a message; trying again"
                        ),
                    }
                    sleep(AGAIN).await;
                }
            }));
    }
}

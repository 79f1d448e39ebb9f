//! Deliveries that are not handed out as they are.
//!
//! A message that cannot be run never ends a consumer: a call is answered as rejected, any other
//! message goes to the dead letters with the reason. A delivery is acked only when the message in
//! its place, or the answer, is confirmed. If this process ends before, the broker has the old
//! message, or both.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::message::Delivery as Received;
use tokio::time::sleep;

use super::checks::is_unprintable;
use super::consumer_channel::Delivery;
use super::fault::AmqpFault;
use super::intake::Intake;
use super::leases::{KnownMessage, MessageMark};
use super::message::{Envelope, UnreadableMessage, is_counted};
use super::publisher::Message;
use super::topology::QueueKind;
use super::values::str_of;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled};
use crate::policy::{PAYLOAD_BYTES_MAX, too_late};
use crate::registry;
use brigade_core::store::Answer;

/// The pause after a message could not be stored.
const AGAIN: Duration = Duration::from_secs(1);
/// What the broker has handed out so often does not go back as it is: a quorum queue that others
/// declared may give it up after 20 times.
const DELIVERIES_MAX: u64 = 10;

/// What takes the place of a delivery that is not handed out.
enum Instead {
    /// Nothing: it is a copy.
    Nothing,
    /// Its caller is given this.
    Answer(Box<BasicProperties>, Answer),
    /// Another message, as safe as this mode makes it if it is a call.
    Message(QueueKind, Box<Message>, Option<u8>),
}

impl Intake {
    /// Reads a delivery of a queue.
    pub(super) fn read_job(
        &self,
        queue: &str,
        received: Received,
    ) -> Result<Envelope, UnreadableMessage> {
        let Received {
            redelivered,
            properties,
            data,
            ..
        } = received;
        let mut envelope = Envelope::read(queue, properties, data, PAYLOAD_BYTES_MAX)?;
        envelope.returned = self.leases.table().returned(&envelope);
        envelope.is_uncounted =
            redelivered && envelope.returned == 0 && !is_counted(&envelope.properties);
        Ok(envelope)
    }

    /// What is to be handed out of what was read, if anything is.
    pub(super) fn admit(
        self: &Arc<Self>,
        queue: &str,
        delivery: &Delivery,
        read: Result<Envelope, UnreadableMessage>,
    ) -> Option<Envelope> {
        let envelope = match read {
            Ok(envelope) => envelope,
            Err(unreadable) => {
                self.refuse(queue, delivery, unreadable);
                return None;
            }
        };
        let to = str_of(envelope.properties.reply_to());
        if !to.is_empty() && self.is_own(to) {
            let why = format!(
                "its reply_to names {to:?}, a queue of jobs: its answer would be run there as a job"
            );
            let body = envelope.job.payload.into_string().into_bytes();
            self.set_aside(queue, delivery, &why, envelope.properties, body.into());
            return None;
        }
        let early = envelope
            .due
            .and_then(|due| due.duration_since(SystemTime::now()).ok());
        if let Some(early) = early {
            self.hand_on(delivery, envelope.mark(), envelope.next(), early);
            return None;
        }
        Some(envelope)
    }

    /// Sees to a delivery that is not to be handed out as it is; `false` if it may be. One that
    /// this worker passed before is to be forwarded after a pause. `counts_deliveries` is asked
    /// whether one that was handed out before is to be written again, with its count.
    pub(super) fn goes_elsewhere(
        self: &Arc<Self>,
        delivery: &Delivery,
        envelope: &Arc<Envelope>,
        forward_after: Option<Duration>,
        counts_deliveries: impl FnOnce() -> bool,
    ) -> bool {
        if !delivery.is_alive() {
            return true;
        }
        let known = self.leases.table().known(envelope);
        if let KnownMessage::BeingSettled = known {
            self.wait_for_settlement(delivery, Arc::clone(envelope));
            return true;
        }
        let cancelled = || {
            let mut leases = self.leases.table();
            leases
                .take_cancelled(envelope)
                .filter(|_| envelope.is_call())
        };
        let is_late = || {
            envelope
                .begins_by()
                .is_some_and(|by| by < SystemTime::now())
        };
        if let KnownMessage::Copy = known {
            tracing::info!(job = %envelope.id, "the broker brought a job once more that is \
                settled, or held; it is dropped");
            self.replace(delivery, None, Instead::Nothing);
        } else if let Some(reason) = cancelled() {
            let answer = Answer::of(&CallError::Cancelled(Cancelled::without_report(reason)));
            let asked = Box::new(envelope.properties.clone());
            self.replace(delivery, envelope.mark(), Instead::Answer(asked, answer));
        } else if envelope.is_uncounted && counts_deliveries() {
            let next = envelope.recounted();
            self.hand_on(delivery, envelope.mark(), next, Duration::ZERO);
        } else if let Some(pause) = forward_after {
            self.hand_on(delivery, envelope.mark(), envelope.next(), pause);
        } else if is_late() {
            self.bury(delivery, envelope);
        } else {
            return false;
        }
        true
    }

    /// A message that cannot be read is answered as rejected, or goes to the dead letters.
    fn refuse(self: &Arc<Self>, queue: &str, delivery: &Delivery, unreadable: UnreadableMessage) {
        let UnreadableMessage {
            why,
            properties,
            body,
        } = unreadable;
        if self.may_answer(&properties) {
            // So that its caller does not wait for ever.
            tracing::warn!(queue, why, "a message that is no call is refused");
            let answer = Answer::rejected(ErrorKind::Decode, why);
            self.replace(delivery, None, Instead::Answer(properties, answer));
        } else {
            self.set_aside(queue, delivery, &why, *properties, body);
        }
    }

    fn set_aside(
        self: &Arc<Self>,
        queue: &str,
        delivery: &Delivery,
        why: &str,
        properties: BasicProperties,
        body: bytes::Bytes,
    ) {
        tracing::warn!(
            queue,
            why,
            "a message that is no job goes to the dead letters"
        );
        let message = Message {
            queue: "".into(),
            properties,
            body,
        };
        let (target, message) = self.storage.dead_letter(queue, why, message);
        let instead = Instead::Message(target, Box::new(message), None);
        self.replace(delivery, None, instead);
    }

    fn bury(self: &Arc<Self>, delivery: &Delivery, envelope: &Envelope) {
        let why = &too_late(envelope.attempt() - 1);
        match envelope.next().write("".into()) {
            Ok(message) => {
                let queue = &envelope.job.queue;
                let (target, message) = self.storage.dead_letter(queue, why, message);
                let instead = Instead::Message(target, Box::new(message), None);
                self.replace(delivery, envelope.mark(), instead);
            }
            Err(error) => stays(&error),
        }
    }

    /// Whether a refusal may go to whom this message names: to no queue of jobs, and to no name
    /// that cannot be one.
    fn may_answer(&self, properties: &BasicProperties) -> bool {
        let to = str_of(properties.reply_to());
        !to.is_empty() && !is_unprintable(to) && !self.is_own(to)
    }

    /// Whether this is a queue of ours that is not for answers: one that tasks of this program or
    /// this process take from, or that goes with one.
    fn is_own(&self, name: &str) -> bool {
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
            |name: &str| self.served.contains(&self.config.name_of(name)) || is_task(name);
        is_queue(queue) || base.is_some_and(is_queue)
    }

    /// A delivery, of a message with this mark, goes on as this new message, at the end of its
    /// queue, after this time.
    fn hand_on(
        self: &Arc<Self>,
        delivery: &Delivery,
        mark: Option<MessageMark>,
        next: Envelope,
        after: Duration,
    ) {
        let mode = *next.properties.delivery_mode();
        match self.storage.message(next, after) {
            Ok((target, message)) => {
                let instead = Instead::Message(target, Box::new(message), mode);
                self.replace(delivery, mark, instead);
            }
            Err(error) => stays(&error),
        }
    }

    /// Gives a delivery back to its place in the queue.
    pub(super) async fn give_back(
        self: &Arc<Self>,
        delivery: &Delivery,
        envelope: &Envelope,
    ) -> Result<(), AmqpFault> {
        if envelope.deliveries >= DELIVERIES_MAX {
            // The broker would give it up: as a new message it is counted from the beginning.
            self.hand_on(delivery, envelope.mark(), envelope.next(), Duration::ZERO);
            return Ok(());
        }
        self.leases.table().returns(envelope);
        delivery.requeue().await
    }

    /// Waits for the settlement of its earlier delivery: until then it is neither to be run nor to
    /// be dropped. If that settlement counts, this delivery is acked; if not, it goes back.
    fn wait_for_settlement(self: &Arc<Self>, delivery: &Delivery, envelope: Arc<Envelope>) {
        let (intake, delivery) = (Arc::clone(self), delivery.clone());
        self.scope.spawn_until_closed(async move {
            let finished = intake.leases.until_finished(&envelope);
            let is_alive = delivery.opened.dead.run_until_cancelled(finished).await;
            let known = intake.leases.table().known(&envelope);
            // Both fail only if the broker gives it to another consumer anyway.
            match is_alive {
                Some(()) if matches!(known, KnownMessage::Copy) => drop(delivery.ack().await),
                Some(()) => drop(intake.give_back(&delivery, &envelope).await),
                None => {}
            }
        });
    }

    /// Puts something in the place of a delivery, and acks that when it is safe. Tried again until
    /// then, or until the broker gives the delivery to another consumer. If the ack is lost, the
    /// message with this mark is dropped when it comes again.
    fn replace(self: &Arc<Self>, delivery: &Delivery, mark: Option<MessageMark>, instead: Instead) {
        self.leases.table().begin_settling(mark.clone());
        let (intake, delivery) = (Arc::clone(self), delivery.clone());
        let replacing = async move {
            let is_replaced = intake.put_until_safe(&delivery, &instead).await;
            if is_replaced {
                intake.leases.table().settled(mark.clone());
            }
            intake.leases.finish(mark);
            if is_replaced {
                // If this fails, it comes again.
                delivery.ack().await.ok();
            }
        };
        self.scope
            .spawn_until_closed(self.moving.track_future(replacing));
    }

    /// Whether it is safe; `false` if the broker gives the delivery to another consumer before.
    async fn put_until_safe(&self, delivery: &Delivery, instead: &Instead) -> bool {
        while delivery.is_alive() {
            match self.put_instead(instead).await {
                Ok(()) => return true,
                Err(error) => {
                    tracing::warn!(%error, "could not store a message that takes the place of \
                        another; trying again");
                }
            }
            sleep(AGAIN).await;
        }
        false
    }

    async fn put_instead(&self, instead: &Instead) -> Result<(), Error> {
        match instead {
            Instead::Nothing => Ok(()),
            Instead::Answer(asked, answer) => self.answers.give(asked, Err(answer.clone())).await,
            Instead::Message(target, message, mode) => {
                let message = Message::clone(message);
                self.put(target.clone(), message, *mode).await
            }
        }
    }
}

/// A message could not be written in another place: it stays where it is, and comes again with the
/// next connection.
fn stays(error: &Error) {
    tracing::error!(%error, "could not write a message");
}

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
use super::delivery::Delivery;
use super::intake::Intake;
use super::message::{Envelope, UnreadableMessage, is_counted};
use super::publisher::{Message, Published};
use super::topology::QueueKind;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled};
use crate::policy::{PAYLOAD_BYTES_MAX, too_late};
use crate::registry;
use brigade_core::store::Answer;

/// The pause after a message could not be stored.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a settlement has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Intake {
    /// Reads a delivery of a queue; `None` if it is not to be handed out.
    pub(super) fn admit(
        self: &Arc<Self>,
        queue: &str,
        delivery: &Delivery,
        received: Received,
    ) -> Option<Envelope> {
        let Received {
            redelivered,
            properties,
            data,
            ..
        } = received;
        let mut envelope = match Envelope::read(queue, properties, data, PAYLOAD_BYTES_MAX) {
            Ok(envelope) => envelope,
            Err(unreadable) => {
                self.refuse(queue, delivery, unreadable);
                return None;
            }
        };
        envelope.returned = self.leases.table().returned(&envelope);
        envelope.is_uncounted =
            redelivered && envelope.returned == 0 && !is_counted(&envelope.properties);
        let to = envelope.properties.reply_to().as_ref();
        if let Some(to) = to.filter(|to| self.is_own(to.as_str())) {
            let why = format!(
                "its reply_to names {:?}, a queue of jobs: its answer would be run there as a job",
                to.as_str()
            );
            let body = envelope.job.payload.into_string().into_bytes();
            self.set_aside(queue, delivery, &why, envelope.properties, body.into());
            return None;
        }
        let early = envelope
            .due
            .and_then(|due| due.duration_since(SystemTime::now()).ok());
        if let Some(early) = early {
            let message = self.storage.message(envelope.next(), early);
            self.store_instead(delivery, "wait longer", message);
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
        if self.leases.table().is_being_settled(envelope) {
            self.wait_for_settlement(delivery, Arc::clone(envelope));
            return true;
        }
        if self.leases.table().is_copy(envelope) {
            tracing::info!(job = %envelope.id, "the broker brought a job once more that is \
                settled, or held; it is dropped");
            self.drop_later(delivery, async { Ok(()) });
            return true;
        }
        let cancelled = if envelope.is_call() {
            self.leases.table().take_cancelled(envelope)
        } else {
            None
        };
        if let Some(reason) = cancelled {
            let answer = Answer::of(&CallError::Cancelled(Cancelled::without_report(reason)));
            self.answer_instead(delivery, envelope.properties.clone(), answer);
        } else if envelope.is_uncounted && counts_deliveries() {
            self.hand_on(delivery, envelope, envelope.recounted(), Duration::ZERO);
        } else if let Some(pause) = forward_after {
            self.hand_on(delivery, envelope, envelope.next(), pause);
        } else if envelope
            .begins_by()
            .is_some_and(|by| by < SystemTime::now())
        {
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
            self.answer_instead(delivery, *properties, answer);
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
        let dead = self.storage.dead_letter(queue, why, message);
        self.store_instead(delivery, "set it aside", Ok(dead));
    }

    fn bury(self: &Arc<Self>, delivery: &Delivery, envelope: &Envelope) {
        let why = &too_late(envelope.attempt() - 1);
        let message = envelope.next().write("".into());
        let dead =
            message.map(|message| self.storage.dead_letter(&envelope.job.queue, why, message));
        self.store_instead(delivery, "set it aside", dead);
    }

    /// Whether a refusal may go to whom this message names: to no queue of jobs, and to no name
    /// that cannot be one.
    fn may_answer(&self, properties: &BasicProperties) -> bool {
        let to = properties.reply_to().as_ref().map(|to| to.as_str());
        to.is_some_and(|to| !to.is_empty() && !is_unprintable(to) && !self.is_own(to))
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

    /// Goes on as this new message, at the end of its queue, after this time. A call is not stored
    /// on disk for that: the longer its delivery is held, the likelier it comes again when this
    /// worker ends.
    pub(super) fn hand_on(
        self: &Arc<Self>,
        delivery: &Delivery,
        envelope: &Envelope,
        next: Envelope,
        after: Duration,
    ) {
        match self.storage.message(next, after) {
            Ok((QueueKind::Jobs(_), message)) if envelope.is_call() => {
                let intake = Arc::clone(self);
                let mode = *envelope.properties.delivery_mode();
                let sending = async move { intake.answers.send_on(message, mode).await };
                self.drop_later(delivery, sending);
            }
            message => self.store_instead(delivery, "hand it on", message),
        }
    }

    /// Waits for the settlement of its earlier delivery: until then it is neither to be run nor to
    /// be dropped. If that settlement counts, this delivery is acked; if not, it goes back.
    fn wait_for_settlement(self: &Arc<Self>, delivery: &Delivery, envelope: Arc<Envelope>) {
        let (intake, delivery) = (Arc::clone(self), delivery.clone());
        self.scope.spawn_until_closed(async move {
            while intake.leases.table().is_being_settled(&envelope) && delivery.is_alive() {
                sleep(LOOK_AGAIN).await;
            }
            let is_copy = intake.leases.table().is_copy(&envelope);
            if is_copy {
                delivery.ack().await.ok();
            } else {
                intake.leases.table().returns(&envelope);
                delivery.requeue().await.ok();
            }
        });
    }

    /// Answers the caller of a message that is not run.
    fn answer_instead(
        self: &Arc<Self>,
        delivery: &Delivery,
        asked: BasicProperties,
        answer: Answer,
    ) {
        let intake = Arc::clone(self);
        let answering = async move { intake.answers.give(&asked, Err(answer)).await };
        self.drop_later(delivery, answering);
    }

    /// Acks a delivery when this went well.
    fn drop_later(
        &self,
        delivery: &Delivery,
        doing: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let delivery = delivery.clone();
        let dropping = async move {
            if doing.await.is_ok() {
                delivery.ack().await.ok();
            }
        };
        self.scope
            .spawn_until_closed(self.moving.track_future(dropping));
    }

    /// Puts a message in the place of a delivery, and acks that when the message is safe.
    fn store_instead(
        self: &Arc<Self>,
        delivery: &Delivery,
        what: &'static str,
        message: Result<(QueueKind, Message), Error>,
    ) {
        let message = match message {
            Ok(message) => message,
            // It stays where it is, and comes again with the next connection.
            Err(error) => return tracing::error!(%error, what, "could not write a message"),
        };
        let (intake, delivery) = (Arc::clone(self), delivery.clone());
        let moving = async move {
            while delivery.is_alive() {
                let stored = intake.storage.store(vec![message.clone()]).await.pop();
                if let Some(Published::Safe) = stored {
                    return drop(delivery.ack().await);
                }
                tracing::warn!(?stored, what, "could not store a message; trying again");
                sleep(AGAIN).await;
            }
        };
        self.scope
            .spawn_until_closed(self.moving.track_future(moving));
    }
}

//! Handing out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lapin::BasicProperties;
use lapin::message::Delivery;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};

use super::acks::Said;
use super::checks::is_unprintable;
use super::held::{Grip, Held};
use super::message::{Envelope, Unreadable, is_counted};
use super::publisher::{Message, Published};
use super::tap::Tap;
use super::topology::Spot;
use super::{PAYLOAD_BYTES_MAX, RabbitMqCore};
use crate::broker::{Ending, LeaseAsk, Leased, Terms};
use crate::clock::{BootTime, later};
use crate::error::Error;
use crate::job::AttemptKind;
use crate::registry;
use crate::sync::lock;

/// Before what could not be set aside is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Leases are looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl RabbitMqCore {
    /// Hands out jobs; waits for the first as long as the ask says.
    pub(super) async fn lease(self: &Arc<Self>, ask: LeaseAsk) -> Result<Vec<Leased>, Error> {
        self.end_expired().await;
        if ask.queues.len() != 1 {
            return self.lease_of_several(&ask).await;
        }
        let Some(queue) = ask.queues.names().first() else {
            return Ok(Vec::new());
        };
        self.storage.topology.check_name(queue)?;
        let tap = self.tap(queue);
        if ask.wait.is_zero() {
            return self.lease_now(&[tap], &ask).await;
        }
        let asking = tap.ask(ask.max);
        let leased = self.wait_for_some(&tap, &ask).await;
        drop(asking);
        if ask.enough.is_cancelled() {
            tap.hurry();
        }
        leased
    }

    async fn wait_for_some(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        ask: &LeaseAsk,
    ) -> Result<Vec<Leased>, Error> {
        let until = later(Instant::now(), ask.wait);
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let found = self.hand_out(tap, ask.max, ask.terms).await;
            if !found.is_empty() || ask.enough.is_cancelled() {
                return Ok(found);
            }
            let is_over = Instant::now() >= until;
            if let Some(fault) = tap
                .refusal()
                .or_else(|| self.hands_link.fault().filter(|_| is_over))
            {
                return Err(fault.into_error("lease"));
            }
            if is_over {
                return Ok(found);
            }
            tokio::select! {
                () = news => {}
                () = sleep_until(until.into()) => {}
                () = ask.enough.cancelled() => {}
            }
        }
    }

    /// What is there now, in the order of the queues.
    pub(super) async fn lease_now(
        self: &Arc<Self>,
        taps: &[Arc<Tap>],
        ask: &LeaseAsk,
    ) -> Result<Vec<Leased>, Error> {
        let mut found = Vec::new();
        for tap in taps {
            loop {
                found.extend(self.hand_out(tap, ask.max - found.len(), ask.terms).await);
                if found.len() >= ask.max || ask.enough.is_cancelled() {
                    return Ok(found);
                }
                match tap.fetch(self).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) if found.is_empty() => return Err(fault.into_error("lease")),
                    Err(_) => return Ok(found),
                }
            }
        }
        Ok(found)
    }

    /// Hands out what a tap has.
    pub(super) async fn hand_out(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        max: usize,
        terms: Terms,
    ) -> Vec<Leased> {
        let (since, since_boot) = (Instant::now(), BootTime::now());
        let mut leased = Vec::new();
        let mut rest = tap.take(max);
        while let Some((grip, mut envelope)) = rest.first() {
            let pause = self.comes_back(&grip, &mut envelope).await;
            rest.drop_first();
            if !grip.opened.is_alive() {
                continue;
            }
            if lock(&self.hands).is_being_settled(&envelope) {
                self.requeue_later(tap, grip, envelope);
                continue;
            }
            if lock(&self.hands).is_copy(&envelope) {
                tracing::info!(job = %envelope.id, "the broker brought a job once more that is \
                    settled, or held; it is dropped");
                self.drop_copy(tap, grip);
                continue;
            }
            if envelope.is_call()
                && let Some(reason) = lock(&self.hands).take_cancelled(&envelope)
            {
                self.end_cancelled(tap, &grip, envelope.properties.clone(), reason);
                continue;
            }
            if envelope.is_uncounted && tap.counts_deliveries() {
                self.hand_on(tap, grip, &envelope, envelope.recounted());
                continue;
            }
            if let Some(pause) = pause {
                match self.storage.message(envelope.next(), pause) {
                    Ok((Spot::Jobs(_), message)) if envelope.is_call() => {
                        self.forward_call(tap, grip, &envelope, message)
                    }
                    parcel => self.aside(tap, grip, "forward it", parcel),
                }
                continue;
            }
            if envelope
                .begins_by()
                .is_some_and(|by| by < SystemTime::now())
            {
                self.bury(tap, grip, &envelope);
                continue;
            }
            let token = self.next_token();
            match terms {
                Terms::Lease(time) => {
                    self.warn_of_time(tap, &envelope);
                    self.answers.tell_begun(&envelope.properties);
                    let held = Held {
                        tap: Arc::clone(tap),
                        grip,
                        envelope: Arc::clone(&envelope),
                        until: later(self.now_after(since), time),
                    };
                    lock(&self.hands).hold(token, held);
                    self.holding.notify_one();
                }
                Terms::Take => {
                    let acked = grip.opened.say(vec![grip.tag], Said::Ack).await;
                    tap.released(&grip);
                    if let Err(fault) = acked {
                        // Not handed out, so it is no copy if it comes again: that is the job
                        // itself, which the broker still has.
                        tracing::warn!(%fault, job = %envelope.id, "a job was not taken: the \
                            broker did not answer; it comes again unless it heard");
                        continue;
                    }
                    lock(&self.hands).settled(&envelope);
                }
            }
            leased.push(Leased {
                id: envelope.id.clone(),
                token,
                since: since_boot,
                attempt: envelope.attempt(),
                crashed: envelope.crashed,
                lost: envelope.losses(),
                unserved: envelope.unserved,
                is_call: envelope.is_call(),
                job: envelope.job.clone(),
            });
        }
        leased
    }

    /// Reads what came; `None` if it is not to be handed out.
    pub(super) fn admit(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: &Grip,
        delivery: Delivery,
    ) -> Option<Envelope> {
        let is_redelivered = delivery.redelivered;
        let mut read = Envelope::read(
            &tap.queue,
            delivery.properties,
            delivery.data,
            PAYLOAD_BYTES_MAX,
        );
        if let Ok(envelope) = &mut read {
            envelope.returned = lock(&self.hands).returned(envelope);
            envelope.is_uncounted =
                is_redelivered && envelope.returned == 0 && !is_counted(&envelope.properties);
        }
        match read {
            Ok(envelope)
                if envelope
                    .properties
                    .reply_to()
                    .as_ref()
                    .is_some_and(|to| self.is_own(to.as_str())) =>
            {
                let to = envelope
                    .properties
                    .reply_to()
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let why = format!(
                    "its reply_to names {to:?}, a queue of jobs: its answer would be run there as \
                        a job"
                );
                let message = envelope.properties.clone();
                let message = Message {
                    queue: "".into(),
                    body: envelope.job.payload.into_string().into_bytes().into(),
                    properties: message,
                };
                self.set_aside(tap, grip, &why, message);
                None
            }
            Ok(envelope) => match envelope
                .due
                .and_then(|due| due.duration_since(SystemTime::now()).ok())
            {
                None => Some(envelope),
                Some(early) => {
                    self.aside(
                        tap,
                        grip.clone(),
                        "wait longer",
                        self.storage.message(envelope.next(), early),
                    );
                    None
                }
            },
            Err(Unreadable {
                why, properties, ..
            }) if self.may_answer(&properties) => {
                tracing::warn!(
                    queue = tap.queue,
                    why,
                    "a message that is no call is refused"
                );
                self.refuse_call(tap, grip, *properties, why);
                None
            }
            Err(Unreadable {
                why,
                properties,
                body,
            }) => {
                self.set_aside(
                    tap,
                    grip,
                    &why,
                    Message {
                        queue: "".into(),
                        body,
                        properties: *properties,
                    },
                );
                None
            }
        }
    }

    fn set_aside(self: &Arc<Self>, tap: &Arc<Tap>, grip: &Grip, why: &str, message: Message) {
        tracing::warn!(
            queue = tap.queue,
            why,
            "a message that is no job goes to the dead letters"
        );
        self.aside(
            tap,
            grip.clone(),
            "set it aside",
            self.storage.dead_letter(&tap.queue, why, message),
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
    pub(super) fn is_own(&self, name: &str) -> bool {
        let queue = self.place.queue_of(name);
        if queue == name && !self.place.namespace.is_empty() {
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
        let is_queue = |name: &str| lock(&self.taps).contains_key(name) || is_task(name);
        is_queue(queue) || base.is_some_and(is_queue)
    }

    fn bury(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip, envelope: &Envelope) {
        let why = if envelope.attempt() == 1 {
            "no attempt began within the time that it had"
        } else {
            "the time for its attempts is over"
        };
        let dead = envelope
            .next()
            .write("", None)
            .and_then(|message| self.storage.dead_letter(&tap.queue, why, message));
        self.aside(tap, grip, "set it aside", dead);
    }

    /// Goes on as this new message, at the end of its queue.
    pub(super) fn hand_on(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: Grip,
        envelope: &Envelope,
        next: Envelope,
    ) {
        match self.storage.message(next, Duration::ZERO) {
            Ok((_, message)) if envelope.is_call() => {
                self.forward_call(tap, grip, envelope, message)
            }
            parcel => self.aside(tap, grip, "hand it on", parcel),
        }
    }

    /// What its holder's settlement comes to is known soon; until then it is neither to be run nor
    /// to be dropped.
    fn requeue_later(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip, envelope: Arc<Envelope>) {
        let (core, tap) = (Arc::clone(self), Arc::clone(tap));
        self.scope.spawn_until_closed(async move {
            sleep(AGAIN).await;
            lock(&core.hands).returns(&envelope);
            grip.opened.say(vec![grip.tag], Said::Requeue).await.ok();
            tap.released(&grip);
        });
    }

    fn drop_copy(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip) {
        let (core, tap) = (Arc::clone(self), Arc::clone(tap));
        self.scope.spawn_until_closed(async move {
            core.drop_delivery(&tap, &grip).await;
        });
    }

    /// Nobody needs it any more.
    pub(super) async fn drop_delivery(&self, tap: &Tap, grip: &Grip) {
        grip.opened.say(vec![grip.tag], Said::Ack).await.ok();
        tap.released(grip);
    }

    /// Puts a delivery elsewhere, and acks it when it is safe there.
    fn aside(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: Grip,
        what: &'static str,
        parcel: Result<(Spot, Message), Error>,
    ) {
        let (core, tap) = (Arc::clone(self), Arc::clone(tap));
        self.scope
            .spawn_until_closed(self.moving.track_future(async move {
                let parcel = match parcel {
                    Ok(parcel) => parcel,
                    // It stays where it is, and comes again with the next connection.
                    Err(error) => return tracing::error!(%error, what, "could not write a message"),
                };
                while grip.opened.is_alive() {
                    match core.storage.store(vec![parcel.clone()]).await.pop() {
                        Some(Published::Safe) => {
                            grip.opened.say(vec![grip.tag], Said::Ack).await.ok();
                            return tap.released(&grip);
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

    /// Ends leases when their time is over, for ever.
    pub(super) async fn watch_leases(self: Arc<Self>) {
        loop {
            let next = lock(&self.hands).next_end();
            match next {
                None => self.holding.notified().await,
                Some(end) => {
                    let left = end.saturating_duration_since(self.now_after(Instant::now()));
                    // One that could not be ended is tried again, but not at once.
                    sleep(
                        left.min(LOOK_EVERY)
                            .min(self.consumer_timeout() / 20)
                            .max(LOOK_PAUSE),
                    )
                    .await;
                    self.end_expired().await;
                    self.exchange_old();
                }
            }
        }
    }

    /// Gives back what was held for too long. What has been begun is done even if nobody waits for
    /// it.
    async fn end_expired(self: &Arc<Self>) {
        let now = self.now_after(Instant::now());
        let expired = lock(&self.hands).expired(now);
        let ending = || Ending::GiveBack {
            kind: AttemptKind::Interrupted,
            reason: "its lease ran out".to_owned(),
            after: Duration::ZERO,
        };
        let lost = |(token, mut held): (i64, Held)| {
            let envelope = Arc::make_mut(&mut held.envelope);
            envelope.lost = envelope.lost.saturating_add(1);
            (token, held, ending(), None)
        };
        let expired: Vec<_> = expired.into_iter().map(lost).collect();
        if expired.is_empty() {
            return;
        }
        let (tell, told) = oneshot::channel::<()>();
        let core = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            core.end_all(expired).await;
            drop(tell);
        });
        told.await.ok();
    }
}

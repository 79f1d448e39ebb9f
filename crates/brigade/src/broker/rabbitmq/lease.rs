//! Handing out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lapin::message::Delivery;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};

use super::acks::Said;
use super::held::{Grip, Held};
use super::message::{Envelope, Unreadable, has_caller};
use super::publish::{Message, Published};
use super::tap::{Ask, Tap};
use super::topology::Spot;
use super::{PAYLOAD_BYTES_MAX, RabbitMqCore};
use crate::broker::{Ending, LeaseAsk, Leased, Terms};
use crate::clock::BootTime;
use crate::error::Error;
use crate::job::AttemptKind;
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
        for queue in ask.queues.iter() {
            self.topology.check_name(queue)?;
        }
        self.end_expired().await;
        let taps: Vec<Arc<Tap>> = ask.queues.iter().map(|queue| self.tap(queue)).collect();
        if ask.wait.is_zero() {
            return self.lease_now(&taps, &ask).await;
        }
        let asks: Vec<Ask> = taps.iter().map(|tap| tap.ask(ask.max)).collect();
        let leased = self.wait_for_some(&taps, &ask).await;
        drop(asks);
        if ask.enough.is_cancelled() {
            taps.iter().for_each(|tap| tap.hurry());
        }
        leased
    }

    async fn wait_for_some(self: &Arc<Self>, taps: &[Arc<Tap>], ask: &LeaseAsk) -> Result<Vec<Leased>, Error> {
        let until = Instant::now() + ask.wait;
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let mut found = Vec::new();
            for tap in taps {
                found.extend(self.hand_out(tap, ask.max - found.len(), ask.terms).await);
            }
            if !found.is_empty() || ask.enough.is_cancelled() {
                return Ok(found);
            }
            let refusal = taps.iter().find_map(|tap| tap.refusal());
            let is_over = Instant::now() >= until;
            if let Some(fault) = refusal.or_else(|| self.hands_link.fault().filter(|_| is_over)) {
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
    async fn lease_now(self: &Arc<Self>, taps: &[Arc<Tap>], ask: &LeaseAsk) -> Result<Vec<Leased>, Error> {
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
    async fn hand_out(self: &Arc<Self>, tap: &Arc<Tap>, max: usize, terms: Terms) -> Vec<Leased> {
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
                self.requeue_later(tap, grip);
                continue;
            }
            if lock(&self.hands).is_copy(&envelope) {
                tracing::info!(job = %envelope.id, "the broker brought a job once more that is settled, or held; it is dropped");
                self.drop_copy(tap, grip);
                continue;
            }
            if envelope.is_call()
                && let Some(reason) = lock(&self.hands).take_cancelled(&envelope)
            {
                self.end_cancelled(tap, &grip, envelope.properties.clone(), reason);
                continue;
            }
            if let Some(pause) = pause {
                match self.parcel(envelope.next(), pause) {
                    Ok((Spot::Jobs(_), message)) if envelope.is_call() => self.forward_call(tap, grip, &envelope, message),
                    parcel => self.aside(tap, grip, "forward it", parcel),
                }
                continue;
            }
            if envelope.begins_by().is_some_and(|by| by < SystemTime::now()) {
                self.bury(tap, grip, &envelope);
                continue;
            }
            let token = self.next_token();
            match terms {
                Terms::Lease(time) => {
                    self.warn_of_time(tap, &envelope);
                    self.tell_begun(&envelope.properties);
                    let held = Held { tap: Arc::clone(tap), grip, envelope: Arc::clone(&envelope), until: self.now_after(since) + time };
                    lock(&self.hands).hold(token, held);
                    self.holding.notify_one();
                }
                Terms::Take => {
                    lock(&self.hands).settled(&envelope);
                    let acked = grip.opened.say(vec![grip.tag], Said::Ack).await;
                    tap.released(&grip);
                    if acked.is_err() {
                        // It may come again: then it is a copy, and as gone as it would be now.
                        continue;
                    }
                }
            }
            leased.push(Leased {
                id: envelope.id.clone(),
                token,
                since: since_boot,
                attempt: envelope.failed + envelope.crashed + 1,
                crashed: envelope.crashed,
                lost: envelope.lost,
                unserved: envelope.unserved,
                is_call: envelope.is_call(),
                job: envelope.job.clone(),
            });
        }
        leased
    }

    /// Reads what came; `None` if it is not to be handed out.
    pub(super) fn admit(self: &Arc<Self>, tap: &Arc<Tap>, grip: &Grip, delivery: Delivery) -> Option<Envelope> {
        match Envelope::read(&tap.queue, delivery.properties, delivery.data, PAYLOAD_BYTES_MAX) {
            Ok(envelope) => match envelope.due.and_then(|due| due.duration_since(SystemTime::now()).ok()) {
                None => Some(envelope),
                Some(early) => {
                    self.aside(tap, grip.clone(), "wait longer", self.parcel(envelope.next(), early));
                    None
                }
            },
            Err(Unreadable { why, properties, .. }) if has_caller(&properties) => {
                tracing::warn!(queue = tap.queue, why, "a message that is no call is refused");
                self.refuse_call(tap, grip, *properties, why);
                None
            }
            Err(Unreadable { why, properties, body }) => {
                tracing::warn!(queue = tap.queue, why, "a message that is no job goes to the dead letters");
                let message = Message { queue: "".into(), body, properties: *properties };
                self.aside(tap, grip.clone(), "set it aside", self.dead_parcel(&tap.queue, &why, message));
                None
            }
        }
    }

    fn bury(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip, envelope: &Envelope) {
        let attempts = envelope.failed + envelope.crashed;
        let why = if attempts == 0 { "no attempt began within the time that it had" } else { "the time for its attempts is over" };
        let dead = envelope.next().write("", None).and_then(|message| self.dead_parcel(&tap.queue, why, message));
        self.aside(tap, grip, "set it aside", dead);
    }

    /// What its holder's settlement comes to is known soon; until then it is neither to be run nor to be dropped.
    fn requeue_later(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip) {
        let tap = Arc::clone(tap);
        self.scope.spawn_until_closed(async move {
            sleep(AGAIN).await;
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
    fn aside(self: &Arc<Self>, tap: &Arc<Tap>, grip: Grip, what: &'static str, parcel: Result<(Spot, Message), Error>) {
        let (core, tap) = (Arc::clone(self), Arc::clone(tap));
        self.scope.spawn_until_closed(self.moving.track_future(async move {
            let parcel = match parcel {
                Ok(parcel) => parcel,
                // It stays where it is, and comes again with the next connection.
                Err(error) => return tracing::error!(%error, what, "could not write a message"),
            };
            while grip.opened.is_alive() {
                match core.store(vec![parcel.clone()]).await.pop() {
                    Some(Published::Safe) => {
                        grip.opened.say(vec![grip.tag], Said::Ack).await.ok();
                        return tap.released(&grip);
                    }
                    outcome => tracing::warn!(?outcome, what, "could not store a message; trying again"),
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
                    sleep(left.min(LOOK_EVERY).min(self.consumer_timeout() / 20).max(LOOK_PAUSE)).await;
                    self.end_expired().await;
                    self.exchange_old();
                }
            }
        }
    }

    /// Gives back what was held for too long. What has been begun is done even if nobody waits for it.
    async fn end_expired(self: &Arc<Self>) {
        let now = self.now_after(Instant::now());
        let expired = lock(&self.hands).expired(now);
        let ending = || Ending::GiveBack { kind: AttemptKind::Interrupted, reason: "its lease ran out".to_owned(), after: Duration::ZERO };
        let lost = |(token, mut held): (i64, Held)| {
            Arc::make_mut(&mut held.envelope).lost += 1;
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

//! Handing out jobs.
//!
//! A lease request *asks* the consumers of its queues (`queue_consumer`) and waits until one has a
//! job. Before a job is handed out, `arrival` and `pass` check it: a copy of a message that is
//! settled or held is dropped, a cancelled call is answered, a job that this worker passed is
//! forwarded, a job that is too late goes to the dead letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::consumer_channel::Delivery;
use super::consumers::Consumers;
use super::fault::AmqpFault;
use super::leases::HeldDelivery;
use super::message::Envelope;
use super::queue_consumer::{Ask, QueueConsumer};
use super::queue_groups::QueueGroup;
use crate::clock::{BootTime, later};
use crate::error::Error;
use brigade_core::store::{DeliveryMode, LeaseRequest, Leased};

/// A queue that says nothing for so long holds up no other.
const STUCK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Consumers {
    /// Hands out jobs; waits for the first as long as the ask says.
    pub(super) async fn lease(&self, ask: LeaseRequest) -> Result<Vec<Leased>, Error> {
        // Those that the broker takes at once may be handed out again by this request.
        timeout(STUCK, self.intake.end_expired()).await.ok();
        match ask.queues.names() {
            [] => Ok(Vec::new()),
            [queue] => self.lease_of_one(&self.of(queue)?, &ask).await,
            _ => self.lease_of_several(&ask).await,
        }
    }

    async fn lease_of_one(
        &self,
        source: &Arc<QueueConsumer>,
        ask: &LeaseRequest,
    ) -> Result<Vec<Leased>, Error> {
        if ask.wait.is_zero() {
            return self.lease_now(&[Arc::clone(source)], ask).await;
        }
        let until = later(Instant::now(), ask.wait);
        let asking = source.ask(ask.max, false);
        loop {
            let mut news = std::pin::pin!(self.intake.news.notified());
            news.as_mut().enable();
            let found = self.hand_out(source, ask.max, ask.mode).await;
            if ask.enough.is_cancelled() {
                // First, as nothing is in excess while it is asked for.
                drop(asking);
                source.hurry();
                return Ok(found);
            }
            if !found.is_empty() {
                return Ok(found);
            }
            if let Some(fault) = source.refusal() {
                return Err(fault.into_error("lease"));
            }
            if Instant::now() >= until {
                return self.nothing_came(None);
            }
            tokio::select! {
                () = news => {}
                () = sleep_until(until.into()) => {}
                () = ask.enough.cancelled() => {}
            }
        }
    }

    /// The time of an ask is over; `refusal`: why nothing can come.
    fn nothing_came(&self, refusal: Option<AmqpFault>) -> Result<Vec<Leased>, Error> {
        match refusal.or_else(|| self.intake.link.fault()) {
            Some(fault) => Err(fault.into_error("lease")),
            None => Ok(Vec::new()),
        }
    }

    /// As many jobs as are wanted of several queues.
    async fn lease_of_several(&self, ask: &LeaseRequest) -> Result<Vec<Leased>, Error> {
        let group = self.group(&ask.queues)?;
        if ask.wait.is_zero() {
            let consumers: Vec<Arc<QueueConsumer>> = (0..ask.queues.len())
                .map(|rank| Arc::clone(&group.consumers[ask.queues.place(rank)]))
                .collect();
            return self.lease_now(&consumers, ask).await;
        }
        let until = later(Instant::now(), ask.wait);
        let _using = group.begin();
        let mut asks = HashMap::new();
        loop {
            let mut news = std::pin::pin!(self.intake.news.notified());
            news.as_mut().enable();
            let found = self.walk(&group, ask, &mut asks).await;
            if ask.enough.is_cancelled() {
                asks.clear();
                group.end();
                return Ok(found);
            }
            if !found.is_empty() {
                return Ok(found);
            }
            if Instant::now() >= until {
                let mut places = asks.keys();
                let refusal = places.find_map(|place: &usize| group.consumers[*place].refusal());
                return self.nothing_came(refusal);
            }
            let look = if asks.is_empty() {
                until
            } else {
                until.min(later(Instant::now(), LOOK_AGAIN))
            };
            tokio::select! {
                () = news => {}
                () = sleep_until(look.into()) => {}
                () = ask.enough.cancelled() => {}
            }
        }
    }

    /// Looks at the queues in their order, as far as those before have none.
    async fn walk(
        &self,
        group: &QueueGroup,
        ask: &LeaseRequest,
        asks: &mut HashMap<usize, (Ask, Instant)>,
    ) -> Vec<Leased> {
        let mut found: Vec<Leased> = Vec::new();
        for place in group.places(&ask.queues) {
            let source = &group.consumers[place];
            found.extend(self.hand_out(source, ask.max - found.len(), ask.mode).await);
            if found.len() >= ask.max {
                break;
            }
            if source.is_dry() {
                asks.remove(&place);
                group.is_dry(place);
                continue;
            }
            let asked = asks.get(&place);
            let is_stuck = asked.is_some_and(|(_, since)| since.elapsed() > STUCK);
            let holds_up = !source.has_failed() && !is_stuck;
            if !holds_up || found.is_empty() {
                asks.entry(place)
                    .or_insert_with(|| (source.ask(ask.max, true), Instant::now()));
            }
            if holds_up {
                // Those behind wait until it is known to have no more.
                break;
            }
        }
        found
    }

    /// Jobs that are there now, in the order of the queues.
    async fn lease_now(
        &self,
        consumers: &[Arc<QueueConsumer>],
        ask: &LeaseRequest,
    ) -> Result<Vec<Leased>, Error> {
        let mut found = Vec::new();
        for source in consumers {
            // What it fetches is not given back before it was here to take it.
            let _fetching = source.fetching();
            loop {
                found.extend(self.hand_out(source, ask.max - found.len(), ask.mode).await);
                if found.len() >= ask.max || ask.enough.is_cancelled() {
                    return Ok(found);
                }
                match source.fetch().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) if found.is_empty() => return Err(fault.into_error("lease")),
                    Err(_) => return Ok(found),
                }
            }
        }
        Ok(found)
    }

    /// Hands out what a queue consumer has.
    async fn hand_out(
        &self,
        source: &Arc<QueueConsumer>,
        max: usize,
        mode: DeliveryMode,
    ) -> Vec<Leased> {
        let intake = &self.intake;
        let (since, since_boot) = (Instant::now(), BootTime::now());
        let mut leased = Vec::new();
        let mut rest = source.take(max);
        while let Some((delivery, mut envelope)) = rest.first() {
            let pause = intake.comes_back(&delivery, &mut envelope).await;
            rest.drop_first();
            let counts = || source.counts_deliveries();
            if intake.goes_elsewhere(&delivery, &envelope, pause, counts) {
                continue;
            }
            let token = intake.leases.next_token();
            match mode {
                DeliveryMode::Lease(time) => {
                    intake.answers.report_begun(&envelope.properties);
                    let held = HeldDelivery {
                        delivery,
                        envelope: Arc::clone(&envelope),
                        until: later(intake.now_after(since), time),
                    };
                    intake.leases.hold(token, held);
                }
                DeliveryMode::Take if !self.take(&delivery, &envelope).await => continue,
                DeliveryMode::Take => {}
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
                began_at: envelope.pushed_at,
                job: envelope.job.clone(),
            });
        }
        leased
    }

    /// Acks a job that is taken, not leased. Whether the broker heard.
    async fn take(&self, delivery: &Delivery, envelope: &Envelope) -> bool {
        match delivery.ack().await {
            Ok(()) => {
                self.intake.leases.table().settled(envelope.mark());
                true
            }
            Err(fault) => {
                // Not handed out, so it is no copy if it comes again: that is the job itself, which
                // the broker still has.
                tracing::warn!(%fault, job = %envelope.id, "a job was not taken: the broker did \
                    not answer; it comes again unless it heard");
                false
            }
        }
    }
}

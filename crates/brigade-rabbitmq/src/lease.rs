//! Handing out jobs.
//!
//! A lease request *asks* the consumers of its queues (`queue_consumer`) and waits until one has a
//! job. What came is checked before it is handed out: a copy of a message that is settled or held
//! is dropped, a cancelled call answered, a job that this worker passed is forwarded (`pass`), one
//! that is late set aside. `arrival` does these things, `expiry` ends leases whose time is over.

mod arrival;
mod expiry;

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep_until;

use super::RabbitMqCore;
use super::consumer_channel::AckAction;
use super::lease_table::{Delivery, HeldDelivery};
use super::message::Envelope;
use super::queue_consumer::QueueConsumer;
use crate::clock::{BootTime, later};
use crate::error::Error;
use brigade_core::store::{DeliveryMode, LeaseRequest, Leased};

impl RabbitMqCore {
    /// Hands out jobs; waits for the first as long as the ask says.
    pub(super) async fn lease(self: &Arc<Self>, ask: LeaseRequest) -> Result<Vec<Leased>, Error> {
        self.end_expired().await;
        if ask.queues.len() != 1 {
            return self.lease_of_several(&ask).await;
        }
        let Some(queue) = ask.queues.names().first() else {
            return Ok(Vec::new());
        };
        self.storage.topology.check_name(queue)?;
        let source = self.consumer_of(queue);
        if ask.wait.is_zero() {
            return self.lease_now(&[source], &ask).await;
        }
        let asking = source.ask(ask.max);
        let leased = self.wait_for_some(&source, &ask).await;
        drop(asking);
        if ask.enough.is_cancelled() {
            source.hurry();
        }
        leased
    }

    async fn wait_for_some(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        ask: &LeaseRequest,
    ) -> Result<Vec<Leased>, Error> {
        let until = later(Instant::now(), ask.wait);
        loop {
            let mut news = std::pin::pin!(self.consumers.news.notified());
            news.as_mut().enable();
            let found = self.hand_out(source, ask.max, ask.mode).await;
            if !found.is_empty() || ask.enough.is_cancelled() {
                return Ok(found);
            }
            let is_over = Instant::now() >= until;
            if let Some(fault) = source
                .refusal()
                .or_else(|| self.consume_link.fault().filter(|_| is_over))
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
        consumers: &[Arc<QueueConsumer>],
        ask: &LeaseRequest,
    ) -> Result<Vec<Leased>, Error> {
        let mut found = Vec::new();
        for source in consumers {
            loop {
                found.extend(self.hand_out(source, ask.max - found.len(), ask.mode).await);
                if found.len() >= ask.max || ask.enough.is_cancelled() {
                    return Ok(found);
                }
                match source.fetch(self).await {
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
    pub(super) async fn hand_out(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        max: usize,
        mode: DeliveryMode,
    ) -> Vec<Leased> {
        let (since, since_boot) = (Instant::now(), BootTime::now());
        let mut leased = Vec::new();
        let mut rest = source.take(max);
        while let Some((delivery, mut envelope)) = rest.first() {
            let pause = self.comes_back(&delivery, &mut envelope).await;
            rest.drop_first();
            if self.goes_elsewhere(source, &delivery, &envelope, pause) {
                continue;
            }
            let token = self.leases.next_token();
            match mode {
                DeliveryMode::Lease(time) => {
                    self.warn_of_time(source, &envelope);
                    self.answers.tell_begun(&envelope.properties);
                    let held = HeldDelivery {
                        source: Arc::clone(source),
                        delivery,
                        envelope: Arc::clone(&envelope),
                        until: later(self.now_after(since), time),
                    };
                    self.leases.hold(token, held);
                }
                DeliveryMode::Take if !self.take(source, &delivery, &envelope).await => continue,
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
    async fn take(&self, source: &QueueConsumer, delivery: &Delivery, envelope: &Envelope) -> bool {
        let tags = vec![delivery.tag];
        let acked = delivery.opened.acknowledge(tags, AckAction::Ack).await;
        source.released(delivery);
        match acked {
            Ok(()) => {
                self.leases.table().settled(envelope);
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

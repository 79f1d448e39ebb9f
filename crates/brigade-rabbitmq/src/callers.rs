//! How leases of calls end: the answers to their callers, and when the delivery is acked.
//!
//! An answer is confirmed to be in its caller's queue before its delivery is acked, so a crash in
//! between has the call run once more, and never leaves it without an answer. A call that goes on,
//! to another attempt or another worker, is published again before its delivery is acked. What was
//! not handed out (cancelled before, or no call at all) is answered from here too.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::BasicProperties;

use super::RabbitMqCore;
use super::answers::dropped;
use super::lease_table::{Delivery, HeldDelivery};
use super::message::Envelope;
use super::publisher::Message;
use super::queue_consumer::QueueConsumer;
use super::settle::Ends;
use super::topology::QueueKind;
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::outcome::{CallError, Cancelled};
use crate::progress::Progress;
use brigade_core::store::{Answer, Disposition};

impl RabbitMqCore {
    /// Sends a caller the progress of its call, if the caller wants it.
    pub(super) fn tell_progress(&self, id: &JobId, token: i64, progress: Progress) {
        let envelope = self.leases.table().envelope(id, token);
        if let Some(envelope) = envelope {
            self.answers.tell_progress(&envelope.properties, progress);
        }
    }

    /// Ends the leases of calls that gave a value; one answer for each.
    pub(super) async fn end_answered(&self, answered: Vec<Ends>) -> Vec<Result<(), Error>> {
        let mut under_way = Vec::with_capacity(answered.len());
        for (held, settlement) in answered {
            let outcome = match &settlement.disposition {
                Disposition::Ack(Some(result)) => Ok(&**result),
                _ => Ok("null"),
            };
            let told = self.answers.hand_over(&held.envelope.properties, outcome);
            let told = told.await;
            under_way.push((held, told));
        }
        // Each is acked as soon as its own answer is confirmed; those that come together share one
        // round trip (`consumer_channel`).
        let ending = under_way.into_iter().map(async |(held, told)| {
            if let Some(told) = told {
                told.await.map_err(|_| dropped())?;
            }
            self.ack(&held)
                .await
                .map_err(|fault| fault.into_error("settle").uncertain())
        });
        join_all(ending).await
    }

    /// Ends a lease of a call.
    pub(super) async fn end_call(&self, mut ends: Ends) -> Result<(), Error> {
        self.pass_on(&mut ends).await;
        let (held, settlement) = ends;
        let (token, answer) = (settlement.token, || settlement.answer.as_deref().cloned());
        let rejected = |reason: &str| Answer::rejected(ErrorKind::Unsupported, reason);
        let outcome = match &settlement.disposition {
            Disposition::Ack(result) => Ok(result.as_deref().unwrap_or("null")),
            Disposition::Cancelled { reason, report, .. } => {
                let cancelled = Cancelled::new(reason.clone(), report.clone());
                Err(Answer::of(&CallError::Cancelled(cancelled)))
            }
            Disposition::DeadLetter(reason) => Err(answer().unwrap_or_else(|| rejected(reason))),
            Disposition::Fail { reason, .. } => {
                match self.afterlife(&held.envelope, &settlement.disposition)? {
                    Some(message) if !matches!(message.0, QueueKind::Dead(_)) => {
                        return self.call_goes_on(token, held, message).await;
                    }
                    _ => Err(answer().unwrap_or_else(|| Answer::failed(reason))),
                }
            }
            Disposition::GiveBack { .. } | Disposition::Extend(_) => {
                let Some(message) = self.afterlife(&held.envelope, &settlement.disposition)? else {
                    return Ok(());
                };
                return self.call_goes_on(token, held, message).await;
            }
        };
        self.answers
            .give(&held.envelope.properties, outcome)
            .await?;
        self.ack(&held)
            .await
            .map_err(|fault| fault.into_error("settle").uncertain())
    }

    /// It goes on as another message.
    async fn call_goes_on(
        &self,
        token: i64,
        held: HeldDelivery,
        (target, message): (QueueKind, Message),
    ) -> Result<(), Error> {
        if let QueueKind::Later(..) = target {
            return self.go_on(token, held, (target, message)).await;
        }
        let mode = *held.envelope.properties.delivery_mode();
        self.answers.send_on(message, mode).await?;
        self.ack(&held).await.ok();
        Ok(())
    }

    /// The same for one that was not handed out: the longer its delivery is held, the likelier it
    /// comes again when this worker ends.
    pub(super) fn forward_call(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: Delivery,
        envelope: &Envelope,
        message: Message,
    ) {
        let (core, source) = (Arc::clone(self), Arc::clone(source));
        let mode = *envelope.properties.delivery_mode();
        self.scope
            .spawn_until_closed(self.moving.track_future(async move {
                let sent = core.answers.send_on(message, mode).await;
                core.drop_delivery_if(sent, &source, &delivery).await;
            }));
    }

    /// A message of another program that is no call is answered, so that its caller does not wait
    /// for ever.
    pub(super) fn refuse_call(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        asked: BasicProperties,
        why: String,
    ) {
        let (core, source, delivery) = (Arc::clone(self), Arc::clone(source), delivery.clone());
        self.scope.spawn_until_closed(async move {
            let rejected = Answer::rejected(ErrorKind::Decode, why);
            let answered = core.answers.give(&asked, Err(rejected)).await;
            core.drop_delivery_if(answered, &source, &delivery).await;
        });
    }

    /// A call that was cancelled before it was handed out is answered instead.
    pub(super) fn end_cancelled(
        self: &Arc<Self>,
        source: &Arc<QueueConsumer>,
        delivery: &Delivery,
        asked: BasicProperties,
        reason: String,
    ) {
        let (core, source, delivery) = (Arc::clone(self), Arc::clone(source), delivery.clone());
        self.scope.spawn_until_closed(async move {
            let answer = Answer::of(&CallError::Cancelled(Cancelled::without_report(reason)));
            let answered = core.answers.give(&asked, Err(answer)).await;
            core.drop_delivery_if(answered, &source, &delivery).await;
        });
    }

    /// Drops a delivery if the answer to it is with the broker.
    async fn drop_delivery_if(
        &self,
        done: Result<(), Error>,
        source: &QueueConsumer,
        delivery: &Delivery,
    ) {
        if done.is_ok() {
            self.drop_delivery(source, delivery).await;
        }
    }
}

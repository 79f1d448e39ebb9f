//! Ending leases.
//!
//! What becomes of a job is stored first, confirmed, and only then is its delivery acked: a crash
//! in between leaves two messages, never none. The two have the same id and different numbers
//! (`brigade-seq`); the process that settled the first drops it when it comes again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::{join_all, join3};
use tokio::sync::oneshot;

use super::RabbitMqCore;
use super::consumer_channel::{AckAction, ConsumerChannel};
use super::fault::Fault;
use super::lease_table::HeldDelivery;
use super::message::Envelope;
use super::publisher::Message;
use super::topology::QueueKind;
use super::values::shortened;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord};
use crate::policy::{Charged, ChargedEnd, NEXT_TOO_LATE, NoRetry, RetryDecision, RetryRule};
use crate::retry::jitter;
use brigade_core::store::{Disposition, Settled, Settlement};

/// A lease that is being ended, and by which settlement.
pub(super) type Ends = (HeldDelivery, Arc<Settlement>);

impl RabbitMqCore {
    /// Ends or extends leases. What has been begun is done even if the future is dropped.
    pub(super) async fn settle(
        self: &Arc<Self>,
        settlements: Vec<Arc<Settlement>>,
    ) -> Result<Vec<Result<Settled, Error>>, Error> {
        let now = self.now_after(Instant::now());
        let mut answers: Vec<_> = settlements.iter().map(|_| Ok(Settled::Stale)).collect();
        let (mut places, mut ends) = (Vec::new(), Vec::new());
        for (place, settlement) in settlements.into_iter().enumerate() {
            let (id, token) = (&settlement.id, settlement.token);
            if let Disposition::Extend(time) = settlement.disposition {
                if self.leases.table().extend(id, token, now, time) {
                    answers[place] = Ok(Settled::Accepted(None));
                }
            } else if let Some(held) = self.leases.table().let_go(id, token, now) {
                places.push(place);
                ends.push((held, settlement));
            }
        }
        if ends.is_empty() {
            return Ok(answers);
        }
        let (tell, told) = oneshot::channel();
        let core = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            // Who asked may have gone.
            tell.send(core.end_all(ends).await).ok();
        });
        let ended = told.await.map_err(|_| {
            Error::new(ErrorKind::Closed, "settle: the broker was dropped").uncertain()
        })?;
        for (place, ended) in places.into_iter().zip(ended) {
            answers[place] = ended.map(|()| Settled::Accepted(None));
        }
        Ok(answers)
    }

    /// Ends these leases; one answer for each. One that could not be ended holds on, if its
    /// delivery is still there.
    pub(super) async fn end_all(self: &Arc<Self>, ends: Vec<Ends>) -> Vec<Result<(), Error>> {
        let marks: Vec<_> = ends
            .iter()
            .filter_map(|(held, _)| held.envelope.mark())
            .collect();
        self.leases.table().begin(&marks);
        let ended = self.end_each(ends).await;
        self.leases.table().finish(&marks);
        ended
    }

    async fn end_each(self: &Arc<Self>, ends: Vec<Ends>) -> Vec<Result<(), Error>> {
        let (mut answered, mut calls, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        for (place, ends) in ends.into_iter().enumerate() {
            let (held, settlement) = &ends;
            match settlement.disposition {
                _ if !held.envelope.is_call() => jobs.push((place, ends)),
                Disposition::Ack(_) => answered.push((place, ends)),
                _ => calls.push((place, ends)),
            }
        }
        let answering = async {
            let (places, answered): (Vec<usize>, Vec<_>) = answered.into_iter().unzip();
            places
                .into_iter()
                .zip(self.end_answered(answered).await)
                .collect::<Vec<_>>()
        };
        let ending = join_all(
            calls
                .into_iter()
                .map(async |(place, ends)| (place, self.end_call(ends).await)),
        );
        let finishing = async {
            let (places, jobs): (Vec<usize>, Vec<_>) = jobs.into_iter().unzip();
            places
                .into_iter()
                .zip(self.end_jobs(jobs).await)
                .collect::<Vec<_>>()
        };
        let (mut all, ended, finished) = join3(answering, ending, finishing).await;
        all.extend(ended.into_iter().chain(finished));
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, ended)| ended).collect()
    }

    async fn end_jobs(&self, mut ends: Vec<Ends>) -> Vec<Result<(), Error>> {
        for one in &mut ends {
            self.pass_on(one).await;
        }
        let (mut messages, mut of) = (Vec::new(), Vec::new());
        let mut outcomes: Vec<Result<(), Error>> = Vec::with_capacity(ends.len());
        for (place, (held, settlement)) in ends.iter().enumerate() {
            match self.afterlife(&held.envelope, &settlement.disposition) {
                Ok(message) => {
                    outcomes.push(Ok(()));
                    if let Some(message) = message {
                        of.push(place);
                        messages.push(message);
                    }
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if !messages.is_empty() {
            for (place, stored) in of.iter().zip(self.storage.store(messages).await) {
                outcomes[*place] = stored.into_result("settle");
            }
        }
        let mut over = Vec::with_capacity(ends.len());
        for (place, (held, settlement)) in ends.into_iter().enumerate() {
            if outcomes[place].is_err() {
                self.hold_again(settlement.token, held);
            } else {
                over.push((place, held));
            }
        }
        let acked = self.ack_all(over.iter().map(|(_, held)| held)).await;
        for ((place, _), acked) in over.into_iter().zip(acked) {
            // What goes on as another message does so whatever comes of this one.
            if of.binary_search(&place).is_err() {
                outcomes[place] = acked.map_err(|fault| fault.into_error("settle").uncertain());
            }
        }
        outcomes
    }

    /// It goes on as another message.
    pub(super) async fn go_on(
        &self,
        token: i64,
        held: HeldDelivery,
        message: (QueueKind, Message),
    ) -> Result<(), Error> {
        if let Some(Err(error)) = self
            .storage
            .store(vec![message])
            .await
            .pop()
            .map(|one| one.into_result("settle"))
        {
            self.hold_again(token, held);
            return Err(error);
        }
        // Two messages are there if this fails, and one of them is dropped.
        self.ack(&held).await.ok();
        Ok(())
    }

    /// The delivery needs nothing more.
    pub(super) async fn ack(&self, held: &HeldDelivery) -> Result<(), Fault> {
        self.ack_all([held]).await.pop().unwrap_or(Ok(()))
    }

    /// The same for several; one answer for each.
    pub(super) async fn ack_all<'a>(
        &self,
        all: impl IntoIterator<Item = &'a HeldDelivery>,
    ) -> Vec<Result<(), Fault>> {
        let all: Vec<&HeldDelivery> = all.into_iter().collect();
        let mut channels: BTreeMap<u64, (&ConsumerChannel, Vec<u64>)> = BTreeMap::new();
        {
            let mut leases = self.leases.table();
            for held in &all {
                leases.settled(&held.envelope);
                let opened = &*held.delivery.opened;
                channels
                    .entry(opened.number)
                    .or_insert_with(|| (opened, Vec::new()))
                    .1
                    .push(held.delivery.tag);
            }
        }
        let saying = channels.into_iter().map(async |(number, (opened, tags))| {
            (number, opened.acknowledge(tags, AckAction::Ack).await)
        });
        let heard: BTreeMap<u64, Result<(), Fault>> = join_all(saying).await.into_iter().collect();
        all.iter()
            .for_each(|held| held.source.released(&held.delivery));
        all.iter()
            .map(|held| {
                heard
                    .get(&held.delivery.opened.number)
                    .cloned()
                    .unwrap_or(Ok(()))
            })
            .collect()
    }

    /// It could not be ended.
    pub(super) fn hold_again(&self, token: i64, held: HeldDelivery) {
        if held.delivery.opened.is_alive() {
            self.leases.hold(token, held);
        }
    }

    /// As what a job goes on, and where; `None` if it is over.
    pub(super) fn afterlife(
        &self,
        envelope: &Envelope,
        disposition: &Disposition,
    ) -> Result<Option<(QueueKind, Message)>, Error> {
        let mut next = envelope.next();
        let record = |kind, reason: &str, report| AttemptRecord {
            attempt: envelope.attempt(),
            at: SystemTime::now(),
            kind,
            reason: shortened(reason).to_owned(),
            report,
            stop: None,
        };
        Ok(Some(match disposition {
            Disposition::Ack(_) | Disposition::Cancelled { .. } | Disposition::Extend(_) => {
                return Ok(None);
            }
            Disposition::DeadLetter(reason) => {
                next.note(record(AttemptKind::SetAside, reason, None));
                self.dead(&next, reason)?
            }
            Disposition::GiveBack {
                kind,
                reason,
                after,
            } => {
                next.note(record(*kind, reason, None));
                next.interrupted = next
                    .interrupted
                    .saturating_add(u32::from(*kind == AttemptKind::Interrupted));
                self.storage.message(next, *after)?
            }
            Disposition::Fail {
                kind,
                reason,
                report,
                advice,
                policy,
            } => {
                let rule = RetryRule::of_job(&envelope.job.options, *policy);
                let rule = match envelope.is_call() {
                    true => RetryRule::of_call(rule.retries, rule.retry),
                    false => rule,
                };
                let charged = Charged {
                    failed: envelope.failed,
                    crashed: envelope.crashed,
                };
                next.note(record(*kind, reason, report.clone()));
                match kind {
                    AttemptKind::Crashed => next.crashed = next.crashed.saturating_add(1),
                    _ => next.failed = next.failed.saturating_add(1),
                }
                let left = next
                    .begins_by()
                    .map(|by| by.duration_since(SystemTime::now()).unwrap_or_default());
                match rule.decide(charged, ChargedEnd::of(*kind, *advice), left, jitter(0.5)) {
                    RetryDecision::Retry(pause) => self.storage.message(next, pause)?,
                    RetryDecision::Stop(NoRetry::TooLate) => {
                        self.dead(&next, &format!("{reason}{NEXT_TOO_LATE}"))?
                    }
                    RetryDecision::Stop(_) => self.dead(&next, reason)?,
                }
            }
        }))
    }

    fn dead(&self, envelope: &Envelope, why: &str) -> Result<(QueueKind, Message), Error> {
        tracing::warn!(job = %envelope.id, queue = %envelope.job.queue, why, "a job goes to the \
            dead letters");
        let message = envelope.write("".into())?;
        Ok(self.storage.dead_letter(&envelope.job.queue, why, message))
    }
}

//! Ending leases.
//!
//! The broker first confirms what follows from a settlement: a new message, a dead letter, or the
//! answer to the caller. Only then is the delivery acked. A crash in between leaves two messages,
//! or has a call run once more; it never leaves none. Two messages of a job have the same id and
//! different numbers (`brigade-seq`), and the process that settled one drops it when it comes
//! again.
//!
//! `pass` decides first about jobs that workers passed. Then [`afterlife`] says what becomes of the
//! job, and [`Intake::step`] what is done for that before the ack.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{join, join_all};
use tokio::sync::oneshot;

use super::answers::dropped;
use super::intake::Intake;
use super::lease_table::HeldDelivery;
use super::message::Envelope;
use super::publisher::Message;
use super::topology::QueueKind;
use super::values::shortened;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord};
use crate::outcome::{CallError, Cancelled};
use crate::policy::{Charged, ChargedEnd, NEXT_TOO_LATE, NoRetry, RetryDecision, RetryRule};
use crate::retry::jitter;
use brigade_core::store::{Answer, Disposition, Settled, Settlement};

/// A lease that is being ended, and by which settlement.
pub(super) struct EndingLease {
    pub(super) held: HeldDelivery,
    pub(super) settlement: Arc<Settlement>,
}

/// What is done before the delivery of a lease is acked.
enum BeforeAck {
    /// Nothing: it is over.
    Ack,
    /// It is stored as another message.
    Store((QueueKind, Message)),
    /// A call is sent to another worker, and not stored on disk if it was not before.
    SendOn(Message),
    /// Its caller is given the result.
    Answer,
    /// Its caller is given this in place of a result.
    Refuse(Box<Answer>),
}

/// What becomes of a job or a call.
enum Afterlife {
    Over,
    /// It is tried again after this time.
    Again(Box<Envelope>, Duration),
    /// It is not tried again, for this reason.
    Dead(Box<Envelope>, String),
}

impl Intake {
    /// Ends or extends leases. Once begun, it goes on if the future is dropped.
    pub(super) async fn settle(
        self: &Arc<Self>,
        settlements: Vec<Arc<Settlement>>,
    ) -> Result<Vec<Result<Settled, Error>>, Error> {
        let now = self.now_after(Instant::now());
        let mut answers: Vec<_> = settlements.iter().map(|_| Ok(Settled::Stale)).collect();
        let (mut places, mut leases) = (Vec::new(), Vec::new());
        for (place, settlement) in settlements.into_iter().enumerate() {
            let (id, token) = (&settlement.id, settlement.token);
            if let Disposition::Extend(time) = settlement.disposition {
                if self.leases.table().extend(id, token, now, time) {
                    answers[place] = Ok(Settled::Accepted(None));
                }
            } else if let Some(held) = self.leases.table().let_go(id, token, now) {
                places.push(place);
                leases.push(EndingLease { held, settlement });
            }
        }
        if leases.is_empty() {
            return Ok(answers);
        }
        let (sender, outcome) = oneshot::channel();
        let intake = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            // Who asked may have gone.
            sender.send(intake.end_all(leases).await).ok();
        });
        let ended = outcome.await.map_err(|_| dropped())?;
        for (place, ended) in places.into_iter().zip(ended) {
            answers[place] = ended.map(|()| Settled::Accepted(None));
        }
        Ok(answers)
    }

    /// Ends these leases; one answer for each. One that could not be ended holds on, if its
    /// delivery is still there.
    pub(super) async fn end_all(&self, leases: Vec<EndingLease>) -> Vec<Result<(), Error>> {
        let marks: Vec<_> = leases
            .iter()
            .filter_map(|lease| lease.held.envelope.mark())
            .collect();
        self.leases.table().begin(&marks);
        let ended = self.end_each(leases).await;
        self.leases.table().finish(&marks);
        ended
    }

    async fn end_each(&self, leases: Vec<EndingLease>) -> Vec<Result<(), Error>> {
        let deciding = leases.into_iter().map(async |mut lease| {
            self.pass_on(&mut lease).await;
            let step = self.step(&lease);
            (lease, step)
        });
        let decided = join_all(deciding).await;
        let mut outcomes: Vec<Result<(), Error>> = decided.iter().map(|_| Ok(())).collect();
        let (mut stored, mut messages, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (lease, step)) in decided.into_iter().enumerate() {
            match step {
                Ok(BeforeAck::Store(message)) => {
                    stored.push((place, lease));
                    messages.push(message);
                }
                Ok(other) => others.push((place, lease, other)),
                Err(error) => {
                    outcomes[place] = Err(error);
                    self.hold_again(lease);
                }
            }
        }
        let storing = async {
            let published = self.storage.store(messages).await;
            let ending = stored.into_iter().zip(published);
            join_all(ending.map(async |((place, lease), published)| {
                let outcome = published.into_result("settle");
                if outcome.is_ok() {
                    // Two messages are there if this fails, and one of them is dropped.
                    self.ack(&lease.held).await.ok();
                } else {
                    self.hold_again(lease);
                }
                (place, outcome)
            }))
            .await
        };
        // Each is acked as soon as its own answer is confirmed; those that come together share one
        // round trip (`consumer_channel`).
        let ending = others
            .into_iter()
            .map(async |(place, lease, step)| (place, self.end(&lease, step).await));
        let (stored, ended) = join(storing, join_all(ending)).await;
        for (place, outcome) in stored.into_iter().chain(ended) {
            outcomes[place] = outcome;
        }
        outcomes
    }

    /// Does what is to be done, and acks.
    async fn end(&self, lease: &EndingLease, step: BeforeAck) -> Result<(), Error> {
        let EndingLease { held, settlement } = lease;
        let asked = &held.envelope.properties;
        match step {
            BeforeAck::Ack | BeforeAck::Store(_) => {}
            BeforeAck::Answer => {
                let result = match &settlement.disposition {
                    Disposition::Ack {
                        result: Some(result),
                        ..
                    } => result,
                    _ => "null",
                };
                self.answers.give(asked, Ok(result)).await?;
            }
            BeforeAck::Refuse(answer) => self.answers.give(asked, Err(*answer)).await?,
            BeforeAck::SendOn(message) => {
                self.answers
                    .send_on(message, *asked.delivery_mode())
                    .await?;
                self.ack(held).await.ok();
                return Ok(());
            }
        }
        self.ack(held).await
    }

    /// The delivery needs nothing more.
    async fn ack(&self, held: &HeldDelivery) -> Result<(), Error> {
        self.leases.table().settled(&held.envelope);
        let acked = held.delivery.ack().await;
        acked.map_err(|fault| fault.into_error("settle").uncertain())
    }

    /// It could not be ended.
    fn hold_again(&self, lease: EndingLease) {
        if lease.held.delivery.is_alive() {
            self.leases.hold(lease.settlement.token, lease.held);
        }
    }

    fn step(&self, lease: &EndingLease) -> Result<BeforeAck, Error> {
        let envelope = &lease.held.envelope;
        let Settlement {
            disposition,
            answer,
            ..
        } = &*lease.settlement;
        let next = match afterlife(envelope, disposition) {
            Afterlife::Over if envelope.is_call() => return Ok(ended_call(disposition)),
            Afterlife::Over => return Ok(BeforeAck::Ack),
            Afterlife::Again(next, pause) => self.storage.message(*next, pause)?,
            Afterlife::Dead(_, why) if envelope.is_call() => {
                return Ok(BeforeAck::Refuse(match (answer, disposition) {
                    (Some(answer), _) => answer.clone(),
                    (None, Disposition::Fail { reason, .. }) => Box::new(Answer::failed(reason)),
                    (None, _) => Box::new(Answer::rejected(ErrorKind::Unsupported, why)),
                }));
            }
            Afterlife::Dead(next, why) => {
                tracing::warn!(job = %next.id, queue = %next.job.queue, why, "a job goes to the \
                    dead letters");
                let message = next.write("".into())?;
                self.storage.dead_letter(&next.job.queue, &why, message)
            }
        };
        Ok(match next {
            (QueueKind::Jobs(_), message) if envelope.is_call() => BeforeAck::SendOn(message),
            next => BeforeAck::Store(next),
        })
    }
}

/// What becomes of a job or a call, by what its holder says of this attempt.
fn afterlife(envelope: &Envelope, disposition: &Disposition) -> Afterlife {
    let again = || Box::new(envelope.next());
    let record = |kind, reason: &str, report| AttemptRecord {
        attempt: envelope.attempt(),
        at: SystemTime::now(),
        kind,
        reason: shortened(reason).to_owned(),
        report,
        stop: None,
    };
    match disposition {
        Disposition::Ack { .. } | Disposition::Cancelled { .. } | Disposition::Extend(_) => {
            Afterlife::Over
        }
        Disposition::DeadLetter(reason) => {
            let mut next = again();
            next.note(record(AttemptKind::SetAside, reason, None));
            Afterlife::Dead(next, reason.clone())
        }
        Disposition::GiveBack {
            kind,
            reason,
            after,
        } => {
            let mut next = again();
            next.note(record(*kind, reason, None));
            let is_interrupted = u32::from(*kind == AttemptKind::Interrupted);
            next.interrupted = next.interrupted.saturating_add(is_interrupted);
            Afterlife::Again(next, *after)
        }
        Disposition::Fail {
            kind,
            reason,
            report,
            advice,
            policy,
        } => {
            let mut next = again();
            let mut rule = RetryRule::of_job(&envelope.job.options, *policy);
            if envelope.is_call() {
                rule = RetryRule::of_call(rule.retries, rule.retry);
            }
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
                RetryDecision::Retry(pause) => Afterlife::Again(next, pause),
                RetryDecision::Stop(NoRetry::TooLate) => {
                    Afterlife::Dead(next, format!("{reason}{NEXT_TOO_LATE}"))
                }
                RetryDecision::Stop(_) => Afterlife::Dead(next, reason.clone()),
            }
        }
    }
}

/// A call that is over.
fn ended_call(disposition: &Disposition) -> BeforeAck {
    match disposition {
        Disposition::Cancelled { reason, report, .. } => {
            let cancelled = Cancelled::new(reason.clone(), report.clone());
            BeforeAck::Refuse(Box::new(Answer::of(&CallError::Cancelled(cancelled))))
        }
        _ => BeforeAck::Answer,
    }
}

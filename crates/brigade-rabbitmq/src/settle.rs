//! Ending leases: by a settlement, or because their time is over.
//!
//! The broker first confirms what follows from a settlement: a new message, a dead letter, or the
//! answer to the caller. Only then is the delivery acked. A crash in between leaves two messages,
//! or has a call run once more; it never leaves none. Two messages of a job have the same id and
//! different numbers (`brigade-seq`), and the process that settled one drops it when it comes
//! again.
//!
//! Each lease is ended by a task of its own, which goes on if the holder is gone. `pass` decides
//! first about jobs that workers passed; then [`afterlife`] says what becomes of the job.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{FutureExt as _, join_all};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::answers::dropped;
use super::intake::Intake;
use super::leases::HeldDelivery;
use super::message::{Envelope, has_caller};
use super::publisher::Message;
use super::topology::QueueKind;
use super::values::shortened;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord};
use crate::outcome::{CallError, Cancelled};
use crate::policy::{Charged, ChargedEnd, NEXT_TOO_LATE, NoRetry, RetryDecision, RetryRule};
use crate::retry::jitter;
use brigade_core::store::{Answer, Disposition, Settled, Settlement};

/// Leases are looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Between two tries to give back the job of a lease that ran out.
const GIVE_BACK_PAUSE: Duration = Duration::from_secs(1);

/// A lease that is being ended, and by which settlement.
pub(super) struct EndingLease {
    pub(super) held: HeldDelivery,
    pub(super) settlement: Arc<Settlement>,
    /// Its time was over: its holder is gone, or hangs.
    pub(super) ran_out: bool,
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
        let settling = settlements.into_iter().map(|settlement| {
            let (id, token, mut ending) = (&settlement.id, settlement.token, None);
            let is_held = if let Disposition::Extend(time) = settlement.disposition {
                self.leases.table().extend(id, token, now, time)
            } else {
                let held = self.leases.table().let_go(id, token, now);
                ending = held.map(|held| {
                    self.end(EndingLease {
                        held,
                        settlement,
                        ran_out: false,
                    })
                });
                ending.is_some()
            };
            async move {
                if let Some(ending) = ending {
                    ending.await?;
                }
                Ok(if is_held {
                    Settled::Accepted(None)
                } else {
                    Settled::Stale
                })
            }
        });
        Ok(join_all(settling).await)
    }

    /// Returns when a lease may be over, or near the time for which the broker lets its delivery
    /// be held.
    pub(super) async fn until_leases_are_old(&self) {
        let next = self.leases.table().next_end();
        let Some(end) = next else {
            return self.leases.until_added().await;
        };
        let left = end.saturating_duration_since(self.now_after(Instant::now()));
        let look = left.min(LOOK_EVERY).min(self.consumer_timeout() / 20);
        // One that could not be ended is tried again, but not at once.
        sleep(look.max(LOOK_PAUSE)).await;
    }

    /// Begins to give back the jobs of leases that are over; the future waits for that.
    pub(super) fn end_expired(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let now = self.now_after(Instant::now());
        let expired = self.leases.table().expired(now);
        let ending = expired.into_iter().map(|(token, held)| {
            let disposition = Disposition::GiveBack {
                kind: AttemptKind::Interrupted,
                reason: "its lease ran out".to_owned(),
                after: Duration::ZERO,
            };
            let settlement = Arc::new(Settlement {
                id: held.envelope.id.clone(),
                token,
                disposition,
                answer: None,
            });
            self.end(EndingLease {
                held,
                settlement,
                ran_out: true,
            })
        });
        join_all(ending).map(drop)
    }

    /// Ends a lease that was let go. Once begun, it goes on if the future is dropped.
    pub(super) fn end(
        self: &Arc<Self>,
        lease: EndingLease,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        let (sender, outcome) = oneshot::channel();
        let intake = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            // The one that asked may be gone.
            sender.send(intake.end_lease(lease).await).ok();
        });
        async { outcome.await.unwrap_or_else(|_| Err(dropped())) }
    }

    /// A lease that could not be ended is held again as it was, if its delivery is still there, so
    /// that each try counts the lost holder or the pass once.
    async fn end_lease(&self, mut lease: EndingLease) -> Result<(), Error> {
        let before = lease.held.clone();
        if lease.ran_out {
            let envelope = Arc::make_mut(&mut lease.held.envelope);
            envelope.lost = envelope.lost.saturating_add(1);
        }
        self.pass_on(&mut lease).await;
        let followed = self.follow(&lease).await;
        let EndingLease {
            held,
            settlement,
            ran_out,
        } = lease;
        let envelope = Arc::clone(&held.envelope);
        let ended = match followed {
            Ok(has_next) => {
                self.leases.table().settled(envelope.mark());
                match held.delivery.ack().await {
                    Err(fault) if !has_next => Err(fault.into_error("settle").uncertain()),
                    // Two messages are there if this failed, and one of them is dropped.
                    _ => Ok(()),
                }
            }
            Err(error) => {
                if ran_out {
                    sleep(GIVE_BACK_PAUSE).await;
                }
                if before.delivery.is_alive() {
                    self.leases.hold(settlement.token, before);
                }
                Err(error)
            }
        };
        self.leases.finish(envelope.mark());
        ended
    }

    /// Does what has to be safe before the ack. Whether there is another message now in place of
    /// the one that is settled.
    async fn follow(&self, lease: &EndingLease) -> Result<bool, Error> {
        let envelope = &lease.held.envelope;
        let asked = &envelope.properties;
        let Settlement {
            disposition,
            answer,
            ..
        } = &*lease.settlement;
        let (target, message) = match afterlife(envelope, disposition) {
            Afterlife::Over => {
                if envelope.is_call() {
                    self.answers.give(asked, end_of_call(disposition)).await?;
                }
                return Ok(false);
            }
            Afterlife::Again(next, pause) => self.storage.message(*next, pause)?,
            Afterlife::Dead(_, why) if envelope.is_call() => {
                let refused = match (answer, disposition) {
                    (Some(answer), _) => Answer::clone(answer),
                    (None, Disposition::Fail { reason, .. }) => Answer::failed(reason),
                    (None, _) => Answer::rejected(ErrorKind::Unsupported, why),
                };
                self.answers.give(asked, Err(refused)).await?;
                return Ok(false);
            }
            Afterlife::Dead(next, why) => {
                tracing::warn!(job = %next.id, queue = %next.job.queue, why, "a job goes to the \
                    dead letters");
                let message = next.write("".into())?;
                self.storage.dead_letter(&next.job.queue, &why, message)
            }
        };
        self.put(target, message, *asked.delivery_mode()).await?;
        Ok(true)
    }

    /// Stores a message in place of another one. A call that goes on at once is only as safe as it
    /// was (`mode`), so that it waits for no disk: the longer its old delivery is held, the
    /// likelier that comes again when this worker ends.
    pub(super) async fn put(
        &self,
        target: QueueKind,
        message: Message,
        mode: Option<u8>,
    ) -> Result<(), Error> {
        if matches!(target, QueueKind::Jobs(_)) && has_caller(&message.properties) {
            return self.answers.send_on(message, mode).await;
        }
        let stored = self.storage.store_one((target, message)).await;
        stored.into_result("settle")
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

/// What the caller of a call that is over is given.
fn end_of_call(disposition: &Disposition) -> Result<&str, Answer> {
    match disposition {
        Disposition::Cancelled { reason, report, .. } => {
            let cancelled = Cancelled::new(reason.clone(), report.clone());
            Err(Answer::of(&CallError::Cancelled(cancelled)))
        }
        Disposition::Ack {
            result: Some(result),
            ..
        } => Ok(result),
        _ => Ok("null"),
    }
}

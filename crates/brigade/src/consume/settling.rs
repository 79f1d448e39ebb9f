//! Settlements: how the consumer reports the end of an attempt to the broker.
//!
//! Each settlement goes to the broker at once and by itself; stores put together what arrives at
//! about the same time. One that does not come through is tried again for as long as its lease can
//! be kept: it stays held, so it is renewed, and it gives up its place, so that other jobs go on.
//! The store shares it with its tries, so none of them copies a result.
//! Tries of one consumer fall on the same moments, so that their store sees them together.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::attempt::Hold;
use super::consumer::RunningConsumer;
use super::pause::{PAUSE, pause};
use super::served::{Served, SettledAttempt};
use crate::error::{Error, ErrorKind};
use crate::job::AttemptKind;
use crate::store::{Answer, Disposition, Leased, Settled, Settlement};

/// A settlement that takes longer gives its slot to other jobs.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a settlement holds until the broker has it.
struct SettlingPermit {
    _permit: OwnedSemaphorePermit,
    /// It is the slot of a job, which other jobs wait for.
    is_room: bool,
}

impl RunningConsumer {
    pub(super) async fn settle(
        &self,
        leased: &Leased,
        hold: &Hold,
        disposition: Option<Disposition>,
        answer: Option<Box<Answer>>,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(disposition) = disposition else {
            self.note_settled(leased, false);
            return self.control.count(|served| &mut served.stale);
        };
        let count: fn(&mut Served) -> &mut u64 = match &disposition {
            Disposition::Ack { .. } => |served| &mut served.done,
            Disposition::GiveBack { .. } => |served| &mut served.given_back,
            Disposition::Cancelled { .. } => |served| &mut served.cancelled,
            _ => |served| &mut served.failed,
        };
        let settlement = Arc::new(Settlement {
            id: leased.id.clone(),
            token: leased.token,
            disposition: disposition.bounded(),
            answer,
        });
        let settled = self.tell_broker(settlement, hold, permit).await;
        let accepted = matches!(settled, Some(Settled::Accepted(_)));
        self.note_settled(leased, accepted);
        match accepted {
            true => self.control.count(count),
            false => self.control.count(|served| &mut served.stale),
        }
    }

    fn note_settled(&self, leased: &Leased, accepted: bool) {
        if let Some(call) = &self.on_settled {
            call(&SettledAttempt {
                id: leased.id.clone(),
                attempt: leased.attempt,
                accepted,
            });
        }
    }

    /// `None` if the broker cannot be reached in time.
    async fn tell_broker(
        &self,
        mut settlement: Arc<Settlement>,
        hold: &Hold,
        permit: OwnedSemaphorePermit,
    ) -> Option<Settled> {
        let mut place = SettlingPermit {
            _permit: permit,
            is_room: true,
        };
        let (mut failures, mut give_up_at) = (0, None);
        loop {
            let told = tokio::select! {
                biased;
                told = self.try_to_tell(&settlement, &mut place) => told,
                () = hold.lost.cancelled() => return None,
            };
            let error = match told {
                Ok(settled) => return Some(settled),
                // It has ended, and there will be no other.
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) => error,
            };
            if is_for_good(&error) {
                tracing::error!(job = %settlement.id, %error, "the broker does not take how a job \
                    ended");
                settlement = Arc::new(Settlement {
                    id: settlement.id.clone(),
                    token: settlement.token,
                    disposition: instead(&settlement.disposition, &error)?,
                    answer: None,
                });
                continue;
            }
            if failures == 0 {
                tracing::warn!(job = %settlement.id, %error, "could not settle; trying again");
            }
            failures += 1;
            self.make_room(&mut place);
            if self.control.draining.is_cancelled() {
                // Nothing is held for ever by a consumer that ends.
                let give_up_at = give_up_at
                    .get_or_insert_with(|| crate::clock::later(Instant::now(), self.lease));
                if Instant::now() >= *give_up_at {
                    return None;
                }
            }
            let again = PAUSE
                .saturating_mul(1 << failures.min(8))
                .min(PAUSE_MAX)
                .min(self.lease / 8);
            tokio::select! {
                () = sleep(until_together(again)) => {}
                () = hold.lost.cancelled() => return None,
            }
        }
    }

    async fn try_to_tell(
        &self,
        settlement: &Arc<Settlement>,
        place: &mut SettlingPermit,
    ) -> Result<Settled, Error> {
        let mut telling = self.store.settle(vec![Arc::clone(settlement)]);
        let told = match timeout(PATIENCE, &mut telling).await {
            Ok(told) => told,
            Err(_) => {
                self.make_room(place);
                telling.await
            }
        };
        told?.pop().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Protocol,
                "settle a job: the broker gave no answer",
            ))
        })
    }

    /// Other jobs go on meanwhile, within bounds.
    fn make_room(&self, place: &mut SettlingPermit) {
        if place.is_room
            && let Ok(waiting) = Arc::clone(&self.untold).try_acquire_owned()
        {
            *place = SettlingPermit {
                _permit: waiting,
                is_room: false,
            };
        }
    }

    /// Gives back jobs that arrived when this consumer was already stopping.
    pub(super) async fn give_back(&self, leased: Vec<Leased>) {
        let settle = async |leased: Leased| {
            let reason = "its consumer is ending".to_owned();
            let disposition = Disposition::GiveBack {
                kind: AttemptKind::Interrupted,
                reason,
                after: Duration::ZERO,
            };
            let settlement = Arc::new(Settlement {
                id: leased.id,
                token: leased.token,
                disposition,
                answer: None,
            });
            loop {
                match self.store.settle(vec![Arc::clone(&settlement)]).await {
                    Ok(_) => return self.control.count(|served| &mut served.given_back),
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(_) => sleep(pause()).await,
                }
            }
        };
        // After that they are given back by themselves.
        timeout(self.lease, join_all(leased.into_iter().map(settle)))
            .await
            .ok();
    }
}

/// Whether another try cannot come to anything else.
fn is_for_good(error: &Error) -> bool {
    let kinds = [
        ErrorKind::TooLarge,
        ErrorKind::Encode,
        ErrorKind::Decode,
        ErrorKind::BadOption,
    ];
    kinds.contains(&error.kind()) && !error.is_uncertain()
}

/// What to tell a broker that does not take an ending, as that is too large for it.
fn instead(disposition: &Disposition, error: &Error) -> Option<Disposition> {
    match disposition {
        Disposition::Ack {
            result: Some(_), ..
        } => Some(Disposition::DeadLetter(format!(
            "it is done, but its result could not be stored: {error}"
        ))),
        Disposition::Fail {
            kind,
            reason,
            report: Some(_),
            advice,
            policy,
        } => Some(Disposition::Fail {
            kind: *kind,
            reason: reason.clone(),
            report: None,
            advice: *advice,
            policy: *policy,
        }),
        _ => None,
    }
}

/// How long it is until the first moment after this pause that all tries of this process share.
fn until_together(pause: Duration) -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = BEGAN.get_or_init(Instant::now);
    let step = PAUSE.as_nanos();
    let late = ((began.elapsed() + pause).as_nanos() % step).min(step - 1);
    pause + Duration::from_nanos(u64::try_from(step - late).unwrap_or(0))
}

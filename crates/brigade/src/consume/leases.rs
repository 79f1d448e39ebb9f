//! Leasing, renewing, hearing of cancels, draining: what a consumer does besides running attempts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ending::Why;
use super::{Consumer, PAUSE, Until};
use crate::broker::{Ending, LeaseAsk, Leased, Queues, Settled, Settlement, Terms};
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobState};
use crate::shutdown::Scope;
use crate::sync::lock;

/// One wait for jobs.
const LEASE_WAIT: Duration = Duration::from_secs(5);

impl Consumer {
    /// Leases while there is room, until told to stop or, if so asked, until nothing is left.
    ///
    /// # Errors
    ///
    /// `Closed` if the connection to the broker has ended.
    pub(super) async fn lease_on(self: &Arc<Self>, scope: &Scope) -> Result<(), Error> {
        let draining = &self.control.draining;
        while let Some(Ok(first)) = draining.run_until_cancelled(Arc::clone(&self.room).acquire_owned()).await {
            let mut permits = vec![first];
            while let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                permits.push(permit);
            }
            let (paused, enough) = self.control.paused();
            let queues = paused.map(|paused| lock(&self.turns).order(&paused)).filter(|queues| queues.len() > 0);
            let Some(queues) = queues else {
                enough.cancelled().await;
                continue;
            };
            let changed = self.backend.changed();
            match self.backend.lease(self.ask(&queues, permits.len(), &enough)).await {
                Ok(leased) if draining.is_cancelled() => {
                    self.give_back(leased).await;
                    break;
                }
                Ok(leased) if leased.is_empty() && self.until != Until::Told => {
                    drop(permits);
                    if self.is_over().await {
                        break;
                    }
                    enough.run_until_cancelled(changed).await;
                }
                Ok(leased) => {
                    let from: Vec<&str> = leased.iter().map(|leased| &*leased.job.queue).collect();
                    lock(&self.turns).note(&queues, &from, leased.len() < permits.len());
                    leased.into_iter().zip(permits).for_each(|(leased, permit)| self.attend(scope, leased, permit));
                }
                // It has ended, and there will be no other.
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "could not lease; trying again");
                    enough.run_until_cancelled(sleep(PAUSE)).await;
                }
            }
        }
        Ok(())
    }

    fn ask(&self, queues: &Queues, max: usize, enough: &CancellationToken) -> LeaseAsk {
        let wait = if self.until == Until::Told { LEASE_WAIT } else { Duration::ZERO };
        LeaseAsk { queues: queues.clone(), max, terms: Terms::Lease(self.lease), wait, enough: enough.clone() }
    }

    /// What was on its way when this worker was told to stop is another's.
    async fn give_back(&self, leased: Vec<Leased>) {
        let settle = async |leased: Leased| {
            let reason = "its worker is ending".to_owned();
            let ending = Ending::GiveBack { kind: AttemptKind::Interrupted, reason, after: Duration::ZERO };
            let settlement = Settlement { id: leased.id, token: leased.token, ending, answer: None };
            if self.settling.settle(settlement, None).await.is_some() {
                self.control.count(|served| &mut served.given_back);
            }
        };
        join_all(leased.into_iter().map(settle)).await;
    }

    /// Whether the queues hold nothing to wait for, in anybody's hands.
    async fn is_over(&self) -> bool {
        let is_awaited = |state: JobState| match self.until {
            Until::NothingDue => matches!(state, JobState::Ready | JobState::Leased),
            _ => !state.is_terminal(),
        };
        let Ok(queues) = self.broker.queues().await else { return false };
        let all = Arc::clone(lock(&self.turns).all());
        let ours = queues.iter().filter(|counts| all.place(&counts.queue).is_some());
        !ours.flat_map(|counts| &counts.jobs).any(|(state, count)| is_awaited(*state) && *count > 0)
    }

    /// Extends the leases of what is in our hands.
    pub(super) async fn renew(self: Arc<Self>) -> Infallible {
        loop {
            sleep(self.lease / 3).await;
            let held: Vec<(u64, Settlement)> = lock(&self.held)
                .iter()
                .map(|(number, held)| {
                    (*number, Settlement { id: held.id.clone(), token: held.token, ending: Ending::Extend(self.lease), answer: None })
                })
                .collect();
            if held.is_empty() {
                continue;
            }
            let (numbers, settlements): (Vec<u64>, Vec<Settlement>) = held.into_iter().unzip();
            let until = BootTime::now().later(self.trusted());
            match self.backend.settle(settlements).await {
                Ok(renewed) => numbers.into_iter().zip(renewed).for_each(|(number, renewed)| self.on_renewed(number, renewed, until)),
                Err(error) => tracing::warn!(%error, "could not renew leases"),
            }
        }
    }

    fn on_renewed(&self, number: u64, renewed: Result<Settled, Error>, until: BootTime) {
        match renewed {
            Err(error) => tracing::warn!(%error, "could not renew a lease"),
            Ok(Settled::Accepted(None)) => {
                if let Some(held) = lock(&self.held).get_mut(&number) {
                    held.until = until;
                }
            }
            Ok(Settled::Accepted(Some(reason))) => self.stop(number, Why::Cancel(reason)),
            Ok(Settled::Stale) => self.stop(number, Why::Lost),
        }
    }

    /// Stops what somebody wants cancelled, long before a lease is renewed.
    pub(super) async fn hear_of_cancels(self: Arc<Self>) -> Infallible {
        let holds_any = || !lock(&self.held).is_empty();
        let cancels = self.broker.cancels();
        let find = cancels.find(holds_any, |cancel| {
            let is_it = |held: &super::attempt::Held| held.id == cancel.id && held.token == cancel.token;
            let number = lock(&self.held).iter().find(|(_, held)| is_it(held)).map(|(number, _)| *number);
            if let Some(number) = number {
                self.stop(number, Why::Cancel(cancel.reason.clone()));
            }
            None
        });
        find.await
    }

    /// Lets what runs finish, then stops it.
    pub(super) async fn drain(&self) {
        self.control.draining.cancel();
        let all = u32::try_from(self.prefetch).unwrap_or(u32::MAX);
        let time = self.control.killing.run_until_cancelled(timeout(self.drain, self.room.acquire_many(all)));
        if let Some(Ok(permits)) = time.await {
            drop(permits);
            return;
        }
        let running: Vec<u64> = lock(&self.held).keys().copied().collect();
        running.into_iter().for_each(|number| self.stop(number, Why::Shutdown));
        drop(self.room.acquire_many(all).await);
    }
}

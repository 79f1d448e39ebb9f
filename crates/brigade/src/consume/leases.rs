//! Leasing, renewing, looking for cancels, draining: what a consumer does apart from attempts.
//!
//! These are loops of `RunningConsumer`, which owns the held jobs (`held`) and the permits
//! (`room`). `lease_on` and `drain` run one after the other; the others run in the background until
//! the consumer has drained.
//!
//! Invariants: a request asks for no more jobs than there are free permits. Jobs that arrive while
//! the consumer drains are given back. The time until which a lease is trusted is counted from
//! before the renewal was sent, by the boot clock, which includes a suspended host. An attempt is
//! stopped when that time is over, when another holder has the lease, or when its job is to be
//! cancelled.
//!
//! Errors of the broker are logged and tried again; of them only `Closed` ends the consumer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::consumer::RunningConsumer;
use super::held::{HeldJob, Why};
use super::pause::pause;
use super::settings::Until;
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind};
use crate::job::JobState;
use crate::retry::jitter;
use crate::store::{DeliveryMode, Disposition, LeaseRequest, Queues, Settled, Settlement};
use crate::sync::lock;

/// How long attempts in this process may take to end once they were asked to, when the consumer
/// ends.
const ABANDON_AFTER: Duration = Duration::from_secs(1);
/// How often the consumer checks whether leases can still be trusted, at least and at most: no
/// timer of a process runs while its host is suspended.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One wait for jobs.
const LEASE_WAIT: Duration = Duration::from_secs(5);

/// The leases of one queue that are extended together.
#[derive(Default)]
struct Extensions {
    /// By which they are held here, in the order of their settlements.
    numbers: Vec<u64>,
    settlements: Vec<Arc<Settlement>>,
}

impl RunningConsumer {
    /// Leases while there is room, until it is stopped or, with `until_empty`, until no job is
    /// left.
    ///
    /// # Errors
    ///
    /// `Closed` if the connection to the broker has ended.
    pub(super) async fn lease_on(self: &Arc<Self>) -> Result<(), Error> {
        let draining = &self.control.draining;
        while let Some(Ok(first)) = draining
            .run_until_cancelled(Arc::clone(&self.room).acquire_owned())
            .await
        {
            let mut permits = vec![first];
            // Attempts that end at this moment make room, too, so that one request fills all of it.
            yield_now().await;
            while let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                permits.push(permit);
            }
            let (paused, enough) = self.control.paused();
            let queues = paused
                .map(|paused| lock(&self.turns).order(&paused))
                .filter(|queues| !queues.is_empty());
            let Some(queues) = queues else {
                enough.cancelled().await;
                continue;
            };
            let changed = self.store.changed();
            match self
                .store
                .lease(self.ask(&queues, permits.len(), &enough))
                .await
            {
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
                    leased
                        .into_iter()
                        .zip(permits)
                        .for_each(|(leased, permit)| self.attend(leased, permit));
                }
                // It has ended, and there will be no other.
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "could not lease; trying again");
                    enough.run_until_cancelled(sleep(pause())).await;
                }
            }
        }
        Ok(())
    }

    fn ask(&self, queues: &Queues, max: usize, enough: &CancellationToken) -> LeaseRequest {
        let wait = if self.until == Until::Told {
            LEASE_WAIT
        } else {
            Duration::ZERO
        };
        LeaseRequest {
            queues: queues.clone(),
            max,
            mode: DeliveryMode::Lease(self.lease),
            wait,
            enough: enough.clone(),
        }
    }

    /// Whether the queues have no job to wait for, leased ones included.
    async fn is_over(&self) -> bool {
        let is_awaited = |state: JobState| match self.until {
            Until::NothingDue => matches!(state, JobState::Ready | JobState::Leased),
            _ => !state.is_terminal(),
        };
        let Ok(queues) = self.broker.queues().await else {
            return false;
        };
        let all = Arc::clone(lock(&self.turns).all());
        let ours = queues
            .iter()
            .filter(|counts| all.place(&counts.queue).is_some());
        !ours
            .flat_map(|counts| &counts.jobs)
            .any(|(state, count)| is_awaited(*state) && *count > 0)
    }

    /// Extends the leases of held jobs, each queue by itself: a queue that does not answer delays
    /// no other.
    pub(super) async fn renew(self: Arc<Self>) -> Infallible {
        let usual = || (self.lease / 3).mul_f64(jitter(0.1));
        let mut next = usual();
        loop {
            sleep(next).await;
            let mut queues: HashMap<Box<str>, Extensions> = HashMap::new();
            for (number, held) in &*lock(&self.held) {
                let extensions = queues.entry(held.leased.job.queue.clone()).or_default();
                extensions.numbers.push(*number);
                let disposition = Disposition::Extend(self.lease);
                extensions.settlements.push(Arc::new(Settlement {
                    id: held.leased.id.clone(),
                    token: held.leased.token,
                    disposition,
                    answer: None,
                }));
            }
            let queues = queues.into_values();
            let renewing = join_all(queues.map(|extensions| self.renew_together(extensions)));
            let renewed = timeout(self.lease / 3, renewing).await;
            let is_well = renewed.is_ok_and(|queues| queues.into_iter().all(|is_well| is_well));
            next = if is_well {
                usual()
            } else {
                (self.lease / 10).mul_f64(jitter(0.5))
            };
        }
    }

    /// `false` if another try soon may come to more.
    async fn renew_together(&self, extensions: Extensions) -> bool {
        let Extensions {
            numbers,
            settlements,
        } = extensions;
        let until = BootTime::now().later(self.trusted());
        match self.store.settle(settlements).await {
            Ok(renewed) => {
                let is_well = renewed.iter().all(Result::is_ok);
                numbers
                    .into_iter()
                    .zip(renewed)
                    .for_each(|(number, renewed)| self.on_renewed(number, renewed, until));
                is_well
            }
            Err(error) => {
                tracing::warn!(%error, "could not renew leases");
                false
            }
        }
    }

    /// Stops attempts whose leases could not be renewed in time: another consumer may have their
    /// jobs.
    pub(super) async fn watch_leases(self: Arc<Self>) -> Infallible {
        loop {
            let holding = self.holding.notified();
            let over: Vec<u64> = {
                let held = lock(&self.held);
                held.iter()
                    .filter(|(_, held)| {
                        held.until.left().is_zero() || self.store.is_cut_off(&held.leased.job.queue)
                    })
                    .map(|(number, _)| *number)
                    .collect()
            };
            over.into_iter()
                .for_each(|number| self.stop(number, Why::Lost));
            let holds_any = !lock(&self.held).is_empty();
            if holds_any {
                sleep((self.lease / 20).clamp(LOOK_EVERY.0, LOOK_EVERY.1)).await;
            } else {
                holding.await;
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
            // A settlement that is under way learns of it by this token.
            Ok(Settled::Stale)
                if lock(&self.held)
                    .get(&number)
                    .is_some_and(|held| held.is_ended) => {}
            Ok(Settled::Stale) => self.stop(number, Why::Lost),
        }
    }

    /// Stops attempts whose jobs are to be cancelled, long before their leases are renewed.
    pub(super) async fn hear_of_cancels(self: Arc<Self>) -> Infallible {
        let holds_any = || !lock(&self.held).is_empty();
        let cancels = self.broker.cancels();
        let find = cancels.find(holds_any, |cancel| {
            let is_it =
                |held: &HeldJob| held.leased.id == cancel.id && held.leased.token == cancel.token;
            let number = lock(&self.held)
                .iter()
                .find(|(_, held)| is_it(held))
                .map(|(number, _)| *number);
            if let Some(number) = number {
                self.stop(number, Why::Cancel(cancel.reason.clone()));
            }
            None
        });
        find.await
    }

    /// Lets running attempts finish, then stops them. Attempts in this process that cannot be
    /// stopped are left alone.
    pub(super) async fn drain(&self) {
        let control = &self.control;
        control.draining.cancel();
        let time = control
            .killing
            .run_until_cancelled(timeout(self.drain, control.is_settled()))
            .await;
        if matches!(time, Some(Ok(()))) {
            return;
        }
        let running: Vec<u64> = lock(&self.held).keys().copied().collect();
        running
            .into_iter()
            .for_each(|number| self.stop(number, Why::Shutdown));
        if self.pool.is_none() && timeout(ABANDON_AFTER, control.is_settled()).await.is_err() {
            self.abandoning.cancel();
        }
        control.is_settled().await;
    }
}

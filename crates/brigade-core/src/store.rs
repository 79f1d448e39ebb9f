//! The store contract: [`JobStore`], which each broker implements, and the values it takes and
//! gives.
//!
//! A store speaks to one broker (a SQLite file, Redis, RabbitMQ). `Broker` and
//! consumers know only this contract. A difference between stores is data ([`Capabilities`]), never
//! a branch on a name. Two products that not every broker has are traits of their own:
//! [`CallTransport`] (calls with answers) and [`ReloadLock`].
//!
//! A store of your own needs five methods (`capabilities`, `push`, `lease`, `settle`, `purge`) and
//! declares with [`Capabilities`] what else it can do. `Broker::from_store` makes it a broker; the
//! crate `brigade-conformance` tests it. What all stores decide alike is in
//! [`policy`](crate::policy): use it, so that a job is retried by every store in the same way.

#[doc(hidden)]
pub mod answer;
mod calls;
mod cancel;
mod capabilities;
mod edit;
mod lease;
mod listing;
mod live_consumer;
mod push;
mod queues;
mod reload_lock;
mod reply;
mod settlement;
#[doc(hidden)]
pub mod url;

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{JobInfo, JobState};
use crate::job_event::{EventPage, EventRequest};
use crate::limits::Limits;
use crate::schedule::{Schedule, Scheduled};
use crate::statistics::{MinuteCounts, StatisticsFilter};
use crate::why::Explanation;

pub use answer::Answer;
pub use calls::{CallCounts, CallResult, CallTransport, CallerLink, DirectCall};
pub use cancel::CancelOutcome;
pub use capabilities::Capabilities;
pub use edit::{Edit, stays_in_its_queue};
pub use lease::{DeliveryMode, LeaseRequest, Leased};
pub use listing::{CancelRequest, DeadGroup, JobFilter, JobPage, Managed, QueueCounts};
pub use live_consumer::{LiveConsumer, RunningJob};
pub use push::PushOutcome;
pub use queues::{QueueSet, Queues};
pub use reload_lock::{ReloadGuard, ReloadLock};
pub use reply::Reply;
pub use settlement::{Disposition, Settled, Settlement};

pub use crate::clock::BootTime;
pub use crate::job::{DependentKind, FlowLink, Job, JobId};
pub use crate::options::Options;
pub use crate::policy::RetryPolicy;
pub use crate::schedule::{DueTick, SchedulePlan, tell_skipped, time_of};

/// A store. Object-safe.
///
/// What every store guarantees:
///
/// - `push` returns when the jobs are as safe as the broker can make them; all or none of a batch.
/// - `lease` hands out each job to one holder at a time, highest priority first, then in the order
///   of the pushes. A job that is given back keeps its place, if the store declares
///   [`keeps_places`](Capabilities::keeps_places). Each lease has a token that no other lease of
///   the job has.
/// - `settle` acts only for the token that holds the job; every other settlement is
///   [`Settled::Stale`] and changes nothing. So at most one result of a job is accepted, unless the
///   broker loses what it acknowledged (a failover, a crash without `fsync`).
/// - Jobs of one push may be joined to a flow ([`FlowLink`]): a job then waits for its parents, and
///   the end of a parent, its count and the hand-over of its result are one atomic step.
/// - A lease that runs out, or whose holder is known to be dead, is ended by the store as
///   *interrupted*: the job is ready again, uncharged, and counted as *lost*, as far as the broker
///   can count.
/// - A job given back as [`AttemptKind::Unserved`](crate::AttemptKind::Unserved) counts how often
///   and since when, until an attempt fails or crashes; records of that kind in a row are one in
///   its history.
/// - `lease` also fires the schedules that are due: pushing the jobs of a tick and setting the next
///   tick is one atomic step, so each tick is fired once, whichever process fires it.
///
/// A new way to end an attempt is a variant of [`Disposition`], never a method.
///
/// The methods without a default are the minimum. Each of the others belongs to a capability; its
/// default, unless it says otherwise, is an [`Unsupported`](ErrorKind::Unsupported) error that
/// names the method and the capability. A store that declares the capability implements all of
/// them.
pub trait JobStore: Send + Sync {
    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// Stores jobs, in this order. One outcome per job, in order.
    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>>;

    /// Hands out up to [`max`](LeaseRequest::max) jobs, waiting for the first of them.
    fn lease(&self, request: LeaseRequest) -> Reply<'_, Vec<Leased>>;

    /// Settles leases. One outcome per settlement, in order; the outer error means that none of
    /// them was stored.
    ///
    /// The caller keeps its share of each settlement for another try. A consumer settles each
    /// attempt by itself, as soon as it ends: a store that combines what arrives at about the same
    /// time is the only place that does so.
    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>>;

    /// Removes every job of a queue that waits; how many they were.
    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64>;

    /// The leases of this store whose jobs are to be cancelled, or are known to be lost
    /// ([`cancels`](Capabilities::cancels)). Default: none.
    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    /// Looks for what is wrong with the broker, or weaker than it should be. May take a while.
    /// Default: finds nothing.
    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    /// Whether others may be taking the leases that this process holds of a queue before their time
    /// is over: the consumer then stops the attempts of that queue. Never waits.
    fn is_cut_off(&self, _queue: &str) -> bool {
        false
    }

    /// Waits until a job may have changed since this method was called, whether or not the future
    /// was polled by then. It may return without a change, at a pace that costs nothing
    /// ([`listing`](Capabilities::listing), [`cancels`](Capabilities::cancels)). Default: never
    /// returns, because no one looks at the jobs of other stores.
    fn changed(&self) -> Reply<'_, ()> {
        Box::pin(pending())
    }

    /// One job, with its history ([`listing`](Capabilities::listing)).
    fn job<'a>(&'a self, _id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        unsupported("job", "listing")
    }

    /// As [`job`](JobStore::job), for a caller that waits for the end of the job: the store need
    /// not process what is due first, so that many callers may ask after each change
    /// ([`listing`](Capabilities::listing)).
    fn waited_job<'a>(&'a self, _id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        unsupported("waited_job", "listing")
    }

    /// Jobs that meet a filter ([`listing`](Capabilities::listing)). A page has less than
    /// [`limit`](JobFilter::limit) jobs only at the end of the list, if they come to more than
    /// [`PAGE_BYTES_MAX`](JobFilter::PAGE_BYTES_MAX), or if [`READ_MAX`](JobFilter::READ_MAX) jobs
    /// were read that do not meet the filter, or that took long; it names the job to go on after
    /// then. A store reads no more of the jobs behind a full page than their sizes.
    fn jobs(&self, _filter: JobFilter) -> Reply<'_, JobPage> {
        unsupported("jobs", "listing")
    }

    /// The dead letters of a queue, or of all, in groups, [bounded](DeadGroup::bounded); the
    /// largest group first ([`listing`](Capabilities::listing)).
    fn dead_groups<'a>(&'a self, _queue: Option<&'a str>) -> Reply<'a, Vec<DeadGroup>> {
        unsupported("dead_groups", "listing")
    }

    /// What queues and tasks did, minute by minute, the oldest first
    /// ([`statistics`](Capabilities::statistics)).
    fn statistics(&self, _filter: StatisticsFilter) -> Reply<'_, Vec<MinuteCounts>> {
        unsupported("statistics", "statistics")
    }

    /// Events of jobs after a place, see [`job_event`](crate::job_event)
    /// ([`events`](Capabilities::events)). Dropping the future loses nothing: ask again from the
    /// same place.
    fn events(&self, _request: EventRequest) -> Reply<'_, EventPage> {
        unsupported("events", "events")
    }

    /// Every queue that has jobs, limits or a pause ([`listing`](Capabilities::listing)).
    fn counts(&self) -> Reply<'_, Vec<QueueCounts>> {
        unsupported("counts", "listing")
    }

    /// Why a job does not run ([`listing`](Capabilities::listing)).
    fn why<'a>(&'a self, _id: &'a JobId) -> Reply<'a, Option<Explanation>> {
        unsupported("why", "listing")
    }

    /// Puts a dead letter back into its queue with these changes, and gives the id that it goes on
    /// under. `None` if it is no dead letter ([`listing`](Capabilities::listing)).
    fn retry<'a>(&'a self, _id: &'a JobId, _edit: Edit) -> Reply<'a, Option<JobId>> {
        unsupported("retry", "listing")
    }

    /// Removes a job that is not leased; if a state is given, only in that state. Whether there was
    /// one ([`listing`](Capabilities::listing)).
    fn delete<'a>(&'a self, _id: &'a JobId, _only: Option<JobState>) -> Reply<'a, bool> {
        unsupported("delete", "listing")
    }

    /// Cancels a job, waiting or leased ([`cancels`](Capabilities::cancels)).
    fn cancel<'a>(&'a self, _id: &'a JobId, _reason: &'a str) -> Reply<'a, CancelOutcome> {
        unsupported("cancel", "cancels")
    }

    /// Cancels a job of which no attempt has begun: it waits, and none failed or crashed. Any other
    /// stays as it is. Whether it was cancelled ([`cancels`](Capabilities::cancels)).
    fn withdraw<'a>(&'a self, _id: &'a JobId, _reason: &'a str) -> Reply<'a, bool> {
        unsupported("withdraw", "cancels")
    }

    /// Pauses a queue ([`pauses`](Capabilities::pauses)).
    fn pause<'a>(&'a self, _queue: &'a str) -> Reply<'a, ()> {
        unsupported("pause", "pauses")
    }

    /// Ends the pause of a queue ([`pauses`](Capabilities::pauses)).
    fn resume<'a>(&'a self, _queue: &'a str) -> Reply<'a, ()> {
        unsupported("resume", "pauses")
    }

    /// Limits a queue, or removes its limits ([`limits`](Capabilities::limits)).
    fn limit<'a>(&'a self, _queue: &'a str, _limits: Option<Limits>) -> Reply<'a, ()> {
        unsupported("limit", "limits")
    }

    /// Every schedule, by name ([`schedules`](Capabilities::schedules)).
    fn schedules(&self) -> Reply<'_, Vec<Scheduled>> {
        unsupported("schedules", "schedules")
    }

    /// Stores a schedule and gives it as it is stored. One that has the same ticks as the stored
    /// one of its name keeps its next tick; one that is paused stays so
    /// ([`schedules`](Capabilities::schedules)).
    fn schedule<'a>(&'a self, _schedule: &'a Schedule) -> Reply<'a, Scheduled> {
        unsupported("schedule", "schedules")
    }

    /// Pauses a schedule, or ends its pause, as [`SchedulePlan::set_paused`] does; whether there is
    /// one ([`schedules`](Capabilities::schedules)).
    fn pause_schedule<'a>(&'a self, _name: &'a str, _paused: bool) -> Reply<'a, bool> {
        unsupported("pause_schedule", "schedules")
    }

    /// Removes a schedule; whether there was one ([`schedules`](Capabilities::schedules)).
    fn unschedule<'a>(&'a self, _name: &'a str) -> Reply<'a, bool> {
        unsupported("unschedule", "schedules")
    }

    /// Hands jobs to plain clients, which have to collect them within this time
    /// ([`manager`](Capabilities::manager)).
    fn manage<'a>(&'a self, _queue: &'a str, _collect_within: Duration) -> Reply<'a, Managed> {
        unsupported("manage", "manager")
    }

    /// Notes that a consumer is alive, for this long from now on; the next note renews that. It is
    /// listed until then, or until the store knows that its process has ended
    /// ([`consumers`](Capabilities::consumers)).
    fn announce_consumer<'a>(
        &'a self,
        _consumer: &'a LiveConsumer,
        _lasts: Duration,
    ) -> Reply<'a, ()> {
        unsupported("announce_consumer", "consumers")
    }

    /// Takes a consumer that ends off the list ([`consumers`](Capabilities::consumers)).
    fn retire_consumer<'a>(&'a self, _consumer: &'a LiveConsumer) -> Reply<'a, ()> {
        unsupported("retire_consumer", "consumers")
    }

    /// The consumers that are alive, at most 10,000 ([`consumers`](Capabilities::consumers)).
    fn consumers(&self) -> Reply<'_, Vec<LiveConsumer>> {
        unsupported("consumers", "consumers")
    }

    /// The transport of calls, if the broker delivers answers itself
    /// ([`answers`](Capabilities::answers)).
    fn calls(self: Arc<Self>) -> Option<Arc<dyn CallTransport>> {
        None
    }

    /// The broker's own locks, if it has any.
    fn reload_lock(self: Arc<Self>) -> Option<Arc<dyn ReloadLock>> {
        None
    }
}

/// The answer of a store to a method that it lacks.
fn unsupported<T: Send + 'static>(method: &str, capability: &str) -> Reply<'static, T> {
    let text = format!(
        "use JobStore::{method}: this broker cannot do that (its capability {capability:?} is \
            false)"
    );
    Box::pin(ready(Err(Error::new(ErrorKind::Unsupported, text))))
}

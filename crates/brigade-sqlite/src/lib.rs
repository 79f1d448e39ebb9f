//! The embedded broker: one SQLite file, any number of processes of one host.
//!
//! One connection on a thread of its own does everything (`db_thread`) but long looks, which have
//! another one (`looks`). What arrives while a transaction is being written goes into the next one
//! together, so that many small pushes and settlements share one sync. Idle consumers of other
//! processes are woken by the kernel (`change_watch`): SQLite appends to its write-ahead log at
//! each commit, and inotify reports that.
//!
//! Two clocks: the wall clock decides when a scheduled job is due; leases run on the host's boot
//! clock, which no one sets, so a jump of the wall clock moves no lease. After a reboot all leases
//! are void.

mod asks;
mod budget;
mod change_watch;
mod changes;
mod check;
mod config;
mod consumers;
mod counted;
mod counts;
mod db_thread;
mod disk_reserve;
mod events;
mod file;
mod find;
mod flow;
mod flow_ends;
mod flow_retries;
mod gather;
mod hand_out;
mod job_change;
mod job_end;
mod key;
mod limits;
mod look;
mod looks;
mod operation;
mod pace;
mod parent_results;
mod push;
mod refuse;
mod schedules;
mod schema;
mod settle;
mod sql_error;
mod sql_transaction;
mod sql_value;
mod statistics;
mod steps;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod transactions;
mod why;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use tokio::time::sleep;

use self::budget::pause_after;
use self::change_watch::ChangeWatch;
use self::config::SqliteConfig;
use self::db_thread::DbThread;
use self::operation::{OperationAccess, Synced};
use self::pace::Pace;
pub use self::sql_transaction::{PushIn, SqlTransaction};
pub use self::sql_value::SqlValue;
use self::store::Store;
use crate::clock::{Clock, later};
use crate::error::Error;
use crate::finding::Finding;
use crate::job::{Job, JobId, JobInfo, JobState};
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::retry::jitter;
use crate::schedule::{Schedule, Scheduled};
use brigade_core::limits::Limits;
use brigade_core::store::{
    CancelOutcome, CancelRequest, Capabilities, DeadGroup, DeliveryMode, Edit, JobFilter, JobPage,
    JobStore, LeaseRequest, Leased, LiveConsumer, PushOutcome, QueueCounts, Reply, Settled,
    Settlement,
};
use brigade_core::why::Explanation;
use brigade_core::{EventPage, EventRequest, MinuteCounts, StatisticsFilter};
use brigade_core::{
    attempt_report, clock, error, finding, job, policy, retry, schedule, sync, to_job,
};
use brigade_runtime::shutdown;

/// A waiting consumer looks again after this time in any case: the filesystem may have no inotify,
/// and some changes come with no commit.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
struct Sqlite {
    thread: DbThread,
    /// For looks that may take long, from the first of them on; see `looks`.
    looks: OnceCell<DbThread>,
    clock: Clock,
    wake: ChangeWatch,
    config: SqliteConfig,
    pace: Pace,
    /// The last ask was given jobs: the next is likely to be, too.
    is_busy: AtomicBool,
}

/// Opens the database of a URL: `sqlite:jobs.db`.
///
/// # Errors
///
/// Those of `Broker::connect`.
pub async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>, Error> {
    let config = SqliteConfig::parse(url.strip_prefix("sqlite:").unwrap_or(url))?;
    Ok(Arc::new(Sqlite::open(config, clock).await?))
}

impl JobStore for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: self.config.path.is_some(),
            listing: true,
            scheduling: true,
            schedules: true,
            priorities: true,
            keys: true,
            unique: true,
            limits: true,
            manager: false,
            consumers: true,
            statistics: true,
            events: true,
            flows: true,
            results: true,
            answers: false,
            passes: false,
            priority_range: (i32::MIN, i32::MAX),
            whole_batches: true,
            keeps_places: true,
            pauses: true,
            cancels: true,
            clock: true,
            dead_queues: false,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(
            self.thread
                .run(OperationAccess::Write(Synced::Now), move |store| {
                    store.push_all(&jobs)
                }),
        )
    }

    fn lease(&self, ask: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(self.lease_patiently(Arc::new(ask)))
    }

    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(
            self.thread
                .run(OperationAccess::Write(Synced::Now), move |store| {
                    store.settle_all(&settlements)
                }),
        )
    }

    fn announce_consumer<'a>(
        &'a self,
        consumer: &'a LiveConsumer,
        lasts: Duration,
    ) -> Reply<'a, ()> {
        let consumer = consumer.clone();
        // After a loss of power no consumer is alive.
        let access = OperationAccess::Write(Synced::Later);
        let announce = move |store: &Store<'_>| store.announce_consumer(&consumer, lasts);
        Box::pin(self.thread.run(access, announce))
    }

    fn retire_consumer<'a>(&'a self, consumer: &'a LiveConsumer) -> Reply<'a, ()> {
        let id = consumer.id.clone();
        let access = OperationAccess::Write(Synced::Later);
        Box::pin(
            self.thread
                .run(access, move |store| store.retire_consumer(&id)),
        )
    }

    fn consumers(&self) -> Reply<'_, Vec<LiveConsumer>> {
        Box::pin(
            self.thread
                .run(OperationAccess::Look, |store| store.consumers()),
        )
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        Box::pin(self.purge_in_steps(queue))
    }

    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(
            self.thread
                .run(OperationAccess::Look, |store| store.cancel_requests()),
        )
    }

    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(self.check_all())
    }

    fn changed(&self) -> Reply<'_, ()> {
        // Counts from this call on, not from when it is first polled: who calls, looks and then
        // waits misses nothing.
        let changed = self.wake.next();
        Box::pin(async {
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK_AGAIN) => {}
            }
            Ok(())
        })
    }

    fn job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        let id = id.clone();
        Box::pin(self.look_at_now(move |store| store.job(&id)))
    }

    fn waited_job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        let id = id.clone();
        Box::pin(
            self.thread
                .run(OperationAccess::Look, move |store| store.job(&id)),
        )
    }

    fn jobs(&self, filter: JobFilter) -> Reply<'_, JobPage> {
        Box::pin(self.look_long(move |store| store.jobs(&filter)))
    }

    fn dead_groups<'a>(&'a self, queue: Option<&'a str>) -> Reply<'a, Vec<DeadGroup>> {
        let queue: Option<Box<str>> = queue.map(Into::into);
        Box::pin(self.look_long(move |store| store.dead_groups(queue.as_deref())))
    }

    fn statistics(&self, filter: StatisticsFilter) -> Reply<'_, Vec<MinuteCounts>> {
        Box::pin(self.look_long(move |store| store.statistics(&filter)))
    }

    fn events(&self, request: EventRequest) -> Reply<'_, EventPage> {
        Box::pin(self.read_events(request))
    }

    fn counts(&self) -> Reply<'_, Vec<QueueCounts>> {
        Box::pin(self.look_long(|store| store.counts()))
    }

    fn why<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<Explanation>> {
        let id = id.clone();
        Box::pin(self.look_at_now(move |store| store.why(&id)))
    }

    fn retry<'a>(&'a self, id: &'a JobId, edit: Edit) -> Reply<'a, Option<JobId>> {
        let id = id.clone();
        Box::pin(self.retry_in_steps(id, edit))
    }

    fn delete<'a>(&'a self, id: &'a JobId, only: Option<JobState>) -> Reply<'a, bool> {
        let id = id.clone();
        self.write(move |store| store.delete(&id, only))
    }

    fn cancel<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, CancelOutcome> {
        let (id, reason) = (id.clone(), reason.to_owned());
        Box::pin(self.cancel_in_steps(move |store| store.cancel(&id, &reason)))
    }

    fn withdraw<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, bool> {
        let (id, reason) = (id.clone(), reason.to_owned());
        Box::pin(self.cancel_in_steps(move |store| store.withdraw(&id, &reason)))
    }

    fn pause<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        let queue: Box<str> = queue.into();
        self.write(move |store| store.set_paused(&queue, true))
    }

    fn resume<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        let queue: Box<str> = queue.into();
        self.write(move |store| store.set_paused(&queue, false))
    }

    fn limit<'a>(&'a self, queue: &'a str, limits: Option<Limits>) -> Reply<'a, ()> {
        Box::pin(self.limit_in_steps(queue, limits))
    }

    fn schedules(&self) -> Reply<'_, Vec<Scheduled>> {
        Box::pin(
            self.thread
                .run(OperationAccess::Look, |store| store.schedules()),
        )
    }

    fn schedule<'a>(&'a self, schedule: &'a Schedule) -> Reply<'a, Scheduled> {
        let schedule = schedule.clone();
        self.write(move |store| store.schedule(&schedule))
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> Reply<'a, bool> {
        let name: Box<str> = name.into();
        self.write(move |store| store.pause_schedule(&name, paused))
    }

    fn unschedule<'a>(&'a self, name: &'a str) -> Reply<'a, bool> {
        let name: Box<str> = name.into();
        self.write(move |store| store.unschedule(&name))
    }
}

impl Sqlite {
    async fn open(config: SqliteConfig, clock: Clock) -> Result<Self, Error> {
        let thread = DbThread::open(config.clone(), clock.clone()).await?;
        let wake = ChangeWatch::watch(config.path.as_deref(), thread.committed())?;
        Ok(Self {
            thread,
            looks: OnceCell::new(),
            clock,
            wake,
            config,
            pace: Pace::new(),
            is_busy: AtomicBool::new(true),
        })
    }

    /// Waits for jobs: for a change, for what falls due, for another step of a sweep.
    async fn lease_patiently(&self, ask: Arc<LeaseRequest>) -> Result<Vec<Leased>, Error> {
        let until = later(Instant::now(), ask.wait);
        // What is taken is gone; a lease ends with a loss of power anyway.
        let sync = if matches!(ask.mode, DeliveryMode::Take) {
            Synced::Now
        } else {
            Synced::Later
        };
        let at_once = ask.wait.is_zero();
        while !ask.enough.is_cancelled() {
            let (changed, asked, began) = (self.wake.next(), Arc::clone(&ask), Instant::now());
            let access = OperationAccess::HandOut {
                sync,
                looks_first: !self.is_busy.load(Ordering::Relaxed),
                at_once,
            };
            let came = self
                .thread
                .run(access, move |store| store.lease(&asked))
                .await?;
            let found = !came.leased.is_empty();
            self.is_busy.store(found, Ordering::Relaxed);
            self.pace.note(found, began.elapsed());
            let left = until.saturating_duration_since(Instant::now());
            if found || left.is_zero() && came.again_in.is_none() {
                return Ok(came.leased);
            }
            if let Some(pause) = came.again_in {
                sleep(pause.max(pause_after(began.elapsed()))).await;
                continue;
            }
            // Not all at the same moment.
            let pause = came
                .due_in
                .unwrap_or(LOOK_AGAIN)
                .min(LOOK_AGAIN.mul_f64(jitter(0.2)))
                .min(left);
            tokio::select! {
                () = changed => drop(ask.enough.run_until_cancelled(sleep(self.pace.pause().min(left))).await),
                () = sleep(pause) => {}
                () = ask.enough.cancelled() => {}
            }
        }
        Ok(Vec::new())
    }

    /// One synced transaction.
    fn write<T: Send + 'static>(
        &self,
        change: impl Fn(&Store<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Reply<'_, T> {
        Box::pin(self.thread.run(OperationAccess::Write(Synced::Now), change))
    }

    async fn check_all(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = match self.look_at_now(|store| store.check()).await {
            Ok(findings) => findings,
            Err(error) if self.thread.is_file_lost() => vec![check::lost_file(&error)],
            Err(error) => return Err(error),
        };
        // The rest is known outside of the database.
        findings.extend(check::storage(&self.config, self.wake.is_watching()));
        Ok(findings)
    }
}

//! [`Broker`]: the handle of a connection to a broker.
//!
//! The store behind it owns all state: jobs, queues, leases. The handle adds the clock that tests
//! move and one watcher for cancels; clones share all three. Most methods check their input, call
//! the store once and return its answer; `wait` and `stop` ask again after each change.
//!
//! Invariants: a job is checked against the limits and against what the broker declares before the
//! store sees it. A request whose error is not marked uncertain was not carried out.
//!
//! It does not retry failed requests. Connecting, calls and schedules have their own files here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::stopped::last_stop;
use super::{Cancels, Stopped, ToJob};
use crate::attempt_report::{Step, StopReceipt};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{Job, JobId, JobInfo, JobState};
use crate::job_event::{EventPage, EventRequest};
use crate::policy::{check_job, check_name, check_payload};
use crate::statistics::{MinuteCounts, StatisticsFilter};
use crate::store::{
    CancelOutcome, Capabilities, DeadGroup, Edit, JobFilter, JobPage, JobStore, LiveConsumer,
    PushOutcome, QueueCounts,
};
use crate::why::Explanation;
use brigade_core::span;

/// A connection to a broker, where jobs wait. Cheap to clone.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::{Broker, JobState, task};
///
/// #[task]
/// fn greet(name: String) {
///     println!("hello {name}");
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}/jobs.db", directory.path().display());
/// let broker = Broker::connect(&url).await?; // sqlite:jobs.db, redis://.., amqp://..
/// let pushed = broker.push(greet("Ann".to_owned()).delay(Duration::from_secs(3600))).await?;
/// let job = broker.job(pushed.id()).await?.expect("it waits");
/// assert_eq!(job.state, JobState::Scheduled);
/// broker.cancel(pushed.id(), "not needed").await?;
/// # Ok(()) }
/// ```
///
/// # Errors of a broker
///
/// Every operation may fail with one of these kinds. Each method names only those special to it.
///
/// | kind | cause |
/// |---|---|
/// | `Unreachable` | the broker cannot be reached or is not ready; retryable |
/// | `Timeout` | the broker did not answer in time, or another process held the file; retryable |
/// | `QueueFull` | no room: memory or disk of the broker, or a limit of the server; retryable |
/// | `Refused` | wrong credentials, or a missing right |
/// | `Closed` | the connection has ended for good: connect again |
/// | `Unsupported` | this broker cannot do this ([`Capabilities`]) |
/// | `Os` | the operating system refused, for example a full or read-only disk |
/// | `Protocol` | the broker's answer makes no sense |
///
/// [`Error::is_uncertain`] says whether the operation may have been carried out nevertheless,
/// [`Error::is_retryable`] whether the same operation may succeed later.
#[derive(Clone)]
pub struct Broker {
    store: Arc<dyn JobStore>,
    clock: Clock,
    cancels: Arc<Cancels>,
}

impl Broker {
    /// A broker over a store of your own, see [`JobStore`]. `clock` is the one that the store
    /// reads, which [`clock`](Broker::clock) gives to tests; a store that reads none
    /// ([`Capabilities::clock`]) takes `Clock::default()`. [`connect`](Broker::connect) is this for
    /// the stores of this build.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use brigade::{Broker, Clock, store::JobStore};
    /// # fn example(my_store: Arc<dyn JobStore>) {
    /// let broker = Broker::from_store(my_store, Clock::default());
    /// # }
    /// ```
    pub fn from_store(store: Arc<dyn JobStore>, clock: Clock) -> Self {
        let cancels = Arc::new(Cancels::new(Arc::clone(&store)));
        Self {
            store,
            clock,
            cancels,
        }
    }

    /// What this broker can do.
    pub fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// The clock of this connection, for tests.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn store(&self) -> &Arc<dyn JobStore> {
        &self.store
    }

    pub(crate) fn cancels(&self) -> Arc<Cancels> {
        Arc::clone(&self.cancels)
    }

    /// Pushes a job, or a call of a task with its options, and returns when it is safe.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `Decode` for a payload that is not JSON, `BadOption` for a priority that the
    /// broker does not have, `Unsupported` for an option that its [`Capabilities`] do not declare,
    /// and [errors of the broker](Broker#errors-of-a-broker). Nothing was stored then, unless the
    /// error is [uncertain](Error::is_uncertain).
    pub async fn push(&self, job: impl ToJob) -> Result<PushOutcome, Error> {
        let mut pushed = self.push_many(vec![job.to_job()?]).await?;
        pushed
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "push a job: the broker gave no answer"))
    }

    /// Pushes jobs in this order, all or none. One answer per job.
    ///
    /// # Errors
    ///
    /// As [`push`](Broker::push).
    pub async fn push_many(&self, mut jobs: Vec<Job>) -> Result<Vec<PushOutcome>, Error> {
        let can = self.capabilities();
        for job in &jobs {
            check_job(job, can.payload_bytes_max)?;
            can.check(job)?;
        }
        let span = span::push(&mut jobs);
        let pushed = self.store.push(jobs).instrument(span.clone()).await;
        if !span.is_disabled() {
            let ids = pushed.as_ref().map(|pushed| match &pushed[..] {
                [one] => Some(one.id()),
                _ => None,
            });
            span::record_pushed(&span, ids);
        }
        pushed
    }

    /// One job, with its history; `None` if there is none (any more).
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn job(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        self.store.job(id).await
    }

    /// Jobs in the order of their pushes, after one if given, all of them in memory;
    /// [`find`](Broker::find) gives them in pages, and knows more conditions.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn jobs(
        &self,
        queue: Option<&str>,
        state: Option<JobState>,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let mut filter = JobFilter {
            queue: queue.map(Into::into),
            state,
            after: after.cloned(),
            limit,
            ..JobFilter::default()
        };
        let mut jobs = Vec::new();
        loop {
            let page = self.store.jobs(filter.clone()).await?;
            jobs.extend(page.jobs);
            filter.limit = limit.saturating_sub(jobs.len());
            filter.after = page.next;
            if filter.limit == 0 || filter.after.is_none() {
                return Ok(jobs);
            }
        }
    }

    /// One page of the jobs that meet a filter: by queue, state, task, label, key, time, reason, or
    /// text in the payload. A page may have fewer jobs than asked for, even none, and yet have a
    /// [`next`](JobPage::next): one look reads a bounded number of jobs, and a page of large jobs
    /// ends [early](JobFilter::PAGE_BYTES_MAX).
    ///
    /// ```
    /// # use brigade::{Broker, JobFilter, JobState};
    /// # async fn example(broker: Broker) -> Result<(), brigade::Error> {
    /// let mut filter = JobFilter {
    ///     state: Some(JobState::Dead),
    ///     text: Some("ann@example.org".into()),
    ///     newest_first: true,
    ///     limit: 100,
    ///     ..JobFilter::default()
    /// };
    /// loop {
    ///     let page = broker.find(&filter).await?;
    ///     page.jobs.iter().for_each(|job| println!("{} {:?}", job.id, job.reason));
    ///     let Some(next) = page.next else { break };
    ///     filter.after = Some(next);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn find(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        self.store.jobs(filter.clone()).await
    }

    /// The dead letters of a queue, or of all, in groups of one task and like reasons; the largest
    /// group first. [`JobFilter::reason`] finds the jobs of a group.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn dead_groups(&self, queue: Option<&str>) -> Result<Vec<DeadGroup>, Error> {
        self.store.dead_groups(queue).await
    }

    /// What queues and tasks did, minute by minute, for the last day: counts, waits and run times.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`statistics`](Capabilities::statistics).
    pub async fn statistics(&self, filter: StatisticsFilter) -> Result<Vec<MinuteCounts>, Error> {
        self.store.statistics(filter).await
    }

    /// Changes of state of jobs, in order, after a place in them. The first request starts the
    /// recording, which goes on for an hour after the last one; a broker that is not watched
    /// records nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use brigade::{Broker, EventRequest};
    /// # async fn example(broker: Broker) -> Result<(), brigade::Error> {
    /// let mut request = EventRequest { max: 100, wait: Duration::from_secs(20), ..Default::default() };
    /// loop {
    ///     let page = broker.events(request.clone()).await?;
    ///     for event in &page.events {
    ///         println!("{} of {} is {}", event.job, event.queue, event.kind);
    ///     }
    ///     request.after = Some(page.next);
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`events`](Capabilities::events), `BadOption` for a cursor
    /// of another form.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event: ask again from the same place.
    pub async fn events(&self, request: EventRequest) -> Result<EventPage, Error> {
        self.store.events(request).await
    }

    /// Every queue that has jobs or is paused.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn queues(&self) -> Result<Vec<QueueCounts>, Error> {
        self.store.counts().await
    }

    /// Why a job does not run now, from the code that hands out jobs; `None` if there is no job of
    /// that id (any more).
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`listing`](Capabilities::listing).
    pub async fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        self.store.why(id).await
    }

    /// The consumers that are alive, with their queues and processes.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`consumers`](Capabilities::consumers).
    pub async fn consumers(&self) -> Result<Vec<LiveConsumer>, Error> {
        self.store.consumers().await
    }

    /// Finds faults and risky settings of the broker, the worst first. It
    /// may take a while: SQLite reads the whole file.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn check(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = self.store.check().await?;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Ok(findings)
    }

    /// Cancels a job, waiting or leased. A waiting one ends at once. A leased one is stopped by its
    /// holder, wherever that is; [`stop`](Broker::stop) waits for that. One that waits for other
    /// jobs of its flow takes those with it, so that cancelling the last job of a flow cancels the
    /// flow.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn cancel(&self, id: &JobId, reason: &str) -> Result<CancelOutcome, Error> {
        self.store.cancel(id, reason).await
    }

    /// Cancels a job and waits until nothing of it is left: by which step of the kill ladder, how
    /// long it took. `None` if there was nothing to cancel.
    ///
    /// A holder that neither stops nor extends its lease keeps the caller for as long as the lease
    /// runs.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the cancel back.
    pub async fn stop(&self, id: &JobId, reason: &str) -> Result<Option<Stopped>, Error> {
        let began = Instant::now();
        let receipt = match self.cancel(id, reason).await? {
            CancelOutcome::Nothing => return Ok(None),
            CancelOutcome::Cancelled => Some(StopReceipt::new(Step::NotStarted, Duration::ZERO)),
            CancelOutcome::Asked => None,
        };
        let ended = self.wait(id).await?;
        let state = ended.as_ref().map(|job| job.state);
        let (stop, report) = ended.map_or((None, None), |mut job| last_stop(&mut job));
        Ok(Some(Stopped {
            state,
            receipt: receipt.or(stop),
            report,
            took: began.elapsed(),
        }))
    }

    /// Gives a dead letter back to its queue, its counters at zero;
    /// [`retry_with`](Broker::retry_with) changes it before. Those of its flow that were not run
    /// because of it wait for it again. `false` if it is none, and for one that was not run because
    /// of others: retry those.
    ///
    /// # Errors
    ///
    /// `Duplicate` if its unique key, or that of one that would wait again, has been taken by
    /// another job; [errors of the broker](Broker#errors-of-a-broker).
    pub async fn retry(&self, id: &JobId) -> Result<bool, Error> {
        Ok(self.retry_with(id, Edit::new()).await?.is_some())
    }

    /// Changes a dead letter and gives it back to its queue in one step, as
    /// [`retry`](Broker::retry) does: it either has all of the changes and is tried again, or
    /// nothing has happened. Returns the id that it goes on under, which is another one if the
    /// broker has the queue in its ids; `None` if it is no dead letter, and for one that was not
    /// run because of others.
    ///
    /// ```
    /// # use brigade::{Broker, Edit, JobId};
    /// # async fn example(broker: Broker, id: JobId) -> Result<(), brigade::Error> {
    /// let edit = Edit::new().payload(&serde_json::json!({"to": "ann@example.org"}))?.queue("emails");
    /// let id = broker.retry_with(&id, edit).await?.expect("a dead letter");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`retry`](Broker::retry); `TooLarge` for a payload over the limit, `BadOption` for a name
    /// that no queue or task can have, `Unsupported` for another queue of a job of a flow, and
    /// where two queues cannot be changed in one step (a Redis cluster).
    pub async fn retry_with(&self, id: &JobId, edit: Edit) -> Result<Option<JobId>, Error> {
        if let Some(payload) = &edit.payload {
            check_payload(
                "retry a dead letter",
                payload,
                self.capabilities().payload_bytes_max,
            )?;
        }
        if let Some(queue) = &edit.queue {
            check_name("queue", queue)?;
        }
        if let Some(task) = &edit.task {
            check_name("task", task)?;
        }
        self.store.retry(id, edit).await
    }

    /// Removes a job that is not leased, whatever its state. `false` if there is none.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn delete(&self, id: &JobId) -> Result<bool, Error> {
        self.store.delete(id, None).await
    }

    /// Removes a job if it is a dead letter at that moment. `false` if it is none.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn delete_dead(&self, id: &JobId) -> Result<bool, Error> {
        self.store.delete(id, Some(JobState::Dead)).await
    }

    /// Waits until a job is settled for good and gives it, or `None` if it is not there (any more):
    /// give it [`Job::keep`], so that it stays long enough. Cancel safe.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn wait(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        loop {
            let changed = self.store.changed();
            match self.store.waited_job(id).await? {
                Some(job) if !job.state.is_terminal() => changed.await?,
                ended => return Ok(ended),
            }
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("capabilities", &self.capabilities())
            .finish_non_exhaustive()
    }
}

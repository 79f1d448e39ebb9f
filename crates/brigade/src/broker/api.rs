//! What a user holds: [`Broker`], [`Queue`], [`Lease`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::admission::{check_job, check_name};
use super::redact::{redact, split_scheme};
use super::{
    Backend, CancelOutcome, Cancels, Capabilities, Edit, Lease, LeaseAsk, Leased, Order, Ordered,
    PushOutcome, Query, QueueCounts, Queues, Stopped, TakenJob, Terms, ToJob, View,
};
use crate::attempt_report::{Step, StopReceipt};
use crate::clock::FAR;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{AttemptKind, Job, JobId, JobInfo, JobState};
use crate::limits::Limits;
use crate::why::Explanation;

/// Where jobs wait. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    backend: Arc<dyn Backend>,
    clock: Clock,
    cancels: Arc<Cancels>,
}

/// The broker's clock, for tests: it can be moved forwards, and everything that waits for a time
/// falls due; and its wall clock can be set, as a person would.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Shifts>);

/// Milliseconds.
#[derive(Debug, Default)]
struct Shifts {
    ahead: AtomicU64,
    wall: AtomicI64,
}

impl Clock {
    /// Moves this broker's time forwards, as this process sees it.
    pub fn advance(&self, by: Duration) {
        let add = |ahead: u64| {
            Some(
                ahead
                    .saturating_add(bounded_millis(by))
                    .min(bounded_millis(FAR)),
            )
        };
        // It is always some.
        self.0
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok();
    }

    /// Sets the wall clock forwards, as this process sees it: no time has passed, so leases stay as
    /// they are.
    pub fn set_forward(&self, by: Duration) {
        self.0
            .wall
            .fetch_add(bounded_millis(by).cast_signed(), Ordering::Relaxed);
    }

    /// Sets the wall clock back, as this process sees it.
    pub fn set_back(&self, by: Duration) {
        self.0
            .wall
            .fetch_sub(bounded_millis(by).cast_signed(), Ordering::Relaxed);
    }

    /// The wall clock, as moved.
    pub(crate) fn now(&self) -> SystemTime {
        let (now, wall) = (SystemTime::now() + self.ahead(), self.wall_off_millis());
        let set = Duration::from_millis(wall.unsigned_abs());
        let moved = if wall < 0 {
            now.checked_sub(set)
        } else {
            now.checked_add(set)
        };
        moved.unwrap_or(now)
    }

    pub(crate) fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.ahead.load(Ordering::Relaxed))
    }

    /// How far the wall clock is off the host's, besides.
    pub(crate) fn wall_off_millis(&self) -> i64 {
        self.0.wall.load(Ordering::Relaxed)
    }
}

/// Milliseconds of a time that is at most [`FAR`].
fn bounded_millis(time: Duration) -> u64 {
    u64::try_from(time.min(FAR).as_millis()).unwrap_or(0)
}

impl Broker {
    /// Connects to the broker of a URL: `sqlite:jobs.db` (a file, made if it is not there),
    /// `sqlite:jobs.db?synchronous=normal`, `sqlite::memory:` (for tests); with cargo feature
    /// `redis` `redis://host/`, `redis+unix:///path`, `redis+sentinel://host/name`,
    /// `redis+cluster://host,host`. `docs/brokers.md` has all options.
    ///
    /// # Errors
    ///
    /// `BadOption` for a URL that is none, `Unsupported` for a file of another program or of a
    /// later version, or a server that is too old, `Refused` for a wrong password, `Unreachable`,
    /// `Os`.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let clock = Clock::default();
        let backend: Arc<dyn Backend> = match url.split_once(':') {
            #[cfg(feature = "redis")]
            Some((
                "redis" | "rediss" | "redis+unix" | "unix" | "redis+sentinel" | "rediss+sentinel"
                | "redis+cluster" | "rediss+cluster",
                _,
            )) => super::redis::connect(url, clock.clone()).await?,
            #[cfg(feature = "rabbitmq")]
            Some(("amqp" | "amqps", _)) => super::rabbitmq::connect(url, clock.clone()).await?,
            #[cfg(feature = "sqlite")]
            Some(("sqlite", rest)) => super::sqlite::connect(rest, clock.clone()).await?,
            _ => return Err(unknown_scheme(url)),
        };
        let cancels = Arc::new(Cancels::new(Arc::clone(&backend)));
        Ok(Self {
            backend,
            clock,
            cancels,
        })
    }

    /// A broker's URL for logs and people: passwords, and whatever could be one in a mistyped URL,
    /// are `***`. Any text is allowed. The errors of [`connect`](Broker::connect) have no passwords
    /// in them either.
    ///
    /// ```
    /// assert_eq!(brigade::Broker::redacted_url("redis://me:secret@host/1"), "redis://me:***@host/1");
    /// assert_eq!(brigade::Broker::redacted_url("redis:/me:secret@host"), "redis:***@host");
    /// ```
    pub fn redacted_url(url: &str) -> String {
        redact(url)
    }

    /// What this broker can do.
    pub fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    /// The clock of this connection, for tests.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A queue by name; it need not be declared.
    pub fn queue(&self, name: impl Into<Box<str>>) -> Queue {
        Queue {
            broker: self.clone(),
            name: name.into(),
        }
    }

    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    pub(crate) fn cancels(&self) -> Arc<Cancels> {
        Arc::clone(&self.cancels)
    }

    /// Pushes a job, or a call of a task with its options, and returns when it is safe.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `Decode` for a payload that is not JSON, and what the broker says. Then nothing
    /// was stored.
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
    pub async fn push_many(&self, jobs: Vec<Job>) -> Result<Vec<PushOutcome>, Error> {
        let max = self.capabilities().payload_bytes_max;
        jobs.iter().try_for_each(|job| check_job(job, max))?;
        self.backend.push(jobs).await
    }

    /// One job, with its history; `None` if there is none (any more).
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        match self.backend.look(Query::Job(id.clone())).await? {
            View::Job(job) => Ok(job.map(|job| *job)),
            _ => Err(confused()),
        }
    }

    /// Jobs in the order of their pushes, after one if given.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn jobs(
        &self,
        queue: Option<&str>,
        state: Option<JobState>,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let query = Query::Jobs {
            queue: queue.map(Into::into),
            state,
            after: after.cloned(),
            limit,
        };
        match self.backend.look(query).await? {
            View::Jobs(jobs) => Ok(jobs),
            _ => Err(confused()),
        }
    }

    /// Every queue that has jobs or is paused.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn queues(&self) -> Result<Vec<QueueCounts>, Error> {
        match self.backend.look(Query::Counts).await? {
            View::Counts(counts) => Ok(counts),
            _ => Err(confused()),
        }
    }

    /// Why a job is not running, from the code that hands out jobs; `None` if there is no such job
    /// (any more).
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        match self.backend.look(Query::Why(id.clone())).await? {
            View::Why(explanation) => Ok(explanation.map(|explanation| *explanation)),
            _ => Err(confused()),
        }
    }

    /// Looks for what is wrong, or weaker than it should be: the worst first. It may take a while:
    /// it reads the whole file.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn check(&self) -> Result<Vec<Finding>, Error> {
        match self.backend.look(Query::Check).await? {
            View::Check(mut findings) => {
                findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
                Ok(findings)
            }
            _ => Err(confused()),
        }
    }

    /// Cancels a job, waiting or leased. A waiting one ends at once. A leased one is stopped by its
    /// holder, wherever that is; [`stop`](Broker::stop) waits for that. One that waits for other
    /// jobs of its flow takes those with it, so that cancelling the last job of a flow cancels the
    /// flow.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn cancel(&self, id: &JobId, reason: &str) -> Result<CancelOutcome, Error> {
        Ok(
            match self
                .backend
                .order(Order::Cancel(id.clone(), reason.to_owned()))
                .await?
            {
                Ordered::Changed(_) => CancelOutcome::Cancelled,
                Ordered::Asked => CancelOutcome::Asked,
                Ordered::Nothing
                | Ordered::Retried(_)
                | Ordered::Scheduled(_)
                | Ordered::Managed { .. } => CancelOutcome::Nothing,
            },
        )
    }

    /// Cancels a job and waits until nothing of it is left: by which step of the kill ladder, how
    /// long it took. `None` if there was nothing to cancel.
    ///
    /// A holder that neither stops nor extends its lease keeps the caller for as long as the lease
    /// runs.
    ///
    /// # Errors
    ///
    /// What the broker says.
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
        let (state, last) =
            ended.map_or((None, None), |mut job| (Some(job.state), job.history.pop()));
        let last = last.filter(|record| {
            state == Some(JobState::Cancelled) && record.kind == AttemptKind::Cancelled
        });
        let (stop, report) = last.map_or((None, None), |record| (record.stop, record.report));
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
    /// another job; what the broker says.
    pub async fn retry(&self, id: &JobId) -> Result<bool, Error> {
        Ok(self.retry_with(id, Edit::new()).await?.is_some())
    }

    /// Removes a job that is not leased, whatever its state. `false` if there is none.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn delete(&self, id: &JobId) -> Result<bool, Error> {
        Ok(self.backend.order(Order::Delete(id.clone(), None)).await? != Ordered::Nothing)
    }

    /// Removes a job if it is a dead letter at that moment. `false` if it is none.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn delete_dead(&self, id: &JobId) -> Result<bool, Error> {
        Ok(self
            .backend
            .order(Order::Delete(id.clone(), Some(JobState::Dead)))
            .await?
            != Ordered::Nothing)
    }

    /// Waits until a job is settled for good and gives it, or `None` if it is not there (any more):
    /// give it [`Job::keep`], so that it stays long enough. Cancel safe.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn wait(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        loop {
            let changed = self.backend.changed();
            let View::Job(job) = self.backend.look(Query::Waited(id.clone())).await? else {
                return Err(confused());
            };
            match job.map(|job| *job) {
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

/// A named list of jobs at a broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    broker: Broker,
    name: Box<str>,
}

impl Queue {
    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Describes a job of this queue with any serde value as its payload, to be given options and
    /// pushed.
    ///
    /// # Errors
    ///
    /// `Encode` if the value is no JSON.
    pub fn job(&self, payload: &(impl Serialize + ?Sized)) -> Result<Job, Error> {
        Ok(Job::new(
            self.name.clone(),
            None,
            Codec::json_text(payload)?,
        ))
    }

    /// Pushes any serde value as JSON and returns when it is safe.
    ///
    /// # Errors
    ///
    /// As [`Broker::push`].
    pub async fn push(&self, payload: &(impl Serialize + ?Sized)) -> Result<JobId, Error> {
        let pushed = self.broker.push(self.job(payload)?).await?;
        Ok(pushed.id().clone())
    }

    /// The next job, removed from the queue at that moment: at most once. `None` if none comes
    /// within `wait`.
    ///
    /// # Errors
    ///
    /// What the broker says.
    ///
    /// # Cancel safety
    ///
    /// None: a job that is on its way when the future is dropped is gone. Where that matters,
    /// lease.
    pub async fn take(&self, wait: Duration) -> Result<Option<TakenJob>, Error> {
        Ok(self.ask(Terms::Take, 1, wait).await?.pop().map(TakenJob))
    }

    /// The next job on a lease of this time: at least once. `None` if none comes within `wait`.
    ///
    /// # Errors
    ///
    /// What the broker says.
    ///
    /// # Cancel safety
    ///
    /// A job that is on its way when the future is dropped is given back when its lease runs out.
    pub async fn lease(&self, time: Duration, wait: Duration) -> Result<Option<Lease>, Error> {
        let leased = self.ask(Terms::Lease(time), 1, wait).await?.pop();
        Ok(leased.map(|leased| Lease {
            cancels: Arc::clone(&self.broker.cancels),
            leased,
        }))
    }

    async fn ask(&self, terms: Terms, max: usize, wait: Duration) -> Result<Vec<Leased>, Error> {
        check_name("queue", &self.name)?;
        let (terms, wait) = (terms.bounded(), wait.min(FAR));
        self.broker
            .backend
            .lease(LeaseAsk {
                queues: Queues::one(self.name.clone()),
                max,
                terms,
                wait,
                enough: CancellationToken::new(),
            })
            .await
    }

    /// Hands out nothing more, everywhere, until it is resumed.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn pause(&self) -> Result<(), Error> {
        check_name("queue", &self.name)?;
        self.broker
            .backend
            .order(Order::Pause(self.name.clone()))
            .await
            .map(drop)
    }

    /// Takes a pause back.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn resume(&self) -> Result<(), Error> {
        check_name("queue", &self.name)?;
        self.broker
            .backend
            .order(Order::Resume(self.name.clone()))
            .await
            .map(drop)
    }

    /// Limits how much of it runs and starts at once, for all workers on all hosts together, in
    /// place of what limits it had. It holds from the next hand-out on; what runs goes on.
    ///
    /// # Errors
    ///
    /// `BadOption` for limits that no job could pass, and what the broker says.
    pub async fn limit(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        check_name("queue", &self.name)?;
        self.broker
            .backend
            .order(Order::Limit(self.name.clone(), Some(limits)))
            .await
            .map(drop)
    }

    /// Takes its limits away.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn unlimit(&self) -> Result<(), Error> {
        check_name("queue", &self.name)?;
        self.broker
            .backend
            .order(Order::Limit(self.name.clone(), None))
            .await
            .map(drop)
    }

    /// Removes every job that waits. Returns how many.
    ///
    /// # Errors
    ///
    /// What the broker says.
    pub async fn purge(&self) -> Result<u64, Error> {
        check_name("queue", &self.name)?;
        match self
            .broker
            .backend
            .order(Order::Purge(self.name.clone()))
            .await?
        {
            Ordered::Changed(count) => Ok(count),
            _ => Ok(0),
        }
    }
}

/// What this build has.
const SCHEMES: &str = match (
    cfg!(feature = "sqlite"),
    cfg!(feature = "redis"),
    cfg!(feature = "rabbitmq"),
) {
    (true, true, true) => "sqlite, redis, amqp",
    (true, true, false) => "sqlite, redis (rabbitmq is a cargo feature that is off)",
    (true, false, true) => "sqlite, amqp (redis is a cargo feature that is off)",
    (true, false, false) => "sqlite (redis and rabbitmq are cargo features that are off)",
    (false, true, true) => "redis, amqp (sqlite is a cargo feature that is off)",
    (false, true, false) => "redis (sqlite and rabbitmq are cargo features that are off)",
    (false, false, _) => "amqp (sqlite and redis are cargo features that are off)",
};

/// Quotes no more of the text than a scheme: any other part may be a password.
fn unknown_scheme(url: &str) -> Error {
    let text = match split_scheme(url) {
        Some((scheme, _)) => {
            format!("connect to a broker of scheme {scheme:?}: there are {SCHEMES}")
        }
        None => format!(
            "connect to a broker by a text that has no scheme: write sqlite:jobs.db or \
                redis://host; there are {SCHEMES}"
        ),
    };
    Error::new(ErrorKind::BadOption, text)
}

pub(super) fn confused() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "ask a broker: it answered another question",
    )
}

//! Brokers: where jobs wait. The trait that each one implements, and the API around it.
//!
//! A [`Backend`] is small, batch-first and object-safe: push many, lease many, settle many, and a
//! few for looking. Its contract:
//!
//! - `push` returns when the jobs are safe, as far as the broker can make them so; all or none of a
//!   batch.
//! - `lease` hands out each job to one holder at a time, highest priority first, then in the order
//!   of the pushes; a job given back is where it was. Each lease has a token that no other lease of
//!   the job has.
//! - `settle` does what it says only for the token that holds the job; every other gets
//!   [`Settled::Stale`] and changes nothing. So at most one result of a job is accepted, unless the
//!   broker loses what it acknowledged (a failover, a crash without `fsync`).
//! - Jobs of one push may be joined to a flow ([`Link`](crate::job::Link)): a job then waits for
//!   its members, and each member's end, the count of it and the hand-over of its result are one
//!   step.
//! - A lease that runs out, or whose holder is known to be dead, is ended by the broker as
//!   *interrupted*: the job is ready again, uncharged, and counted as *lost* (as far as the broker
//!   can count).
//! - A job given back as [`AttemptKind::Unserved`] counts how often since when, until an attempt
//!   fails or crashes; records of that kind in a row are one in its history.
//! - `lease` also fires the schedules that are due: the jobs of a tick are pushed and its
//!   schedule's next tick is set in one atomic step, so each tick is fired once, whoever looks.
//! - A new ending is a variant of [`Ending`], never a method; a difference between brokers is data
//!   in [`Capabilities`].

#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod account;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
mod address;
mod admission;
mod answer;
mod api;
mod broker_call;
mod called;
mod cancel_outcome;
mod cancels;
#[cfg(feature = "redis")]
mod convoy;
mod edit;
#[cfg(feature = "rabbitmq")]
mod foreign;
mod lease;
mod manager;
mod percent;
mod queues;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod redact;
#[cfg(feature = "redis")]
mod redis;
mod schedule_set;
mod schedules;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "redis-tls", feature = "rabbitmq-tls"))]
mod tls;
#[cfg(all(
    any(feature = "redis", feature = "rabbitmq"),
    not(any(feature = "redis-tls", feature = "rabbitmq-tls"))
))]
#[path = "broker/no_tls.rs"]
mod tls;
mod to_job;
mod turn;

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::clock::{BootTime, FAR};
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{AttemptKind, Job, JobId, JobInfo, JobState, RetryPolicy, Unserved};
use crate::limits::Limits;
use crate::progress::Progress;
use crate::schedule::{Schedule, Scheduled};
use crate::why::Explanation;

pub(crate) use answer::Answer;
pub use api::{Broker, Clock, Queue};
pub(crate) use broker_call::{Answering, Caller, DirectCall};
pub use broker_call::{BrokerCall, CallCounts, CallProgress};
pub(crate) use called::RESULT_KEPT;
pub use cancel_outcome::{CancelOutcome, Stopped};
pub(crate) use cancels::Cancels;
#[cfg(feature = "redis")]
pub(crate) use convoy::Convoy;
pub use edit::Edit;
pub use lease::{Lease, TakenJob};
pub use manager::Manager;
pub(crate) use queues::{QueueSet, Queues};
pub use schedule_set::ScheduleChanges;
pub use to_job::ToJob;
pub(crate) use turn::Turn;

type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What a broker can do. The conformance suite covers all that a broker declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Jobs survive the end of every process.
    pub durable: bool,
    /// Jobs may be listed, counted, looked at, and changed by their ids.
    pub listing: bool,
    /// Delays and times.
    pub scheduling: bool,
    /// Schedules: cron and plain intervals.
    pub schedules: bool,
    /// Priorities.
    pub priorities: bool,
    /// Keys: strict order, one at a time.
    pub keys: bool,
    /// Unique keys.
    pub unique: bool,
    /// Limits and turns.
    pub limits: bool,
    /// Plain clients are given jobs by a [`Manager`].
    pub manager: bool,
    /// Flows: jobs that wait for others.
    pub flows: bool,
    /// Results may be waited for from anywhere.
    pub results: bool,
    /// Calls are answered by the broker itself, with what is known of their end, and with progress.
    /// Elsewhere a call is a job whose result is kept and waited for.
    pub answers: bool,
    /// A job that was passed goes to another worker at once, and comes back to the one that passed
    /// it only when no other takes it.
    pub passes: bool,
    /// Lowest and highest priority that a job may have; both 0 where there are no priorities.
    pub priority_range: (i32, i32),
    /// A batch is stored whole or not at all, whatever happens. Elsewhere, where an error is
    /// [uncertain](Error::is_uncertain), a part of it may be there.
    pub whole_batches: bool,
    /// A job that is given back keeps its place. Elsewhere it goes to the end.
    pub keeps_places: bool,
    /// Queues may be paused everywhere.
    pub pauses: bool,
    /// Jobs may be cancelled by their ids, wherever they are.
    pub cancels: bool,
    /// Its time may be moved by [`Clock`], for tests.
    pub clock: bool,
    /// Dead letters of a queue are jobs of a queue of their own, which is called like it with
    /// `.dead` behind.
    pub dead_queues: bool,
    /// Largest payload in bytes.
    pub payload_bytes_max: usize,
}

/// A broker's side of the contract above.
pub(crate) trait Backend: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// One answer per job, in order.
    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>>;

    /// Up to `ask.max` jobs; waits for the first as long as it says.
    fn lease(&self, ask: LeaseAsk) -> Reply<'_, Vec<Leased>>;

    /// One answer per settlement, in order; an error instead of them all if nothing of it was done.
    fn settle(&self, settlements: Vec<Settlement>) -> Reply<'_, Vec<Result<Settled, Error>>>;

    fn look(&self, query: Query) -> Reply<'_, View>;

    fn order(&self, order: Order) -> Reply<'_, Ordered>;

    /// Makes a call; only asked for where [`Capabilities::answers`] says so. It begins now, and
    /// dropping the future cancels it.
    fn call(self: Arc<Self>, _call: DirectCall) -> Answering {
        Box::pin(ready(Err(Error::new(
            ErrorKind::Unsupported,
            "make a call: this broker brings no answers",
        )
        .into())))
    }

    /// Tells the caller of a call how far it is. Never waits; what cannot be told at once is
    /// dropped.
    fn tell(&self, _id: &JobId, _token: i64, _progress: Progress) {}

    fn call_counts(&self) -> CallCounts {
        CallCounts::default()
    }

    /// Waits for the turn of a queue, which one process has at a time. `None` where that is a job
    /// with a unique key.
    fn turn(&self, _queue: &str) -> Option<Reply<'_, Turn>> {
        None
    }

    /// Waits until something may have changed since this was called, polled by then or not.
    /// Spurious returns are allowed, at a pace that costs nothing.
    fn changed(&self) -> Reply<'_, ()>;
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushOutcome {
    /// The job is safe.
    New(JobId),
    /// A job with its unique key is there already.
    Duplicate(JobId),
}

impl PushOutcome {
    /// The id of the job that is there now.
    pub fn id(&self) -> &JobId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LeaseAsk {
    /// Looked through in their order: a later one gives jobs only while those before it have none
    /// to hand out. The asker sees to it that queues which take turns come first in turn. There may
    /// be 10,000, so a store asks for what it knows to have jobs, and sorts that by
    /// [`Queues::rank`].
    pub(crate) queues: Queues,
    pub(crate) max: usize,
    pub(crate) terms: Terms,
    pub(crate) wait: Duration,
    /// Ends the wait early. A job that is on its way is still given.
    pub(crate) enough: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Terms {
    /// Handed out and gone.
    Take,
    /// Held for this long unless extended.
    Lease(Duration),
}

impl Terms {
    /// No lease runs longer than [`FAR`].
    fn bounded(self) -> Self {
        match self {
            Self::Take => Self::Take,
            Self::Lease(time) => Self::Lease(time.min(FAR)),
        }
    }
}

/// A job that was handed out.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) id: JobId,
    pub(crate) token: i64,
    /// From when on the lease runs: a moment before the broker was asked, so that it is never
    /// trusted for too long.
    pub(crate) since: BootTime,
    pub(crate) job: Job,
    /// From 1; passes and interruptions do not count.
    pub(crate) attempt: u32,
    pub(crate) crashed: u32,
    /// Leases of it that ended without a word of their holders: it died, or hung.
    pub(crate) lost: u32,
    /// Given back lately because no consumer that got it could run it.
    pub(crate) unserved: Option<Unserved>,
    /// Somebody waits for the answer, which this broker brings.
    pub(crate) is_call: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) id: JobId,
    pub(crate) token: i64,
    pub(crate) ending: Ending,
    /// What the caller of a call is told if this ends it without a value.
    #[cfg_attr(
        not(feature = "rabbitmq"),
        expect(dead_code, reason = "only RabbitMQ brings answers")
    )]
    pub(crate) answer: Option<Box<Answer>>,
}

/// What a holder says of its lease.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// Done, with the result as JSON text.
    Ack(Option<Box<str>>),
    /// The attempt did not end well. The job's own policy decides what becomes of it, unless
    /// `retry_in` does; `policy` for what the job does not say.
    Fail {
        kind: AttemptKind,
        reason: String,
        report: Option<Box<AttemptReport>>,
        retry_in: Option<Duration>,
        permanent: bool,
        policy: RetryPolicy,
    },
    /// Given back untouched, due again after this time.
    GiveBack {
        kind: AttemptKind,
        reason: String,
        after: Duration,
    },
    /// Set aside.
    DeadLetter(String),
    /// Cancelled, as was asked: how its attempt was stopped, as far as the holder knows.
    Cancelled {
        reason: String,
        stop: Option<StopReceipt>,
        report: Option<Box<AttemptReport>>,
    },
    /// Held for this long from now on.
    Extend(Duration),
}

impl Ending {
    /// No pause and no lease is longer than [`FAR`].
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Fail {
                kind,
                reason,
                report,
                retry_in,
                permanent,
                policy,
            } => Self::Fail {
                kind,
                reason,
                report,
                retry_in: retry_in.map(|pause| pause.min(FAR)),
                permanent,
                policy,
            },
            Self::GiveBack {
                kind,
                reason,
                after,
            } => Self::GiveBack {
                kind,
                reason,
                after: after.min(FAR),
            },
            Self::Extend(time) => Self::Extend(time.min(FAR)),
            other => other,
        }
    }
}

/// What a settlement came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It holds. For an extension: the reason, if somebody wants the job cancelled.
    Accepted(Option<String>),
    /// Somebody else has the job by now, or it has ended: nothing was changed.
    Stale,
}

#[derive(Clone, Debug)]
pub(crate) enum Query {
    Job(JobId),
    /// The same for whoever waits for its end: as it was left, so that many may look after each
    /// change.
    Waited(JobId),
    Jobs {
        queue: Option<Box<str>>,
        state: Option<JobState>,
        after: Option<JobId>,
        limit: usize,
    },
    Counts,
    Why(JobId),
    Check,
    Schedules,
    /// The leases of this holder whose jobs somebody wants cancelled.
    Cancels,
}

#[derive(Clone, Debug)]
pub(crate) enum View {
    Job(Option<Box<JobInfo>>),
    Jobs(Vec<JobInfo>),
    Counts(Vec<QueueCounts>),
    Why(Option<Box<Explanation>>),
    Check(Vec<Finding>),
    Schedules(Vec<Scheduled>),
    Cancels(Vec<AskedCancel>),
}

/// A lease whose job somebody wants cancelled.
#[derive(Clone, Debug)]
pub(crate) struct AskedCancel {
    pub(crate) id: JobId,
    pub(crate) token: i64,
    pub(crate) reason: String,
}

/// One queue at a glance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Its name.
    pub queue: String,
    /// Whether nothing is handed out.
    pub paused: bool,
    /// What it is limited to.
    pub limits: Option<Limits>,
    /// How many jobs are in each state that has any.
    pub jobs: Vec<(JobState, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Order {
    Cancel(JobId, String),
    /// Cancels a job of which no attempt has begun: it waits, and none failed or crashed. Any other
    /// stays as it is.
    Withdraw(JobId, String),
    /// Dead letters back to the queue.
    Retry(JobId, Edit),
    /// Removes a job that is not leased; if a state is given, only one in that state.
    Delete(JobId, Option<JobState>),
    Purge(Box<str>),
    Pause(Box<str>),
    Resume(Box<str>),
    /// Limits a queue, or takes its limits away.
    Limit(Box<str>, Option<Limits>),
    /// Gives jobs to plain clients, which have to collect them within this time.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only Redis has plain clients")
    )]
    Manage(Box<str>, Duration),
    /// One that has the same ticks as the one of its name keeps its next tick.
    Schedule(Box<Schedule>),
    Unschedule(Box<str>),
}

/// What an order came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// The dead letter is a job again, of this id.
    Retried(JobId),
    /// So many jobs were changed.
    Changed(u64),
    /// So many jobs were given to plain clients; in how long something else falls due.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only Redis has plain clients")
    )]
    Managed { handed: u64, next: Option<Duration> },
    /// The job is leased: its holder will hear of it.
    Asked,
    /// The schedule is there; its next tick.
    Scheduled(SystemTime),
    /// There is no such job, or it is not in a state for that.
    Nothing,
}

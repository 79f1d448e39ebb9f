//! [`LeaseRequest`]: a consumer's request for jobs, and [`Leased`], a job that a store handed out.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::queues::Queues;
use crate::clock::{BootTime, FAR};
use crate::job::{Job, JobId, Unserved};
use crate::policy::Charged;

/// A request for jobs.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The queues, in the order in which the store looks through them: a later one gives jobs only
    /// while those before it have none to hand out. The consumer orders the queues that take turns.
    /// There may be 10,000, so a store starts from the queues that it knows to have jobs, and sorts
    /// those by [`Queues::rank`].
    pub queues: Queues,
    /// The most jobs to hand out, at least 1.
    pub max: usize,
    /// Whether the jobs are leased or gone.
    pub mode: DeliveryMode,
    /// How long to wait for the first job; zero does not wait.
    pub wait: Duration,
    /// Ends the wait early. A job that is already on its way is still handed out.
    pub enough: CancellationToken,
}

/// How a job is handed out.
#[derive(Clone, Copy, Debug)]
pub enum DeliveryMode {
    /// Handed out and gone: at most once.
    Take,
    /// Held for this long unless the lease is extended: at least once.
    Lease(Duration),
}

impl DeliveryMode {
    /// The same with no lease longer than [`FAR`].
    #[doc(hidden)]
    pub fn bounded(self) -> Self {
        match self {
            Self::Take => Self::Take,
            Self::Lease(time) => Self::Lease(time.min(FAR)),
        }
    }
}

/// A job that was handed out.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Its id.
    pub id: JobId,
    /// Names this lease among all leases of the job.
    pub token: i64,
    /// When the lease began: a moment before the store asked its broker, so that the lease is never
    /// trusted for too long.
    pub since: BootTime,
    /// The job.
    pub job: Job,
    /// Number of this attempt, from 1; passes and interruptions do not count.
    pub attempt: u32,
    /// Attempts before this one that took their worker down.
    pub crashed: u32,
    /// Leases before this one that ended without a settlement, because the holder died or hung.
    pub lost: u32,
    /// Set if consumers that could not run the job have given it back lately.
    pub unserved: Option<Unserved>,
    /// A caller waits for the answer, which the store's [`CallTransport`](super::CallTransport)
    /// delivers.
    pub is_call: bool,
    /// When the time of its attempts began, by the store's clock: with the push, or when the job
    /// went on in a flow or was retried as a dead letter.
    pub began_at: SystemTime,
}

impl Leased {
    /// The first lease of a job that was pushed then. The store sets its `token` and its `since`
    /// when it hands the job out.
    pub fn first(id: JobId, job: Job, began_at: SystemTime) -> Self {
        Self {
            id,
            token: 0,
            since: BootTime::default(),
            job,
            attempt: 1,
            crashed: 0,
            lost: 0,
            unserved: None,
            is_call: false,
            began_at,
        }
    }

    /// What the attempts before this one were charged.
    pub fn charged(&self) -> Charged {
        Charged {
            failed: self.attempt.saturating_sub(1).saturating_sub(self.crashed),
            crashed: self.crashed,
        }
    }
}

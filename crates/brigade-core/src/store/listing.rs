//! What a store shows of its jobs, queues and consumers.

use std::time::{Duration, SystemTime};

use crate::job::{JobId, JobState};
use crate::limits::Limits;

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only of this queue.
    pub queue: Option<Box<str>>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only those pushed after this one.
    pub after: Option<JobId>,
    /// The most jobs to list.
    pub limit: usize,
}

/// One queue at a glance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct QueueCounts {
    /// Its name.
    pub queue: String,
    /// Whether it is paused: it hands out nothing.
    pub paused: bool,
    /// Its limits.
    pub limits: Option<Limits>,
    /// How many jobs are in each state that has any.
    pub jobs: Vec<(JobState, u64)>,
}

impl QueueCounts {
    /// A queue without jobs, limits or a pause.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            paused: false,
            limits: None,
            jobs: Vec::new(),
        }
    }
}

/// A consumer that is alive: its process takes jobs from this broker.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LiveConsumer {
    /// Names the consumer at its broker.
    pub id: String,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// The host it runs on.
    pub host: String,
    /// Its process on that host.
    pub pid: u32,
    /// When it was first seen.
    pub since: SystemTime,
}

/// A lease whose job is to be cancelled.
#[derive(Clone, Debug)]
pub struct CancelRequest {
    /// The job.
    pub id: JobId,
    /// The token of the lease.
    pub token: i64,
    /// Why, for people.
    pub reason: String,
}

/// The result of handing jobs to plain clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Managed {
    /// How many jobs were handed out.
    pub handed: u64,
    /// When another one falls due, if that is known.
    pub next: Option<Duration>,
}

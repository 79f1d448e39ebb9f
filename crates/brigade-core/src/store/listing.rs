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
///
/// A consumer announces itself when it starts and renews that for as long as it runs. A clean stop
/// takes it off the list at once. One that was killed, or is cut off from its broker, is listed
/// until its last announcement runs out, at most a minute later; on SQLite no longer than its
/// process runs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct LiveConsumer {
    /// Names the consumer among all consumers of its broker.
    pub id: String,
    /// The queues that it serves, the first [`QUEUES_NAMED_MAX`](Self::QUEUES_NAMED_MAX) of them.
    pub queues: Vec<String>,
    /// How many queues it serves.
    pub queues_served: usize,
    /// The host it runs on.
    pub host: String,
    /// Its process on that host.
    pub pid: u32,
    /// The version of its program, if that says one (`Consumer::version`).
    pub version: Option<String>,
    /// When it started, by the clock of its host.
    pub since: SystemTime,
}

impl LiveConsumer {
    /// The most queues that are named; a consumer may serve more.
    pub const QUEUES_NAMED_MAX: usize = 100;

    /// A consumer of these queues that starts now, in this process.
    pub fn new(id: impl Into<String>, host: impl Into<String>, queues: &[Box<str>]) -> Self {
        let named = queues.iter().take(Self::QUEUES_NAMED_MAX);
        Self {
            id: id.into(),
            queues: named.map(ToString::to_string).collect(),
            queues_served: queues.len(),
            host: host.into(),
            pid: std::process::id(),
            version: None,
            since: SystemTime::now(),
        }
    }
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

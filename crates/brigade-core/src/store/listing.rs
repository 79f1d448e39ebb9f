//! What a store shows of its jobs and queues.
//!
//! [`JobFilter`] says which jobs to list, [`JobPage`] is a part of that list. [`DeadGroup`] and
//! [`QueueCounts`] are sums over many jobs, for people who look at a broker with a million of them.
//! Values only: each store finds out in its own way what they say, and the functions here are what
//! all stores do alike.

use std::time::{Duration, SystemTime};

use crate::job::{JobId, JobInfo, JobState};
use crate::limits::Limits;
use crate::policy::reason_pattern;

/// Which jobs to list. All conditions hold together; `JobFilter::default()` with a `limit` lists
/// every job.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only of this queue.
    pub queue: Option<Box<str>>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only those of this task.
    pub task: Option<Box<str>>,
    /// Only those without a task.
    pub no_task: bool,
    /// Only those with this label.
    pub label: Option<Box<str>>,
    /// Only those with this key.
    pub key: Option<Box<str>>,
    /// Only those whose payload, as JSON text, contains this text.
    pub text: Option<Box<str>>,
    /// Only those with a reason of this [pattern](crate::policy::reason_pattern); an empty one is
    /// that of jobs without a reason.
    pub reason: Option<Box<str>>,
    /// Only those pushed at this moment or later.
    pub pushed_from: Option<SystemTime>,
    /// Only those pushed before this moment.
    pub pushed_until: Option<SystemTime>,
    /// The newest first; otherwise in the order of the pushes.
    pub newest_first: bool,
    /// Only those that come after this one in that order.
    pub after: Option<JobId>,
    /// The most jobs to list; a page of large jobs has fewer
    /// ([`PAGE_BYTES_MAX`](Self::PAGE_BYTES_MAX)).
    pub limit: usize,
}

impl JobFilter {
    /// Most jobs that a store reads for one page of a filter that reads each job
    /// ([`reads_jobs`](Self::reads_jobs)).
    pub const READ_MAX: usize = 10_000;
    /// A page ends with the job with which the [sizes](JobInfo::bytes) of its jobs come to more
    /// than this, so that it stays small in memory, however large payloads are: 4 MiB.
    pub const PAGE_BYTES_MAX: usize = 4 << 20;

    /// Whether there are conditions beyond queue and state: the store then reads each job to
    /// decide, and may end a page early.
    pub fn reads_jobs(&self) -> bool {
        self.task.is_some()
            || self.no_task
            || self.label.is_some()
            || self.key.is_some()
            || self.text.is_some()
            || self.reason.is_some()
            || self.pushed_from.is_some()
            || self.pushed_until.is_some()
    }

    /// Whether a job meets all conditions but the position (`after`).
    pub fn matches(&self, job: &JobInfo) -> bool {
        let is = |wanted: &Option<Box<str>>, value: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == value
        };
        let pattern = || reason_pattern(job.reason.as_deref().unwrap_or_default());
        is(&self.queue, Some(&job.queue))
            && self.state.is_none_or(|state| state == job.state)
            && is(&self.task, job.task.as_deref())
            && !(self.no_task && job.task.is_some())
            && is(&self.label, job.label.as_deref())
            && is(&self.key, job.key.as_deref())
            && self
                .text
                .as_deref()
                .is_none_or(|text| job.payload.contains(text))
            && self
                .reason
                .as_deref()
                .is_none_or(|reason| *reason == pattern())
            && self.pushed_from.is_none_or(|from| job.pushed_at >= from)
            && self.pushed_until.is_none_or(|until| job.pushed_at < until)
    }
}

/// Some of the jobs that a filter lists.
#[derive(Clone, Debug, Default)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobInfo>,
    /// If there may be more: the id to go on [after](JobFilter::after). It need not be that of a
    /// listed job.
    pub next: Option<JobId>,
}

/// Dead letters that belong together: of one queue and task, with reasons of one
/// [pattern](crate::policy::reason_pattern).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeadGroup {
    /// Their queue.
    pub queue: String,
    /// Their task.
    pub task: Option<String>,
    /// The pattern of their reasons.
    pub reason: String,
    /// How many they are.
    pub count: u64,
    /// When the first of them was pushed.
    pub first: SystemTime,
    /// When the last of them was pushed.
    pub last: SystemTime,
    /// One of them.
    pub example: JobId,
}

impl DeadGroup {
    /// The most groups that are given, the largest of them. The others of a queue and task are put
    /// together into one more group, with the reason [`OTHER_REASONS`](Self::OTHER_REASONS).
    pub const GROUPS_MAX: usize = 1_000;
    /// The reason of a group of smaller groups.
    pub const OTHER_REASONS: &str = "(other reasons)";

    /// Adds the dead letters of another group.
    pub fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    /// The largest of these groups, the largest first, and the others put together by queue and
    /// task.
    #[must_use]
    pub fn bounded(mut groups: Vec<Self>) -> Vec<Self> {
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        let others = groups.split_off(groups.len().min(Self::GROUPS_MAX));
        let mut sums = std::collections::HashMap::<_, Self>::new();
        for other in others {
            let key = (other.queue.clone(), other.task.clone());
            match sums.get_mut(&key) {
                Some(sum) => sum.add(&other),
                None => {
                    let reason = Self::OTHER_REASONS.to_owned();
                    sums.insert(key, Self { reason, ..other });
                }
            }
        }
        groups.extend(sums.into_values());
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups
    }
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
    /// Since when the job waits that is to be handed out next, by the clock of the store: since its
    /// push, or since it fell due, was given back, or was let go on by what it waited for. `None`
    /// if none is ready.
    pub waits_since: Option<SystemTime>,
}

impl QueueCounts {
    /// A queue without jobs, limits or a pause.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            paused: false,
            limits: None,
            jobs: Vec::new(),
            waits_since: None,
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

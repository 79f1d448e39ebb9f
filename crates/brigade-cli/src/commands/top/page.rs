//! What the screen shows: its pages and tabs.

use brigade::JobId;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Queues,
    Running,
    Consumers,
    Dead,
    Schedules,
    /// Jobs of a queue, or the dead letters of a group.
    Jobs(JobsOf),
    Job(JobId),
    /// The workers of a pool.
    Workers,
    /// The running calls of a pool.
    Calls,
}

/// Which jobs a page lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobsOf {
    Queue(String),
    Dead(DeadOf),
}

/// Dead letters of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadOf {
    pub(super) queue: String,
    pub(super) task: Option<String>,
    pub(super) reason: String,
    pub(super) count: u64,
}

/// A tab of a broker; the digit of a key is its place plus one.
pub(super) const BROKER_TABS: [&str; 6] =
    ["queues", "running", "consumers", "dead", "schedules", "job"];
/// Those of a pool.
pub(super) const POOL_TABS: [&str; 2] = ["workers", "calls"];

impl Page {
    /// The place of its tab.
    pub(super) fn tab(&self) -> usize {
        match self {
            Self::Queues | Self::Workers | Self::Jobs(JobsOf::Queue(_)) => 0,
            Self::Running | Self::Calls => 1,
            Self::Consumers => 2,
            Self::Dead | Self::Jobs(JobsOf::Dead(_)) => 3,
            Self::Schedules => 4,
            Self::Job(_) => 5,
        }
    }
}

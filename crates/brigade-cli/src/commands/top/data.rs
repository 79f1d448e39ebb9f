//! What one reading of a source gave: plain data, made by the reader and shown by the screen.

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use brigade::{
    DeadGroup, Explanation, JobInfo, JobState, LiveConsumer, MonitorLine, QueueCounts, RunningJob,
    Scheduled,
};

use super::counts::{WAITING, count};
use super::page::Page;
use super::rates::QueueRates;

/// The newest reading. `data` is the last that could be read of `page`, `failure` what has kept
/// the reader from a newer one.
#[derive(Clone, Default)]
pub(super) struct Reading {
    pub(super) page: Option<Page>,
    /// When `data` was read.
    pub(super) at: Option<Instant>,
    pub(super) data: Data,
    pub(super) totals: Option<Totals>,
    pub(super) failure: Option<String>,
}

/// Data of a page.
#[derive(Clone, Default)]
pub(super) enum Data {
    #[default]
    Unread,
    /// The broker cannot give it: its capability of this name is false.
    Lacks(&'static str),
    Queues(Vec<QueueCounts>, HashMap<String, QueueRates>),
    Running(Vec<Run>),
    Consumers(Vec<LiveConsumer>),
    Dead(Vec<DeadGroup>),
    Schedules(Vec<Scheduled>),
    /// Jobs, and whether there are more.
    Jobs(Vec<JobInfo>, bool),
    /// A job and why it does not run; `None` if there is none of that id.
    Job(Option<Box<(JobInfo, Option<Explanation>)>>),
    Pool(MonitorLine),
}

/// A job that runs.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) job: RunningJob,
    pub(super) holder: String,
    pub(super) cancel: Option<String>,
    /// When it was handed out; unknown where only a list of jobs without that is there.
    pub(super) since: Option<SystemTime>,
}

impl Run {
    /// A job as the consumer that runs it reports it, with the name of that consumer's process.
    pub(super) fn of_consumer((job, holder): (RunningJob, String)) -> Self {
        Self {
            since: Some(job.since),
            job,
            holder,
            cancel: None,
        }
    }
}

/// Sums over all queues.
#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) queues: usize,
    pub(super) waiting: u64,
    pub(super) running: u64,
    pub(super) dead: u64,
}

impl Totals {
    pub(super) fn of(queues: &[QueueCounts]) -> Self {
        let sum = |states: &[JobState]| {
            let counts = queues.iter().map(|queue| count(queue, states));
            counts.fold(0, u64::saturating_add)
        };
        Self {
            queues: queues.len(),
            waiting: sum(&WAITING),
            running: sum(&[JobState::Leased]),
            dead: sum(&[JobState::Dead]),
        }
    }
}

//! [`QueueRow`]: one queue in a list, as text, and [`Bar`]: its depth by states.
//!
//! Both are made of the shared snapshot and ask the broker nothing. A row without its small line of
//! the last hour is cheap: it is made for every queue to sort them, and `with_spark` adds the line
//! to the rows that are shown.

use std::cmp::Ordering;
use std::time::Duration;

use brigade::{JobState, QueueCounts};

use super::chart::spark;
use super::sentence::{jobs_in, oldest_wait};
use super::viewer::encoded;
use super::watch::Snapshot;
use super::words::{self, number, span};

/// A queue with the numbers of its row.
pub(super) struct QueueRow {
    pub(super) name: String,
    /// Its page, on the dashboard.
    pub(super) path: String,
    pub(super) paused: bool,
    pub(super) ready: u64,
    pub(super) running: u64,
    pub(super) limit: Option<u32>,
    pub(super) later: u64,
    pub(super) retrying: u64,
    pub(super) blocked: u64,
    pub(super) dead: u64,
    pub(super) wait: Option<Duration>,
    /// Jobs done per minute; `None` if the broker does not count.
    pub(super) rate: Option<f64>,
    pub(super) spark: String,
}

impl QueueRow {
    pub(super) fn new(queue: &QueueCounts, snapshot: &Snapshot) -> Self {
        let now = snapshot.taken;
        let series = snapshot.series.as_ref();
        Self {
            name: queue.queue.clone(),
            path: format!("/queues/{}", encoded(&queue.queue)),
            paused: queue.paused,
            ready: jobs_in(queue, JobState::Ready),
            running: jobs_in(queue, JobState::Leased),
            limit: queue.limits.and_then(|limits| limits.running),
            later: jobs_in(queue, JobState::Scheduled),
            retrying: jobs_in(queue, JobState::Retrying),
            blocked: jobs_in(queue, JobState::Blocked),
            dead: jobs_in(queue, JobState::Dead),
            wait: oldest_wait(queue, now),
            rate: series.map(|series| series.rate_of(&queue.queue, now)),
            spark: String::new(),
        }
    }

    /// With its hour as a small line, for the rows that are shown.
    pub(super) fn with_spark(mut self, snapshot: &Snapshot) -> Self {
        if let Some(series) = &snapshot.series {
            self.spark = spark(&series.done_of(&self.name, snapshot.taken));
        }
        self
    }

    /// By the age of the oldest ready job, then by how many wait.
    pub(super) fn worst_first(&self, other: &Self) -> Ordering {
        other
            .wait
            .cmp(&self.wait)
            .then(other.ready.cmp(&self.ready))
            .then(other.dead.cmp(&self.dead))
            .then(self.name.cmp(&other.name))
    }

    pub(super) fn wait_text(&self) -> String {
        self.wait.map_or_else(|| "–".to_owned(), span)
    }

    pub(super) fn rate_text(&self) -> String {
        self.rate.map_or_else(|| "–".to_owned(), words::rate)
    }

    pub(super) fn running_text(&self) -> String {
        match self.limit {
            Some(limit) => format!("{} of {}", number(self.running), number(limit.into())),
            None => number(self.running),
        }
    }

    /// Whether jobs of it were done in the last minutes.
    pub(super) fn works(&self) -> bool {
        self.rate.is_some_and(|rate| rate > 0.0)
    }

    /// Whether all that may run does.
    pub(super) fn is_full(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.running >= u64::from(limit))
            && self.ready > 0
    }
}

/// The depth of a queue, by states.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) total: String,
    /// Class, start and width of each part, in hundredths of the longest bar.
    pub(super) parts: Vec<(&'static str, String, String)>,
}

/// Queues that have a bar.
const BARS: usize = 8;

/// The deepest queues.
pub(super) fn bars(queues: &[QueueCounts]) -> Vec<Bar> {
    const STATES: [(JobState, &str); 4] = [
        (JobState::Leased, "running"),
        (JobState::Ready, "ready"),
        (JobState::Retrying, "retrying"),
        (JobState::Scheduled, "scheduled"),
    ];
    let depth = |queue: &QueueCounts| -> u64 {
        STATES.iter().map(|(state, _)| jobs_in(queue, *state)).sum()
    };
    let mut deepest: Vec<(u64, &QueueCounts)> = queues
        .iter()
        .map(|queue| (depth(queue), queue))
        .filter(|(depth, _)| *depth > 0)
        .collect();
    deepest.sort_by(|(a, first), (b, second)| b.cmp(a).then(first.queue.cmp(&second.queue)));
    deepest.truncate(BARS);
    let longest = deepest.first().map_or(1, |(depth, _)| *depth).max(1);
    let bar = |(depth, queue): (u64, &QueueCounts)| {
        let mut start = 0;
        let parts = STATES.iter().filter_map(|(state, class)| {
            let jobs = jobs_in(queue, *state);
            let from = thousandths(start, longest);
            start += jobs;
            (jobs > 0).then(|| (*class, from, thousandths(jobs, longest)))
        });
        Bar {
            name: queue.queue.clone(),
            path: format!("/queues/{}", encoded(&queue.queue)),
            total: number(depth),
            parts: parts.collect(),
        }
    };
    deepest.into_iter().map(bar).collect()
}

/// A share in hundredths, with one digit after the point.
fn thousandths(part: u64, whole: u64) -> String {
    let share = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{}", share / 10, share % 10)
}

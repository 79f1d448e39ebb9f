//! Statistics: what a queue and its tasks did, minute by minute, for a day.
//!
//! A store counts in the same atomic step as the change that it counts, so the sums agree with the
//! jobs, whatever is killed. Minutes are those of the store's clock. They are kept for
//! [`STATISTICS_KEPT`]; of a queue, the first [`TASKS_COUNTED_MAX`] tasks of an hour are counted by
//! name and the others together, and a store may keep less than a day when there are very many
//! queues, so that the room for statistics is bounded.
//!
//! A job counts as dead or cancelled however it got there, so a failed attempt that was the last
//! counts twice. One that is taken counts as done; no run is known of it. A push that found a
//! duplicate, a retry by a person and a removal count as nothing.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How long minutes are kept.
pub const STATISTICS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Tasks of a queue that are counted by name.
pub const TASKS_COUNTED_MAX: usize = 100;
/// The name under which the tasks beyond [`TASKS_COUNTED_MAX`] are counted together.
pub const OTHER_TASKS: &str = "(others)";
/// Bounds of a histogram of durations.
const BOUNDS_COUNT: usize = 18;

/// What happened to the jobs of one queue and task in one minute, or in several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinuteCounts {
    /// The queue.
    pub queue: String,
    /// The task; `None` for jobs without one.
    pub task: Option<String>,
    /// When the minute begins.
    pub minute: SystemTime,
    /// What happened in it.
    pub counts: TaskCounts,
}

/// What happened to jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskCounts {
    /// Jobs that were pushed.
    pub pushed: u64,
    /// Jobs that ended well.
    pub done: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that took their worker down.
    pub crashed: u64,
    /// Attempts that were cut short, without charge.
    pub interrupted: u64,
    /// Jobs that became dead letters.
    pub dead: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// How long jobs waited until they were handed out, each time: since the push, or since they
    /// fell due, were given back, or were let go on by what they waited for (their key, their
    /// flow).
    pub wait: Durations,
    /// How long attempts ran that ended well, failed or crashed; for those that left no report,
    /// from their lease to their settlement.
    pub run: Durations,
}

impl TaskCounts {
    /// Adds what happened besides.
    pub fn add(&mut self, other: &Self) {
        self.pushed = self.pushed.saturating_add(other.pushed);
        self.done = self.done.saturating_add(other.done);
        self.failed = self.failed.saturating_add(other.failed);
        self.crashed = self.crashed.saturating_add(other.crashed);
        self.interrupted = self.interrupted.saturating_add(other.interrupted);
        self.dead = self.dead.saturating_add(other.dead);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        self.wait.add(&other.wait);
        self.run.add(&other.run);
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How long things took: a histogram of fixed bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// How many took at most the bound of the same place in [`BOUNDS`](Self::BOUNDS), and longer
    /// than the bound before it; the last is for all that took longer.
    pub counts: [u64; BOUNDS_COUNT + 1],
    /// All of them together, in milliseconds.
    pub sum_ms: u64,
}

impl Durations {
    /// The upper bounds in milliseconds.
    pub const BOUNDS: [u64; BOUNDS_COUNT] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
        1_800_000, 7_200_000,
    ];

    /// The place in [`counts`](Self::counts) of a duration.
    pub fn place_of(took: Duration) -> usize {
        let took = took.as_micros();
        Self::BOUNDS.partition_point(|bound| u128::from(*bound) * 1000 < took)
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        self.counts[Self::place_of(took)] += 1;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        let add = |sum: u64, count: &u64| sum.saturating_add(*count);
        self.counts.iter().fold(0, add)
    }

    /// About the time that this share of them (0 to 1) did not exceed, as if those between two
    /// bounds were spread evenly; `None` if there are none. Above the last bound it is the last
    /// bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all = self.count();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count within a day, and a share of it"
        )]
        let wanted = ((all as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut before = 0_u64;
        let place = self.counts.iter().position(|count| {
            let is_here = before.saturating_add(*count) >= wanted;
            before = if is_here { before } else { before + count };
            is_here
        })?;
        let last = Self::BOUNDS.last().copied();
        let upper = Self::BOUNDS.get(place).copied().or(last)?;
        let lower = place.checked_sub(1).map_or(0, |place| Self::BOUNDS[place]);
        // In the middle of the part of the wanted one.
        #[expect(clippy::cast_precision_loss, reason = "counts within a day")]
        let part = ((wanted - before) as f64 - 0.5) / self.counts[place] as f64;
        let width = Duration::from_millis(upper - lower);
        Some(Duration::from_millis(lower) + width.mul_f64(part))
    }
}

/// Which statistics to give.
#[derive(Clone, Debug, Default)]
pub struct StatisticsFilter {
    /// Only of this queue.
    pub queue: Option<Box<str>>,
    /// Only minutes that begin at this moment or later; default: all that are kept.
    pub since: Option<SystemTime>,
    /// Put the minutes of each queue and task together into one entry, whose `minute` is the first
    /// of them.
    pub summed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_at_the_first_bound_that_it_does_not_exceed() {
        let mut durations = Durations::default();
        for ms in [0, 1, 2, 3, 1_000, 1_001, 10_000_000] {
            durations.record(Duration::from_millis(ms));
        }
        let places: Vec<usize> = (0..durations.counts.len())
            .filter(|place| durations.counts[*place] > 0)
            .collect();
        assert_eq!(places, [0, 1, 2, 9, 10, 18]);
        assert_eq!(durations.counts[0], 2);
        assert_eq!(durations.count(), 7);
        assert_eq!(durations.sum_ms, 10_002_007);
    }

    #[test]
    fn a_quantile_lies_between_two_bounds_and_there_is_none_of_nothing() {
        let mut durations = Durations::default();
        assert_eq!(durations.quantile(0.5), None);
        for _ in 0..90 {
            durations.record(Duration::from_millis(4));
        }
        for _ in 0..10 {
            durations.record(Duration::from_secs(8));
        }
        let at = |share| durations.quantile(share).unwrap().as_micros();
        // Between 2 and 5 ms, and between 5 and 10 s.
        assert_eq!((at(0.0), at(0.5), at(0.9)), (2_016, 3_650, 4_983));
        assert_eq!((at(0.95), at(1.0)), (7_250_000, 9_750_000));
    }

    #[test]
    fn a_quantile_of_one_is_in_the_middle_and_the_last_bound_is_the_longest() {
        let mut one = Durations::default();
        one.record(Duration::from_secs(100));
        // Between 1 and 5 min.
        assert_eq!(one.quantile(0.95), Some(Duration::from_secs(180)));
        let mut long = Durations::default();
        long.record(Duration::from_secs(100_000));
        assert_eq!(long.quantile(0.5), Some(Duration::from_secs(7_200)));
    }
}

//! [`Series`]: what happened in the last hour, minute by minute, of all queues together and of each.
//!
//! The statistics of the broker are read in parts: each look reads the minutes since the last one,
//! so a broker with 1,000 queues is asked for an hour once and then for two minutes. [`Series`] is
//! a value; the code that refreshes it owns it.
//!
//! A minute without an entry is one in which nothing happened, if the broker counted anything
//! before it; otherwise there is no data for it, and charts have a gap.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brigade::{MinuteCounts, TaskCounts};

/// Minutes that a series keeps.
pub(super) const MINUTES: u64 = 60;

/// What happened in the last hour.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    total: BTreeMap<u64, TaskCounts>,
    queues: HashMap<String, BTreeMap<u64, Small>>,
    /// Names of tasks, with the last minute in which one of each ended.
    tasks: BTreeMap<String, u64>,
    /// The last minute that was read.
    read_until: Option<u64>,
}

/// A minute of one queue, without its histograms.
#[derive(Clone, Copy, Debug, Default)]
struct Small {
    done: u64,
    dead: u64,
}

/// The minute of a moment, counted from 1970.
pub(super) fn minute_of(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        / 60
}

/// When a minute begins.
pub(super) fn start_of(minute: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(minute * 60)
}

impl Series {
    /// The first minute to ask for next.
    pub(super) fn wanted_from(&self, now: SystemTime) -> u64 {
        let oldest = minute_of(now).saturating_sub(MINUTES - 1);
        self.read_until
            .map_or(oldest, |minute| minute.saturating_sub(1).max(oldest))
    }

    /// Puts the minutes from this one on in the place of what was known of them.
    pub(super) fn replace(&mut self, from: u64, minutes: Vec<MinuteCounts>, now: SystemTime) {
        let oldest = minute_of(now).saturating_sub(MINUTES - 1);
        let keeps = |minute: u64| (oldest..from).contains(&minute);
        self.total.retain(|minute, _| keeps(*minute));
        for queue in self.queues.values_mut() {
            queue.retain(|minute, _| keeps(*minute));
        }
        self.queues.retain(|_, minutes| !minutes.is_empty());
        self.tasks.retain(|_, minute| *minute >= oldest);
        for entry in minutes {
            let minute = minute_of(entry.minute);
            if minute < from.max(oldest) {
                continue;
            }
            if let Some(task) = entry.task {
                let last = self.tasks.entry(task).or_default();
                *last = minute.max(*last);
            }
            self.total.entry(minute).or_default().add(&entry.counts);
            let queue = self.queues.entry(entry.queue).or_default();
            let small = queue.entry(minute).or_default();
            small.done += entry.counts.done;
            small.dead += entry.counts.dead;
        }
        self.read_until = Some(minute_of(now));
    }

    /// The last hour, the oldest minute first.
    pub(super) fn hour(&self, now: SystemTime) -> Vec<Option<TaskCounts>> {
        buckets(&self.total, now, MINUTES, 1)
    }

    /// Jobs done of a queue per minute of the last hour, the oldest first.
    pub(super) fn done_of(&self, queue: &str, now: SystemTime) -> Vec<Option<f64>> {
        let last = minute_of(now);
        let first_known = self.total.keys().next().copied();
        let minutes = self.queues.get(queue);
        (0..MINUTES)
            .map(|place| (last + 1 + place).saturating_sub(MINUTES))
            .map(|minute| {
                let done = minutes.and_then(|minutes| minutes.get(&minute));
                let is_known = first_known.is_some_and(|first| first <= minute);
                is_known.then(|| done.map_or(0.0, |small| as_f64(small.done)))
            })
            .collect()
    }

    /// Jobs done of a queue per minute, over the last five minutes.
    pub(super) fn rate_of(&self, queue: &str, now: SystemTime) -> f64 {
        let minutes = self.queues.get(queue);
        let done = minutes.map(|minutes| {
            let recent = minutes.range(minute_of(now).saturating_sub(RATE_MINUTES)..);
            recent.map(|(_, small)| small.done).sum::<u64>()
        });
        as_f64(done.unwrap_or(0)) / rate_span(now)
    }

    /// Dead letters of a queue in the last ten minutes.
    pub(super) fn recent_dead_of(&self, queue: &str, now: SystemTime) -> u64 {
        let minutes = self.queues.get(queue);
        minutes.map_or(0, |minutes| {
            let recent = minutes.range(minute_of(now).saturating_sub(10)..);
            recent.map(|(_, small)| small.dead).sum()
        })
    }

    /// What happened in the last minutes, together.
    pub(super) fn recent(&self, minutes: u64, now: SystemTime) -> TaskCounts {
        let mut sum = TaskCounts::default();
        for (_, counts) in self.total.range(minute_of(now).saturating_sub(minutes)..) {
            sum.add(counts);
        }
        sum
    }

    /// The tasks that something was counted of, by name.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        self.total.is_empty()
    }
}

/// Full minutes that a rate is the mean of.
const RATE_MINUTES: u64 = 5;

/// The minutes that the rate of now is the mean of: some full ones, and a part of the current one.
fn rate_span(now: SystemTime) -> f64 {
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 60;
    as_f64(RATE_MINUTES) + as_f64(second) / 60.0
}

/// Jobs per minute, from what happened in the last minutes of a rate.
pub(super) fn rate(series: &Series, now: SystemTime, of: impl Fn(&TaskCounts) -> u64) -> f64 {
    as_f64(of(&series.recent(RATE_MINUTES, now))) / rate_span(now)
}

/// So many minutes until now, put together in buckets of so many minutes; the oldest first. `None`
/// for a bucket before the first one that is known.
pub(super) fn buckets(
    minutes: &BTreeMap<u64, TaskCounts>,
    now: SystemTime,
    count: u64,
    width: u64,
) -> Vec<Option<TaskCounts>> {
    let end = minute_of(now) + 1;
    let first_known = minutes.keys().next().copied();
    (0..count)
        .map(|place| {
            let from = end.saturating_sub((count - place) * width);
            let is_known = first_known.is_some_and(|first| first < from + width);
            is_known.then(|| {
                let mut sum = TaskCounts::default();
                for (_, counts) in minutes.range(from..from + width) {
                    sum.add(counts);
                }
                sum
            })
        })
        .collect()
}

/// Minutes of one queue or of all, by minute.
pub(super) fn by_minute(entries: Vec<MinuteCounts>) -> BTreeMap<u64, TaskCounts> {
    let mut minutes: BTreeMap<u64, TaskCounts> = BTreeMap::new();
    for entry in entries {
        let minute = minute_of(entry.minute);
        minutes.entry(minute).or_default().add(&entry.counts);
    }
    minutes
}

#[expect(clippy::cast_precision_loss, reason = "counts that are drawn")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(queue: &str, minute: u64, done: u64) -> MinuteCounts {
        MinuteCounts {
            queue: queue.to_owned(),
            task: None,
            minute: start_of(minute),
            counts: TaskCounts {
                done,
                ..TaskCounts::default()
            },
        }
    }

    #[test]
    fn minutes_are_replaced_and_old_ones_go() {
        let mut series = Series::default();
        let now = start_of(1_000);
        assert_eq!(series.wanted_from(now), 941);
        series.replace(941, vec![entry("a", 990, 5), entry("b", 1_000, 1)], now);
        let later = start_of(1_001);
        assert_eq!(series.wanted_from(later), 999);
        series.replace(999, vec![entry("b", 1_000, 3)], later);
        let hour = series.hour(later);
        assert_eq!(hour.len(), 60);
        let done: Vec<u64> = hour.iter().flatten().map(|counts| counts.done).collect();
        assert_eq!(done, [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
        assert!(hour[..48].iter().all(Option::is_none));
        assert_eq!(series.recent(1, later).done, 3);
        series.replace(1_060, Vec::new(), start_of(1_061));
        assert!(series.is_empty());
    }

    #[test]
    fn buckets_without_data_are_gaps() {
        let minutes = by_minute(vec![
            entry("a", 95, 2),
            entry("a", 96, 1),
            entry("b", 96, 1),
        ]);
        let buckets = buckets(&minutes, start_of(99), 4, 5);
        let done: Vec<Option<u64>> = buckets
            .iter()
            .map(|bucket| bucket.as_ref().map(|counts| counts.done))
            .collect();
        assert_eq!(done, [None, None, None, Some(4)]);
    }
}

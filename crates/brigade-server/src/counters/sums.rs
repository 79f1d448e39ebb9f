//! [`CounterSums`]: counters that never fall, of minutes that the broker keeps for a day.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use brigade::MinuteCounts;
use brigade::statistics::TaskCounts;

/// A minute is over for good when a later one than this after it has been seen: stores count in the
/// minute of a change, and changes of one minute may be stored a moment later.
const SETTLES_AFTER: Duration = Duration::from_secs(120);

/// What queues did since this server started.
#[derive(Debug)]
pub(crate) struct CounterSums(Mutex<SumsSoFar>);

#[derive(Debug)]
struct SumsSoFar {
    /// Of the minutes that are over for good.
    counted: BTreeMap<String, TaskCounts>,
    /// The first minute that is not.
    from: SystemTime,
}

impl CounterSums {
    /// CounterSums that begin with the minutes that the broker has now.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(SumsSoFar {
            counted: BTreeMap::new(),
            from: SystemTime::UNIX_EPOCH,
        }))
    }

    /// The first minute to ask the broker for.
    pub(crate) fn since(&self) -> SystemTime {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).from
    }

    /// Adds minutes and gives the sums of each queue. Beyond `queues_max`, queues are counted
    /// together as `others`.
    pub(crate) fn add(
        &self,
        minutes: Vec<MinuteCounts>,
        queues_max: usize,
        others: &str,
    ) -> BTreeMap<String, TaskCounts> {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = sums.from;
        let newest = minutes.iter().map(|of| of.minute).max().unwrap_or(from);
        let open = newest.checked_sub(SETTLES_AFTER).unwrap_or(from).max(from);
        let mut on_top = Vec::new();
        // Another scrape may have counted the first of them since they were asked for.
        for of in minutes.into_iter().filter(|of| of.minute >= from) {
            match of.minute < open {
                true => add_to(&mut sums.counted, of, queues_max, others),
                false => on_top.push(of),
            }
        }
        sums.from = open;
        let mut all = sums.counted.clone();
        on_top
            .into_iter()
            .for_each(|of| add_to(&mut all, of, queues_max, others));
        all
    }
}

fn add_to(
    sums: &mut BTreeMap<String, TaskCounts>,
    of: MinuteCounts,
    queues_max: usize,
    others: &str,
) {
    let queue = match sums.contains_key(&of.queue) || sums.len() < queues_max {
        true => of.queue,
        false => others.to_owned(),
    };
    sums.entry(queue).or_default().add(&of.counts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(queue: &str, minute: u64, done: u64) -> MinuteCounts {
        MinuteCounts {
            queue: queue.to_owned(),
            task: None,
            minute: SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute),
            counts: TaskCounts {
                done,
                ..TaskCounts::default()
            },
        }
    }

    #[test]
    fn a_minute_that_grows_or_is_forgotten_is_counted_once() {
        let sums = CounterSums::new();
        let done = |minutes| sums.add(minutes, 10, "others")["q"].done;
        assert_eq!(done(vec![minute("q", 1, 5), minute("q", 10, 1)]), 6);
        // The newest minute has grown, the oldest is not asked for any more.
        assert_eq!(done(vec![minute("q", 10, 4)]), 9);
        assert_eq!(done(vec![minute("q", 10, 4), minute("q", 20, 1)]), 10);
        assert_eq!(done(vec![]), 9);
        // A scrape at the same time asked for what has been counted meanwhile.
        assert_eq!(done(vec![minute("q", 1, 5), minute("q", 20, 1)]), 10);
    }

    #[test]
    fn queues_beyond_the_bound_are_counted_together() {
        let sums = CounterSums::new();
        let counted = sums.add(
            vec![minute("a", 1, 1), minute("b", 1, 2), minute("c", 1, 4)],
            2,
            "others",
        );
        assert_eq!(counted["a"].done, 1);
        assert_eq!(counted["others"].done, 4);
    }
}

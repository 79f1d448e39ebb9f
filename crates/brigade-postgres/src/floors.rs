//! Floors: where this process goes on in the index of ready jobs.
//!
//! The index is in the order of the hand-out, so ready jobs are at its head. But while some
//! transaction holds an old snapshot, the entries of jobs that were handed out since stay in it,
//! and a look from the head walks over all of them each time. So behind the first [`STRICT`] jobs
//! of a queue a process goes on behind the last job that it got, its *floor*, for each priority. A
//! look from the head comes when a look behind the floors found little, when this process knows of
//! a job that came back or of a higher priority, and otherwise now and then; each time at most for
//! a part of its time ([`PART`]). Where a look from the head is cheap, strict order begins again.
//!
//! Nothing depends on floors but when a job that came back is found.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use brigade_core::sync::lock;

/// Jobs of a queue that are found from the head before floors count.
const STRICT: u64 = 1000;
/// A look from the head that takes at most so long is cheap, with the second for each job that it
/// finds.
const CHEAP: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(1));
/// Between two looks from the head, if nothing asks for one.
const HEAD_EVERY: Duration = Duration::from_millis(100);
/// Between two looks from the head, in times of what the first took.
const PART: u32 = 10;
/// Queues whose floors are remembered.
const QUEUES_MAX: usize = 10_000;
/// Priorities of a queue whose floors are remembered; with more, each look is from the head.
const PRIORITIES_MAX: usize = 64;

/// A part of the index to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexRange {
    /// All of a queue.
    Head,
    /// Of this priority, behind this job.
    Behind(i32, i64),
}

/// The floors of this process.
#[derive(Default)]
pub(super) struct Floors(Mutex<HashMap<Box<str>, QueueFloors>>);

#[derive(Default)]
struct QueueFloors {
    /// The last job that was got, the highest priority first.
    last: BTreeMap<Reverse<i32>, i64>,
    /// Jobs that were got since the last look from the head that was cheap.
    got: u64,
    head_at: Option<Instant>,
    head_took: Duration,
    /// Something may be before the floors.
    is_wanted: bool,
}

impl QueueFloors {
    fn is_head_next(&self, now: Instant) -> bool {
        let Some(at) = self.head_at else { return true };
        if self.got < STRICT || self.last.is_empty() || self.last.len() > PRIORITIES_MAX {
            return true;
        }
        let pause = if self.is_wanted {
            Duration::ZERO
        } else {
            HEAD_EVERY
        };
        now.saturating_duration_since(at) >= pause.max(self.head_took * PART)
    }
}

impl Floors {
    /// Where to look for ready jobs of a queue now, in this order.
    pub(super) fn ranges(&self, queue: &str) -> Vec<IndexRange> {
        let floors = lock(&self.0);
        match floors.get(queue) {
            Some(floors) if !floors.is_head_next(Instant::now()) => floors
                .last
                .iter()
                .map(|(priority, last)| IndexRange::Behind(priority.0, *last))
                .collect(),
            _ => vec![IndexRange::Head],
        }
    }

    /// What a look at these ranges of a queue came to: the jobs that were found, by priority and
    /// number; whether there was room for more; how long a look from the head took.
    pub(super) fn note(
        &self,
        queue: &str,
        found: &[(i32, i64)],
        had_room: bool,
        head_took: Option<Duration>,
    ) {
        let mut all = lock(&self.0);
        if !all.contains_key(queue) {
            if found.is_empty() {
                return;
            }
            if all.len() >= QUEUES_MAX {
                all.clear();
            }
        }
        let floors = all.entry(queue.into()).or_default();
        for (priority, number) in found {
            let last = floors.last.entry(Reverse(*priority)).or_insert(*number);
            *last = (*last).max(*number);
        }
        floors.got += found.len() as u64;
        match head_took {
            Some(took) => {
                floors.head_at = Some(Instant::now());
                floors.head_took = took;
                floors.is_wanted = false;
                let jobs = u32::try_from(found.len()).unwrap_or(u32::MAX);
                if took <= CHEAP.0 + CHEAP.1 * jobs {
                    floors.got = 0;
                }
            }
            None => floors.is_wanted |= had_room,
        }
    }

    /// A job may have come back to a queue, before its floors.
    pub(super) fn want_heads(&self) {
        for floors in lock(&self.0).values_mut() {
            floors.is_wanted = true;
        }
    }

    /// The same for a job of this priority that was pushed.
    pub(super) fn note_pushed(&self, queue: &str, priority: i32) {
        if let Some(floors) = lock(&self.0).get_mut(queue)
            && !floors.last.contains_key(&Reverse(priority))
        {
            floors.is_wanted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(3600);

    fn after_many(floors: &Floors) {
        for number in 1..=STRICT {
            let number = number.cast_signed();
            floors.note("q", &[(0, number)], false, Some(SLOW));
        }
    }

    #[test]
    fn the_first_jobs_are_found_from_the_head_and_later_ones_behind_the_floors() {
        let floors = Floors::default();
        assert_eq!(floors.ranges("q"), [IndexRange::Head]);
        floors.note("q", &[(0, 1)], false, Some(SLOW));
        assert_eq!(floors.ranges("q"), [IndexRange::Head]);
        after_many(&floors);
        floors.note("q", &[(5, 7), (0, 3)], false, Some(SLOW));
        let last = STRICT.cast_signed();
        assert_eq!(
            floors.ranges("q"),
            [IndexRange::Behind(5, 7), IndexRange::Behind(0, last)]
        );
    }

    #[test]
    fn a_slow_look_from_the_head_is_not_repeated_soon_even_if_a_job_came_back() {
        let floors = Floors::default();
        after_many(&floors);
        floors.want_heads();
        assert_ne!(floors.ranges("q"), [IndexRange::Head]);
    }

    #[test]
    fn a_job_that_came_back_is_looked_for_from_the_head_once_that_may_be() {
        let floors = Floors::default();
        after_many(&floors);
        floors.note("q", &[], false, Some(2 * CHEAP.0));
        lock(&floors.0).get_mut("q").unwrap().head_took = Duration::ZERO;
        assert_ne!(floors.ranges("q"), [IndexRange::Head]);
        floors.want_heads();
        assert_eq!(floors.ranges("q"), [IndexRange::Head]);
    }

    #[test]
    fn a_cheap_look_from_the_head_brings_strict_order_back() {
        let floors = Floors::default();
        after_many(&floors);
        floors.note("q", &[(0, 1)], false, Some(CHEAP.0));
        assert_eq!(floors.ranges("q"), [IndexRange::Head]);
    }
}

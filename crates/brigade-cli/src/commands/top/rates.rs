//! Rates of queues: from the minutes that a broker counts, or from the differences between two
//! readings where it counts none.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use brigade::{Durations, MinuteCounts, QueueCounts};

use super::counts::{WAITING, count};

/// Minutes of a sparkline.
pub(super) const MINUTES: usize = 30;
/// Readings of a sparkline.
const SAMPLES_MAX: usize = 30;
/// Queues whose depth is kept from reading to reading.
const QUEUES_MAX: usize = 2_000;
const MINUTE: Duration = Duration::from_secs(60);

/// How fast a queue moves. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueueRates {
    /// Jobs pushed per second.
    pub(super) pushed: Option<f64>,
    /// Jobs done per second.
    pub(super) done: Option<f64>,
    /// Attempts that failed or crashed, per minute.
    pub(super) failed: Option<f64>,
    /// Half of the jobs waited at most so long.
    pub(super) wait: Option<Duration>,
    /// 95 % of the attempts ran at most so long.
    pub(super) run: Option<Duration>,
    /// By how many the waiting jobs grow per second.
    pub(super) growth: Option<f64>,
    /// Jobs done, minute by minute, or waiting jobs, reading by reading; the newest is the last.
    pub(super) spark: Vec<u64>,
}

/// The rates of each queue from its minutes, at `now` by the same clock. Rates are those of this
/// minute and the one before; times those of all given minutes.
pub(super) fn of_minutes(minutes: &[MinuteCounts], now: SystemTime) -> HashMap<String, QueueRates> {
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let this_minute = since_epoch.as_secs() / 60;
    let into_minute = since_epoch.as_secs_f64() % 60.0;
    let seconds = MINUTE.as_secs_f64() + into_minute;
    let mut sums: HashMap<&str, Sums> = HashMap::new();
    for minute in minutes {
        let began = minute.minute.duration_since(SystemTime::UNIX_EPOCH);
        let number = began.map_or(0, |time| time.as_secs() / 60);
        let ago = usize::try_from(this_minute.saturating_sub(number)).unwrap_or(usize::MAX);
        let sums = sums.entry(&minute.queue).or_default();
        sums.add(minute, ago);
    }
    let rates = |sums: Sums| QueueRates {
        pushed: Some(per(sums.pushed, seconds)),
        done: Some(per(sums.done, seconds)),
        failed: Some(per(sums.failed, seconds) * MINUTE.as_secs_f64()),
        wait: sums.wait.quantile(0.5),
        run: sums.run.quantile(0.95),
        growth: None,
        spark: sums.spark,
    };
    let all = sums.into_iter();
    all.map(|(queue, sums)| (queue.to_owned(), rates(sums)))
        .collect()
}

/// What the minutes of one queue add up to.
struct Sums {
    pushed: u64,
    done: u64,
    failed: u64,
    wait: Durations,
    run: Durations,
    spark: Vec<u64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            pushed: 0,
            done: 0,
            failed: 0,
            wait: Durations::default(),
            run: Durations::default(),
            spark: vec![0; MINUTES],
        }
    }
}

impl Sums {
    fn add(&mut self, minute: &MinuteCounts, ago: usize) {
        let counts = &minute.counts;
        if ago <= 1 {
            self.pushed += counts.pushed;
            self.done += counts.done;
            self.failed += counts.failed + counts.crashed;
        }
        self.wait.add(&counts.wait);
        self.run.add(&counts.run);
        if let Some(place) = MINUTES.checked_sub(ago + 1) {
            self.spark[place] += counts.done;
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of two minutes, shown with two digits"
)]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// The waiting jobs of each queue, reading by reading.
#[derive(Default)]
pub(super) struct Depths(HashMap<String, VecDeque<(Instant, u64)>>);

impl Depths {
    /// Notes a reading and gives the rates that follow.
    pub(super) fn note(
        &mut self,
        queues: &[QueueCounts],
        at: Instant,
    ) -> HashMap<String, QueueRates> {
        let names: HashSet<&str> = queues.iter().map(|queue| &*queue.queue).collect();
        self.0.retain(|name, _| names.contains(&**name));
        let mut rates = HashMap::new();
        for queue in queues.iter().take(QUEUES_MAX) {
            let depths = self.0.entry(queue.queue.clone()).or_default();
            depths.push_back((at, count(queue, &WAITING)));
            if depths.len() > SAMPLES_MAX {
                depths.pop_front();
            }
            rates.insert(queue.queue.clone(), of_depths(depths));
        }
        rates
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn of_depths(depths: &VecDeque<(Instant, u64)>) -> QueueRates {
    let growth = depths.front().zip(depths.back()).and_then(|(first, last)| {
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        (seconds > 0.0).then(|| (last.1 as f64 - first.1 as f64) / seconds)
    });
    QueueRates {
        growth,
        spark: depths.iter().map(|(_, depth)| *depth).collect(),
        ..QueueRates::default()
    }
}

#[cfg(test)]
mod tests {
    use brigade::{JobState, TaskCounts};

    use super::*;

    fn minute(queue: &str, at: u64, pushed: u64, done: u64) -> MinuteCounts {
        MinuteCounts {
            queue: queue.to_owned(),
            task: None,
            minute: SystemTime::UNIX_EPOCH + MINUTE * u32::try_from(at).unwrap(),
            counts: TaskCounts {
                pushed,
                done,
                ..TaskCounts::default()
            },
        }
    }

    #[test]
    fn rates_are_those_of_this_minute_and_the_one_before() {
        let now = SystemTime::UNIX_EPOCH + MINUTE * 100 + Duration::from_secs(30);
        let minutes = [
            minute("a", 100, 30, 9),
            minute("a", 99, 60, 36),
            minute("a", 98, 600, 7),
            minute("a", 1, 600, 8),
        ];
        let rates = of_minutes(&minutes, now);
        assert_eq!(rates["a"].pushed, Some(1.0));
        assert_eq!(rates["a"].done, Some(0.5));
        assert_eq!(rates["a"].spark[MINUTES - 3..], [7, 36, 9]);
        assert_eq!(rates["a"].spark.iter().sum::<u64>(), 52);
    }

    #[test]
    fn without_statistics_the_growth_comes_from_two_readings() {
        let mut depths = Depths::default();
        let mut queue = QueueCounts::new("a");
        let began = Instant::now();
        queue.jobs = vec![(JobState::Ready, 10)];
        let rates = depths.note(std::slice::from_ref(&queue), began);
        assert_eq!(rates["a"].growth, None);
        queue.jobs = vec![(JobState::Ready, 4)];
        let rates = depths.note(std::slice::from_ref(&queue), began + Duration::from_secs(3));
        assert_eq!(rates["a"].growth, Some(-2.0));
        assert_eq!(rates["a"].spark, [10, 4]);
        assert!(depths.note(&[], began).is_empty());
        assert!(depths.0.is_empty(), "a queue that is gone is forgotten");
    }
}

//! Statistics, as the scripts have counted them (`record.lua`).
//!
//! One script per queue gives the minute that is being counted, and the hours that are asked for;
//! here they become [`TaskCounts`]. [`COUNTED`] has the queues that were counted lately, by
//! their last minute: on one server the scripts keep it, in a cluster each process that uses a
//! queue (`listing`).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use redis::{Value, cmd};

use super::client::RedisClient;
use super::count_letters::{LETTERS, RUNS, WAITS};
use super::keys::{COUNTED, check_name};
use super::reply::read;
use super::scripts;
use crate::error::Error;
use brigade_core::statistics::{
    Durations, MinuteCounts, STATISTICS_KEPT, StatisticsFilter, TaskCounts,
};

/// Queues that are asked at the same time.
const QUEUES_PAGE: usize = 250;
const MINUTE_MILLIS: i64 = 60_000;
const MINUTES_PER_HOUR: i64 = 60;
/// Minute, queue and task of counts.
type CountsOf = (i64, String, Option<String>);

/// The minutes that are asked for.
struct MinuteRange {
    first: i64,
    last: i64,
}

impl MinuteRange {
    fn of(filter: &StatisticsFilter, now: i64) -> Self {
        let kept = now.saturating_sub_unsigned(millis(STATISTICS_KEPT));
        let since = filter.since.map_or(kept, |since| {
            let since = since.duration_since(UNIX_EPOCH).map_or(0, millis);
            i64::try_from(since).unwrap_or(i64::MAX).max(kept)
        });
        Self {
            // Those that begin then or later.
            first: since.saturating_add(MINUTE_MILLIS - 1) / MINUTE_MILLIS,
            last: now / MINUTE_MILLIS,
        }
    }

    fn hours(&self) -> Vec<String> {
        (self.first / MINUTES_PER_HOUR..=self.last / MINUTES_PER_HOUR)
            .map(|hour| hour.to_string())
            .collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn moment_of(minute: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(minute).unwrap_or(0) * 60)
}

impl RedisClient {
    pub(super) async fn statistics(
        &self,
        filter: &StatisticsFilter,
    ) -> Result<Vec<MinuteCounts>, Error> {
        let now = self.now_of(COUNTED.as_bytes()).await?;
        let range = MinuteRange::of(filter, now);
        let queues = match &filter.queue {
            Some(queue) => vec![queue.to_string()],
            None => self.counted_queues(range.first).await?,
        };
        let (hours, mut all) = (range.hours(), BTreeMap::new());
        for page in queues.chunks(QUEUES_PAGE) {
            let asked = page.iter().map(async |queue| {
                check_name(queue)?;
                self.run::<Vec<Value>>("read statistics", scripts::statistics(), queue, &hours)
                    .await
            });
            for (queue, answer) in page.iter().zip(join_all(asked).await) {
                add_queue(queue, &hours, answer?, &mut all)?;
            }
        }
        all.retain(|(minute, ..), counts| {
            (range.first..=range.last).contains(minute) && !counts.is_empty()
        });
        Ok(listed(all, filter.summed))
    }

    async fn counted_queues(&self, first: i64) -> Result<Vec<String>, Error> {
        let mut command = cmd("ZRANGEBYSCORE");
        // Those that clients note are as exact as their clocks.
        let first = first.saturating_sub(MINUTES_PER_HOUR);
        command.arg(COUNTED).arg(first).arg("+inf");
        self.ask("list counted queues", &command).await
    }
}

/// Adds what a script answered.
fn add_queue(
    queue: &str,
    hours: &[String],
    answer: Vec<Value>,
    all: &mut BTreeMap<CountsOf, TaskCounts>,
) -> Result<(), Error> {
    let task_of =
        |task: &[u8]| (!task.is_empty()).then(|| String::from_utf8_lossy(task).into_owned());
    let mut values = answer.into_iter();
    let mut next = || values.next().unwrap_or(Value::Nil);
    let minute = read::<String>(next())?.parse::<i64>().ok();
    let current: Vec<(Vec<u8>, u64)> = read(next())?;
    for (field, many) in current {
        if let (Some(minute), Some((letter, task))) = (minute, field.split_first()) {
            let of = (minute, queue.to_owned(), task_of(task));
            add(all.entry(of).or_default(), *letter, many);
        }
    }
    for hour in hours {
        let packed: Vec<(Vec<u8>, String)> = read(next())?;
        for (field, numbers) in packed {
            let Some((minute, task)) = minute_of(hour, &field) else {
                continue;
            };
            let counts = all
                .entry((minute, queue.to_owned(), task_of(task)))
                .or_default();
            for (letter, many) in numbers_of(&numbers) {
                add(counts, letter, many);
            }
        }
    }
    Ok(())
}

/// The minute and the task of a field of an hour.
fn minute_of<'a>(hour: &str, field: &'a [u8]) -> Option<(i64, &'a [u8])> {
    let (minute, task) = field.split_at_checked(2)?;
    let minute: i64 = std::str::from_utf8(minute).ok()?.parse().ok()?;
    Some((hour.parse::<i64>().ok()? * MINUTES_PER_HOUR + minute, task))
}

/// `A12b3` as letters and numbers.
fn numbers_of(packed: &str) -> impl Iterator<Item = (u8, u64)> + '_ {
    packed
        .split_inclusive(|c: char| c.is_ascii_alphabetic())
        .zip(packed.split(|c: char| c.is_ascii_alphabetic()).skip(1))
        .filter_map(|(letter, number)| Some((*letter.as_bytes().last()?, number.parse().ok()?)))
}

/// Adds a number to what its letter stands for.
fn add(counts: &mut TaskCounts, letter: u8, many: u64) {
    let Some(place) = LETTERS.bytes().position(|known| known == letter) else {
        return;
    };
    let count = match place {
        0 => &mut counts.pushed,
        1 => &mut counts.done,
        2 => &mut counts.failed,
        3 => &mut counts.crashed,
        4 => &mut counts.interrupted,
        5 => &mut counts.dead,
        6 => &mut counts.cancelled,
        WAITS..RUNS => duration_of(&mut counts.wait, place - WAITS),
        _ => duration_of(&mut counts.run, place - RUNS),
    };
    *count = count.saturating_add(many);
}

fn duration_of(durations: &mut Durations, place: usize) -> &mut u64 {
    durations
        .counts
        .get_mut(place)
        .unwrap_or(&mut durations.sum_ms)
}

/// The oldest first; `summed`: the minutes of each queue and task together.
fn listed(all: BTreeMap<CountsOf, TaskCounts>, summed: bool) -> Vec<MinuteCounts> {
    let mut places: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
    let mut listed: Vec<MinuteCounts> = Vec::new();
    for ((minute, queue, task), counts) in all {
        if summed {
            let of = (queue.clone(), task.clone());
            if let Some(place) = places.get(&of) {
                listed[*place].counts.add(&counts);
                continue;
            }
            places.insert(of, listed.len());
        }
        listed.push(MinuteCounts {
            queue,
            task,
            minute: moment_of(minute),
            counts,
        });
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_numbers_are_read_by_their_letters() {
        let mut counts = TaskCounts::default();
        for (letter, many) in numbers_of("A12b3t40A1H7u9") {
            add(&mut counts, letter, many);
        }
        assert_eq!((counts.pushed, counts.wait.counts[1]), (13, 3));
        assert_eq!((counts.wait.sum_ms, counts.run.counts[0]), (40, 7));
        assert_eq!(counts.run.sum_ms, 9);
    }
}

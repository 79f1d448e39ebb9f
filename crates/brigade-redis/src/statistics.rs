//! Statistics, as the scripts have counted them (`record.lua`).
//!
//! One script per queue gives the minute that is being counted, and the hour that it will be packed
//! into: so it is in one of them. All other hours are read by a command each, as a busy hour of
//! many tasks has thousands of fields. Here they become [`TaskCounts`]. [`COUNTED`] has the queues
//! that were counted lately, by their last minute: on one server the scripts keep it, in a cluster
//! each process that uses a queue (`listing`).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use redis::{Value, cmd, pipe};

use super::arguments::Arguments;
use super::client::RedisClient;
use super::count_letters::{LETTERS, RUNS, WAITS};
use super::keys::{COUNTED, check_name, key};
use super::reply::read;
use super::scripts;
use crate::error::Error;
use brigade_core::statistics::{
    Durations, MinuteCounts, STATISTICS_KEPT, StatisticsFilter, TaskCounts,
};

/// Queues that are asked at the same time.
const QUEUES_PAGE: usize = 250;
/// Hours of queues that are read in one round trip.
const HOURS_PAGE: usize = 500;
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

    fn hours(&self) -> Vec<i64> {
        (self.first / MINUTES_PER_HOUR..=self.last / MINUTES_PER_HOUR).collect()
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
                let script = scripts::statistics();
                self.run::<Vec<Value>>("read statistics", script, queue, Arguments::default())
                    .await
            });
            let mut rest = Vec::new();
            for (queue, answer) in page.iter().zip(join_all(asked).await) {
                let read_hour = add_current(queue, answer?, &mut all)?;
                let left = hours.iter().filter(|hour| read_hour != Some(**hour));
                rest.extend(left.map(|hour| (queue.as_str(), *hour)));
            }
            for page in rest.chunks(HOURS_PAGE) {
                self.add_hours(page, &mut all).await?;
            }
        }
        all.retain(|(minute, ..), counts| {
            (range.first..=range.last).contains(minute) && !counts.is_empty()
        });
        Ok(listed(all, filter.summed))
    }

    /// Adds hours that were packed before.
    async fn add_hours(
        &self,
        hours: &[(&str, i64)],
        all: &mut BTreeMap<CountsOf, TaskCounts>,
    ) -> Result<(), Error> {
        let mut pipeline = pipe();
        for (queue, hour) in hours {
            pipeline
                .cmd("HGETALL")
                .arg(key(queue, &format!("minutes:{hour}")));
        }
        let packed: Vec<Value> = self.ask_all("read statistics", &pipeline).await?;
        for ((queue, hour), packed) in hours.iter().zip(packed) {
            add_hour(queue, *hour, read(packed)?, all);
        }
        Ok(())
    }

    async fn counted_queues(&self, first: i64) -> Result<Vec<String>, Error> {
        let mut command = cmd("ZRANGEBYSCORE");
        // Those that clients note are as exact as their clocks.
        let first = first.saturating_sub(MINUTES_PER_HOUR);
        command.arg(COUNTED).arg(first).arg("+inf");
        self.ask("list counted queues", &command).await
    }
}

fn task_of(task: &[u8]) -> Option<String> {
    (!task.is_empty()).then(|| String::from_utf8_lossy(task).into_owned())
}

/// Adds what a script answered; which hour that was.
fn add_current(
    queue: &str,
    answer: Vec<Value>,
    all: &mut BTreeMap<CountsOf, TaskCounts>,
) -> Result<Option<i64>, Error> {
    let mut values = answer.into_iter();
    let mut next = || values.next().unwrap_or(Value::Nil);
    let Ok(minute) = read::<String>(next())?.parse::<i64>() else {
        return Ok(None);
    };
    let current: Vec<(Vec<u8>, u64)> = read(next())?;
    for (field, many) in current {
        if let Some((letter, task)) = field.split_first() {
            let of = (minute, queue.to_owned(), task_of(task));
            add(all.entry(of).or_default(), *letter, many);
        }
    }
    let hour = minute / MINUTES_PER_HOUR;
    add_hour(queue, hour, read(next())?, all);
    Ok(Some(hour))
}

/// Adds the packed minutes of an hour.
fn add_hour(
    queue: &str,
    hour: i64,
    packed: Vec<(Vec<u8>, String)>,
    all: &mut BTreeMap<CountsOf, TaskCounts>,
) {
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

/// The minute and the task of a field of an hour.
fn minute_of(hour: i64, field: &[u8]) -> Option<(i64, &[u8])> {
    let (minute, task) = field.split_at_checked(2)?;
    let minute: i64 = std::str::from_utf8(minute).ok()?.parse().ok()?;
    Some((hour * MINUTES_PER_HOUR + minute, task))
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

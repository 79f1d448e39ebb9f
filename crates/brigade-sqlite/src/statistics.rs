//! Statistics: a row for each queue, task and minute in which something happened.
//!
//! What happens in a transaction is collected in memory (`counted`) and written once, just
//! before its commit: one row for each queue and task, however many jobs there were. What a
//! savepoint undoes is forgotten ([`Store::forget_counted`]). Jobs that other programs insert are
//! counted by a trigger.
//!
//! The table is bounded by triggers (`schema`): new rows push out the oldest beyond a number, and
//! those that are older than a day.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use rusqlite::types::ToSql;
use rusqlite::{Row, params};

use super::counted::{Count, CountsRow, NamedTasks, ReadBefore};
use super::store::{Store, millis, wall_millis};
use crate::error::Error;
use crate::schedule::time_of;
use brigade_core::statistics::{OTHER_TASKS, STATISTICS_KEPT, TASKS_COUNTED_MAX};
use brigade_core::{Durations, MinuteCounts, StatisticsFilter, TaskCounts};

/// Milliseconds of a minute.
const MINUTE: i64 = 60_000;
/// Minutes of an hour.
const HOUR: i64 = 60;
/// Queues whose tasks of this hour a connection remembers.
const QUEUES_REMEMBERED_MAX: usize = 1_000;

impl Store<'_> {
    pub(super) fn count(&self, queue: &str, task: Option<&str>, count: Count) {
        let mut counted = self.counted.borrow_mut();
        let place = counted.place(queue, task.unwrap_or_default());
        counted.counts.push((place, count));
    }

    /// How much was counted so far, for [`forget_counted`](Store::forget_counted).
    pub(super) fn counted_so_far(&self) -> usize {
        self.counted.borrow().counts.len()
    }

    /// Forgets what was counted since then, because it is undone.
    pub(super) fn forget_counted(&self, before: usize) {
        self.counted.borrow_mut().counts.truncate(before);
    }

    /// Writes what was counted. The last thing that a transaction does.
    pub(super) fn write_counted(&self) -> Result<(), Error> {
        let counted = self.counted.take();
        let minute = self.now.wall.div_euclid(MINUTE);
        let mut sums = counted.sums().peekable();
        // Whether events are recorded was looked up after the same.
        if sums.peek().is_some() && self.recording.get().is_none() {
            self.forget_if_changed()?;
        }
        sums.try_for_each(|(queue, task, counts)| self.add_counts(&queue, &task, minute, &counts))
    }

    /// Forgets what was read of the file if another connection has changed it since.
    pub(super) fn forget_if_changed(&self) -> Result<(), Error> {
        let sql = "PRAGMA data_version";
        let version = self.row("look for changes", sql, &[], |row| row.get(0))?;
        let version = version.unwrap_or_default();
        let mut cache = self.cache.borrow_mut();
        if cache.read_before.version != version {
            cache.read_before = ReadBefore::of_version(version);
        }
        Ok(())
    }

    fn add_counts(
        &self,
        queue: &str,
        task: &str,
        minute: i64,
        counts: &TaskCounts,
    ) -> Result<(), Error> {
        if self.update_counts(queue, task, minute, counts)? {
            return Ok(());
        }
        if self.is_counted_by_name(queue, task, minute)? {
            return self.insert_counts(queue, task, minute, counts);
        }
        if self.update_counts(queue, OTHER_TASKS, minute, counts)? {
            return Ok(());
        }
        self.insert_counts(queue, OTHER_TASKS, minute, counts)
    }

    fn insert_counts(
        &self,
        queue: &str,
        task: &str,
        minute: i64,
        counts: &TaskCounts,
    ) -> Result<(), Error> {
        let sql = "INSERT INTO brigade_statistics (pushed, done, failed, crashed, interrupted, \
            dead, cancelled, wait, run, queue, task, minute)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        self.write_counts(sql, counts, params![queue, task, minute])
            .map(drop)
    }

    /// Adds to a row; whether there is one.
    fn update_counts(
        &self,
        queue: &str,
        task: &str,
        minute: i64,
        counts: &TaskCounts,
    ) -> Result<bool, Error> {
        let Some(mut row) = self.counts_row(queue, task, minute)? else {
            return Ok(false);
        };
        row.wait.add(&counts.wait);
        row.run.add(&counts.run);
        let sum = TaskCounts {
            wait: row.wait.clone(),
            run: row.run.clone(),
            ..counts.clone()
        };
        let sql = "UPDATE brigade_statistics SET pushed = pushed + ?1, done = done + ?2, failed = \
            failed + ?3, crashed = crashed + ?4, interrupted = interrupted + ?5, dead = dead + ?6, \
            cancelled = cancelled + ?7, wait = ?8, run = ?9 WHERE id = ?10 AND minute = ?11";
        let is_there = self.write_counts(sql, &sum, params![row.id, minute])? > 0;
        let read_before = &mut self.cache.borrow_mut().read_before;
        if is_there {
            read_before.keep_row(queue, task, row);
        } else {
            // It was pushed out.
            read_before.forget_rows();
        }
        Ok(is_there)
    }

    fn counts_row(&self, queue: &str, task: &str, minute: i64) -> Result<Option<CountsRow>, Error> {
        let cache = self.cache.borrow();
        if let Some(row) = cache.read_before.row(queue, task, minute) {
            return Ok(Some(row.clone()));
        }
        let sql = "SELECT id, wait, run FROM brigade_statistics WHERE queue = ?1 AND minute = ?2 \
            AND task = ?3";
        let read = |row: &Row<'_>| {
            Ok(CountsRow {
                id: row.get(0)?,
                minute,
                wait: read_durations(row, 1)?,
                run: read_durations(row, 2)?,
            })
        };
        self.row("read statistics", sql, params![queue, minute, task], read)
    }

    fn write_counts(
        &self,
        sql: &str,
        counts: &TaskCounts,
        names: &[&dyn ToSql],
    ) -> Result<usize, Error> {
        let (wait, run) = (text_of(&counts.wait), text_of(&counts.run));
        let numbers = [
            counts.pushed,
            counts.done,
            counts.failed,
            counts.crashed,
            counts.interrupted,
            counts.dead,
            counts.cancelled,
        ];
        let numbers = numbers.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let mut values: Vec<&dyn ToSql> = numbers.iter().map(|number| number as _).collect();
        values.extend([&wait as &dyn ToSql, &run]);
        values.extend(names);
        self.execute("write statistics", sql, &values)
    }

    /// Whether this task is one of the first of its queue in this hour.
    fn is_counted_by_name(&self, queue: &str, task: &str, minute: i64) -> Result<bool, Error> {
        if task.is_empty() || task == OTHER_TASKS {
            return Ok(true);
        }
        let hour = minute.div_euclid(HOUR);
        let mut cache = self.cache.borrow_mut();
        if let Some(known) = cache.tasks.get(queue).filter(|known| known.hour == hour)
            && (known.names.contains(task) || known.names.len() >= TASKS_COUNTED_MAX)
        {
            return Ok(known.names.contains(task));
        }
        // Other processes count too.
        let sql = "SELECT DISTINCT task FROM brigade_statistics WHERE queue = ?1 AND minute >= ?2 \
            AND minute < ?3 AND task NOT IN ('', ?4)";
        let values = params![queue, hour * HOUR, (hour + 1) * HOUR, OTHER_TASKS];
        let names = self.rows("list counted tasks", sql, values, |row| row.get(0))?;
        let mut names: HashSet<Box<str>> = names.into_iter().collect();
        let is_named = names.contains(task) || names.len() < TASKS_COUNTED_MAX;
        if is_named {
            names.insert(task.into());
        }
        if cache.tasks.len() >= QUEUES_REMEMBERED_MAX {
            cache.tasks.clear();
        }
        cache.tasks.insert(queue.into(), NamedTasks { hour, names });
        Ok(is_named)
    }

    pub(super) fn statistics(&self, filter: &StatisticsFilter) -> Result<Vec<MinuteCounts>, Error> {
        let kept = self.now.wall.saturating_sub(millis(STATISTICS_KEPT));
        let since = filter.since.map_or(kept, wall_millis).max(kept);
        // The first minute that begins then or later; of those that are kept, the one that holds
        // this moment is the first.
        let first = match filter.since {
            Some(asked) if wall_millis(asked) >= kept => -(-since).div_euclid(MINUTE),
            _ => since.div_euclid(MINUTE),
        };
        let of_queue = filter.queue.as_deref();
        let condition = if of_queue.is_some() {
            "queue = ?2 AND minute >= ?1"
        } else {
            "?2 IS NULL AND minute >= ?1"
        };
        let sql = format!(
            "SELECT queue, task, minute, pushed, done, failed, crashed, interrupted, dead, \
                cancelled, wait, run FROM brigade_statistics WHERE {condition} ORDER BY minute, \
                queue, task"
        );
        let values = params![first, of_queue];
        let minutes = self.rows("read statistics", &sql, values, minute_counts)?;
        Ok(if filter.summed {
            summed(minutes)
        } else {
            minutes
        })
    }
}

/// The minutes of each queue and task put together, in the place of the first.
fn summed(minutes: Vec<MinuteCounts>) -> Vec<MinuteCounts> {
    let mut sums: Vec<MinuteCounts> = Vec::new();
    let mut places: HashMap<String, HashMap<Option<String>, usize>> = HashMap::new();
    for minute in minutes {
        let tasks = match places.get_mut(&minute.queue) {
            Some(tasks) => tasks,
            None => places.entry(minute.queue.clone()).or_default(),
        };
        match tasks.get(&minute.task) {
            Some(place) => sums[*place].counts.add(&minute.counts),
            None => {
                tasks.insert(minute.task.clone(), sums.len());
                sums.push(minute);
            }
        }
    }
    sums
}

fn minute_counts(row: &Row<'_>) -> rusqlite::Result<MinuteCounts> {
    Ok(MinuteCounts {
        queue: row.get(0)?,
        task: row
            .get::<_, Option<String>>(1)?
            .filter(|task| !task.is_empty()),
        minute: time_of(row.get::<_, i64>(2)?.saturating_mul(MINUTE)),
        counts: TaskCounts {
            pushed: row.get(3)?,
            done: row.get(4)?,
            failed: row.get(5)?,
            crashed: row.get(6)?,
            interrupted: row.get(7)?,
            dead: row.get(8)?,
            cancelled: row.get(9)?,
            wait: read_durations(row, 10)?,
            run: read_durations(row, 11)?,
        },
    })
}

/// A histogram as JSON: the sum in milliseconds, then the counts up to the last that is not zero.
/// `None` if it is empty.
fn text_of(durations: &Durations) -> Option<String> {
    let last = durations.counts.iter().rposition(|count| *count > 0)?;
    let mut text = String::with_capacity(64);
    // Writing to a string does not fail.
    write!(text, "[{}", durations.sum_ms).ok();
    for count in &durations.counts[..=last] {
        write!(text, ",{count}").ok();
    }
    text.push(']');
    Some(text)
}

/// A column that [`text_of`] wrote. What another program wrote there counts as nothing.
fn read_durations(row: &Row<'_>, column: usize) -> rusqlite::Result<Durations> {
    let text = row.get_ref(column)?.as_str_or_null().ok().flatten();
    Ok(durations_of(text.unwrap_or_default()))
}

fn durations_of(text: &str) -> Durations {
    let numbers = text
        .trim_start_matches('[')
        .trim_end_matches(']')
        .split(',');
    let mut numbers = numbers.map(|number| number.trim().parse::<u64>().unwrap_or(0));
    let mut durations = Durations {
        sum_ms: numbers.next().unwrap_or(0),
        ..Durations::default()
    };
    for (count, number) in durations.counts.iter_mut().zip(numbers) {
        *count = number;
    }
    durations
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_histogram_is_read_as_it_was_written_and_other_text_is_empty() {
        let mut durations = Durations::default();
        assert_eq!(text_of(&durations), None);
        for millis in [0, 3, 40_000, u64::from(u32::MAX)] {
            durations.record(Duration::from_millis(millis));
            let text = text_of(&durations).unwrap();
            assert_eq!(durations_of(&text), durations, "{text}");
        }
        for text in ["", "[]", "x", "[1,x]"] {
            assert_eq!(durations_of(text).count(), 0, "{text}");
        }
    }
}

//! Statistics: what queues and tasks did, minute by minute (`schema/statistics.sql`).
//!
//! Rows that are not added up yet are read together with the minutes, so the sums are exact at
//! every moment. What was read is added up once more here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio_postgres::Row;

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::error::Error;
use brigade_core::{Durations, MinuteCounts, StatisticsFilter, TaskCounts};

const READ: Statement = Statement::read(
    "read statistics",
    "select minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, wait, run \
        from brigade.read_statistics($1, $2)",
);

/// Minute, queue and task.
type MinuteKey = (SystemTime, String, String);

impl Database {
    pub(super) async fn statistics(
        &self,
        filter: &StatisticsFilter,
    ) -> Result<Vec<MinuteCounts>, Error> {
        let rows = self
            .rows(READ, &[&filter.queue.as_deref(), &filter.since])
            .await?;
        let mut sums = BTreeMap::<MinuteKey, TaskCounts>::new();
        // The first minute of each queue and task, if they are put together.
        let mut firsts = BTreeMap::<(String, String), SystemTime>::new();
        for row in &rows {
            let read = read_counts(row).map_err(|_| unreadable(READ.what))?;
            let ((minute, queue, task), counts) = read;
            if filter.summed {
                let first = firsts
                    .entry((queue.clone(), task.clone()))
                    .or_insert(minute);
                *first = minute.min(*first);
                let place = (SystemTime::UNIX_EPOCH, queue, task);
                sums.entry(place).or_default().add(&counts);
            } else {
                sums.entry((minute, queue, task)).or_default().add(&counts);
            }
        }
        let minute_of = |minute: SystemTime, queue: &String, task: &String| {
            let first = firsts.get(&(queue.clone(), task.clone()));
            first.copied().unwrap_or(minute)
        };
        let sums = sums
            .into_iter()
            .map(|((minute, queue, task), counts)| MinuteCounts {
                minute: minute_of(minute, &queue, &task),
                queue,
                task: Some(task).filter(|task| !task.is_empty()),
                counts,
            });
        let mut minutes: Vec<MinuteCounts> = sums.collect();
        minutes.sort_by_key(|minute| minute.minute);
        Ok(minutes)
    }
}

fn read_counts(row: &Row) -> Result<(MinuteKey, TaskCounts), tokio_postgres::Error> {
    let count = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
    let counts = TaskCounts {
        pushed: count(3)?,
        done: count(4)?,
        failed: count(5)?,
        crashed: count(6)?,
        interrupted: count(7)?,
        dead: count(8)?,
        cancelled: count(9)?,
        wait: read_durations(row, 10)?,
        run: read_durations(row, 11)?,
    };
    Ok(((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?), counts))
}

/// The sum in milliseconds, then the counts; null for none.
fn read_durations(row: &Row, column: usize) -> Result<Durations, tokio_postgres::Error> {
    let numbers: Option<Vec<Option<i64>>> = row.try_get(column)?;
    let numbers = numbers.unwrap_or_default().into_iter();
    let mut numbers = numbers.map(|number| number.unwrap_or(0).unsigned_abs());
    let mut durations = Durations {
        sum_ms: numbers.next().unwrap_or(0),
        ..Durations::default()
    };
    for (count, number) in durations.counts.iter_mut().zip(numbers) {
        *count = number;
    }
    Ok(durations)
}

//! Counts: how many jobs queues have in each state.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::database::{Database, Statement};
use super::look::state_of;
use crate::error::{Error, ErrorKind};
use crate::job::JobState;
use brigade_core::limits::Limits;
use brigade_core::store::QueueCounts;

const COUNTS: Statement = Statement::read(
    "count jobs",
    "select queue, state, count(*) from brigade.jobs group by queue, state union all select queue, \
        state, count(*) from brigade.ended group by queue, state",
);
const SETTINGS: Statement = Statement::read(
    "list queues with settings",
    "select queue, paused, limits from brigade.queues where paused or limits is not null",
);
/// Since when the job waits that a queue hands out next.
const WAITS_SINCE: Statement = Statement::read(
    "look at the next jobs",
    "select asked.queue, next.at from unnest($1::text[]) as asked (queue) cross join lateral (select \
        j.at from brigade.jobs j where j.state = 0 and j.queue = asked.queue order by j.priority \
        desc, j.id limit 1) next",
);

impl Database {
    pub(super) async fn counts(&self) -> Result<Vec<QueueCounts>, Error> {
        let mut queues = BTreeMap::<String, QueueCounts>::new();
        let entry = |name: String| QueueCounts::new(name);
        for row in self.rows(COUNTS, &[]).await? {
            let Some((queue, state, count)) = read_count(&row) else {
                continue;
            };
            let counts = queues.entry(queue.clone()).or_insert_with(|| entry(queue));
            counts.jobs.push((state, count));
        }
        for row in self.rows(SETTINGS, &[]).await? {
            let (Ok(queue), Ok(paused)) = (row.try_get::<_, String>(0), row.try_get(1)) else {
                continue;
            };
            let limits: Option<&str> = row.try_get(2).ok().flatten();
            let limits = limits.map(|text| limits_of(&queue, text)).transpose()?;
            let counts = queues.entry(queue.clone()).or_insert_with(|| entry(queue));
            (counts.paused, counts.limits) = (paused, limits);
        }
        let has_ready = |counts: &&QueueCounts| {
            let mut states = counts.jobs.iter();
            states.any(|(state, _)| *state == JobState::Ready)
        };
        let ready = queues.values().filter(has_ready);
        let ready: Vec<String> = ready.map(|counts| counts.queue.clone()).collect();
        if !ready.is_empty() {
            for row in self.rows(WAITS_SINCE, &[&ready]).await? {
                let counts = row
                    .try_get::<_, &str>(0)
                    .ok()
                    .and_then(|queue| queues.get_mut(queue));
                if let Some(counts) = counts {
                    counts.waits_since = row.try_get(1).ok();
                }
            }
        }
        Ok(queues.into_values().collect())
    }
}

fn read_count(row: &Row) -> Option<(String, JobState, u64)> {
    let state = state_of(row.try_get(1).ok()?)?;
    let count: i64 = row.try_get(2).ok()?;
    Some((row.try_get(0).ok()?, state, count.unsigned_abs()))
}

/// The limits of a queue, from their text.
pub(super) fn limits_of(queue: &str, text: &str) -> Result<Limits, Error> {
    serde_json::from_str(text).map_err(|e| {
        let text = format!("read the limits of queue {queue:?}");
        Error::new(ErrorKind::Decode, text).with_source(e)
    })
}

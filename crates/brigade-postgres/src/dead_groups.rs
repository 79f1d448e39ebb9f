//! Dead letters in groups, by queue, task and the pattern of their reasons.
//!
//! They are read in parts, in the order of their ids, so that no statement holds its snapshot for
//! long.

use std::collections::HashMap;
use std::time::SystemTime;

use tokio_postgres::Row;

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::error::Error;
use crate::job::JobId;
use crate::policy::reason_pattern;
use brigade_core::store::DeadGroup;

const PART: Statement = Statement::read(
    "group dead letters",
    "select queue, task, reason, jobs, first, last, example from brigade.dead_groups($1, $2, $3)",
);
/// Dead letters that one statement reads.
const READ_AT_ONCE: i32 = 20_000;
/// From so many groups on, further reasons of a queue and task are one group.
const GROUPS_READ_MAX: usize = 10 * DeadGroup::GROUPS_MAX;

/// Groups by queue, task and pattern.
type GroupsByReason = HashMap<(String, Option<String>, String), DeadGroup>;

impl Database {
    pub(super) async fn dead_groups(&self, queue: Option<&str>) -> Result<Vec<DeadGroup>, Error> {
        let (mut groups, mut after) = (GroupsByReason::new(), 0);
        loop {
            let rows = self.rows(PART, &[&queue, &after, &READ_AT_ONCE]).await?;
            let mut read = 0;
            for row in &rows {
                let (group, last) = read_group(row).map_err(|_| unreadable(PART.what))?;
                read += group.count;
                after = last.max(after);
                add(&mut groups, group);
            }
            if read < u64::from(READ_AT_ONCE.unsigned_abs()) {
                return Ok(DeadGroup::bounded(groups.into_values().collect()));
            }
        }
    }
}

/// A group of one reason, and its last job.
fn read_group(row: &Row) -> Result<(DeadGroup, i64), tokio_postgres::Error> {
    let (jobs, last): (i64, i64) = (row.try_get(3)?, row.try_get(6)?);
    let reason: Option<&str> = row.try_get(2)?;
    let pushed: (SystemTime, SystemTime) = (row.try_get(4)?, row.try_get(5)?);
    let group = DeadGroup {
        queue: row.try_get(0)?,
        task: row.try_get(1)?,
        reason: reason_pattern(reason.unwrap_or_default()),
        count: jobs.unsigned_abs(),
        first: pushed.0,
        last: pushed.1,
        example: JobId::new(last.to_string()),
    };
    Ok((group, last))
}

fn add(groups: &mut GroupsByReason, mut group: DeadGroup) {
    let mut key = (
        group.queue.clone(),
        group.task.clone(),
        group.reason.clone(),
    );
    if groups.len() >= GROUPS_READ_MAX && !groups.contains_key(&key) {
        DeadGroup::OTHER_REASONS.clone_into(&mut key.2);
        group.reason.clone_from(&key.2);
    }
    match groups.get_mut(&key) {
        Some(known) => known.add(&group),
        None => drop(groups.insert(key, group)),
    }
}

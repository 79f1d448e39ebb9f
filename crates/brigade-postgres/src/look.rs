//! Reading: one job, and the cancels that this process is asked for.
//!
//! The columns are those of the view `all_jobs`. What other programs wrote may be any text: what
//! cannot be read becomes a default and never an error, so that one bad row hides no other.

use std::time::SystemTime;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::changes::code;
use super::database::{Database, Statement};
use super::settle::number_of;
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState, Parents, Unserved};
use brigade_core::options::Options;
use brigade_core::store::CancelRequest;

const JOB: Statement = Statement::read(
    "look up a job",
    "select * from brigade.all_jobs where id = $1",
);
const CANCELS: Statement = Statement::read(
    "look for cancels",
    "select id, token, cancel from brigade.jobs where cancel is not null and state + 0 = 3 and holder = \
        $1",
);

impl Database {
    pub(super) async fn job(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        Ok(self.row(JOB, &[&number_of(id)]).await?.as_ref().map(info))
    }

    /// The leases of this holder that are to be cancelled.
    pub(super) async fn cancels(&self, holder: i64) -> Result<Vec<CancelRequest>, Error> {
        let rows = self.rows(CANCELS, &[&holder]).await?;
        let read = |row: &Row| {
            Some(CancelRequest {
                id: JobId::new(row.try_get::<_, i64>(0).ok()?.to_string()),
                token: row.try_get(1).ok()?,
                reason: row.try_get(2).ok()?,
            })
        };
        Ok(rows.iter().filter_map(read).collect())
    }
}

pub(super) fn state_of(number: i16) -> Option<JobState> {
    JobState::ALL
        .into_iter()
        .find(|state| code(*state) == number)
}

/// A column that may be null or of another type.
fn maybe<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Option<T> {
    row.try_get::<_, Option<T>>(column).ok().flatten()
}

fn count(row: &Row, column: &str) -> u32 {
    maybe::<i32>(row, column).unwrap_or(0).unsigned_abs()
}

/// A job from a row of `all_jobs`.
pub(super) fn info(row: &Row) -> JobInfo {
    let text = |column| maybe::<String>(row, column);
    let time = |column| maybe::<SystemTime>(row, column);
    let options: Options = maybe::<&str>(row, "options")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let history: Vec<&str> = maybe(row, "history").unwrap_or_default();
    let number: i64 = maybe(row, "id").unwrap_or(-1);
    let state = maybe(row, "state").and_then(state_of);
    JobInfo {
        id: JobId::new(number.to_string()),
        queue: text("queue").unwrap_or_default(),
        task: text("task"),
        state: state.unwrap_or(JobState::Dead),
        payload: text("payload").unwrap_or_default(),
        priority: maybe(row, "priority").unwrap_or(0),
        key: text("key"),
        partition: text("partition").filter(|partition| !partition.is_empty()),
        label: options.label.clone().map(Into::into),
        tick: options.tick.clone(),
        options,
        leased_at: time("leased_at"),
        ended_at: time("ended_at"),
        pushed_at: time("pushed_at").unwrap_or(SystemTime::UNIX_EPOCH),
        due_at: time("due_at"),
        begins_by: time("begins_by"),
        failed: count(row, "failed"),
        crashed: count(row, "crashed"),
        interrupted: count(row, "interrupted"),
        lost: count(row, "lost"),
        unserved: unserved(count(row, "unserved"), time("unserved_at")),
        holder: text("holder"),
        cancel: text("cancel"),
        result: text("result"),
        reason: text("reason"),
        history: history
            .iter()
            .filter_map(|text| serde_json::from_str(text).ok())
            .collect(),
        dependent: maybe::<i64>(row, "dependent").map(|next| JobId::new(next.to_string())),
        parents: parents(row),
    }
}

/// From its columns.
pub(super) fn unserved(times: u32, since: Option<SystemTime>) -> Option<Unserved> {
    since
        .filter(|_| times > 0)
        .map(|since| Unserved { times, since })
}

fn parents(row: &Row) -> Option<Parents> {
    let total = count(row, "parents");
    let unsettled: Vec<i64> = maybe(row, "unsettled").unwrap_or_default();
    let unsettled = unsettled
        .into_iter()
        .map(|number| JobId::new(number.to_string()));
    (total > 0).then(|| Parents {
        total,
        settled: total.saturating_sub(count(row, "parents_left")),
        missed: count(row, "missed"),
        unsettled: unsettled.collect(),
    })
}

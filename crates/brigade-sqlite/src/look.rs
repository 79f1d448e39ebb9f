//! Reading: one job, and how its row becomes a value.
//!
//! All of it runs in a transaction that takes no lock. The columns are read by their places in
//! [`COLUMNS`], so a change of either changes both. Rows that other programs wrote may hold any
//! text: what cannot be read becomes a default and never an error, so that one bad row hides no
//! other.

use rusqlite::{Row, params};

use super::store::{Store, code, row_id};
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState, Parents, Unserved};
pub(super) use crate::schedule::time_of as time;
use brigade_core::options::Options;
use brigade_core::store::CancelRequest;

pub(super) const COLUMNS: &str = "id, queue, task, state, payload, priority, key, options, pushed_at, due, \
    failed, crashed, interrupted, holder, result, reason, history,
  partition, cancel, begins_by, dependent, parents, parents_left, missed, lost, unserved, unserved_at, leased_at, ended_at, CASE \
  WHEN parents_left > 0 THEN (SELECT group_concat(id) FROM
    (SELECT id FROM brigade_jobs AS member WHERE member.dependent = brigade_jobs.id AND member.state < \
    5 ORDER BY id LIMIT 20)) END";

impl Store<'_> {
    pub(super) fn job(&self, id: &JobId) -> Result<Option<JobInfo>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM brigade_jobs WHERE id = ?1");
        self.row("look up a job", &sql, params![row_id(id)], info)
    }

    pub(super) fn cancel_requests(&self) -> Result<Vec<CancelRequest>, Error> {
        let sql = "SELECT id, token, cancel FROM brigade_jobs WHERE state = 3 AND cancel IS NOT \
            NULL AND holder = ?1";
        self.rows(
            "look for cancels",
            sql,
            params![brigade_runtime::owner::own_name()],
            |row| {
                Ok(CancelRequest {
                    id: JobId::new(row.get::<_, i64>(0)?.to_string()),
                    token: row.get(1)?,
                    reason: row.get(2)?,
                })
            },
        )
    }
}

pub(super) fn state_of(number: i64) -> Option<JobState> {
    JobState::ALL
        .into_iter()
        .find(|state| code(*state) == number)
}

pub(super) fn info(row: &Row<'_>) -> rusqlite::Result<JobInfo> {
    let options: Option<String> = row.get(7)?;
    let options: Options = options
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let history: Option<String> = row.get(16)?;
    let due: i64 = row.get(9)?;
    let state = state_of(row.get(3)?).unwrap_or(JobState::Dead);
    let is_for_later = matches!(state, JobState::Scheduled | JobState::Retrying);
    Ok(JobInfo {
        id: JobId::new(row.get::<_, i64>(0)?.to_string()),
        queue: row.get(1)?,
        task: row.get(2)?,
        state,
        payload: row.get(4)?,
        priority: row.get(5)?,
        key: row.get(6)?,
        partition: row
            .get::<_, Option<String>>(17)?
            .filter(|partition| !partition.is_empty()),
        label: options.label.clone().map(Into::into),
        tick: options.tick.clone(),
        options,
        leased_at: row.get::<_, Option<i64>>(27)?.map(time),
        ended_at: row.get::<_, Option<i64>>(28)?.map(time),
        pushed_at: time(row.get(8)?),
        due_at: is_for_later.then(|| time(due)),
        begins_by: row.get::<_, Option<i64>>(19)?.map(time),
        failed: row.get(10)?,
        crashed: row.get(11)?,
        interrupted: row.get(12)?,
        lost: row.get(24)?,
        unserved: unserved(row.get(25)?, row.get(26)?),
        holder: row.get(13)?,
        cancel: row
            .get::<_, Option<String>>(18)?
            .filter(|_| state == JobState::Leased),
        result: row.get(14)?,
        reason: row.get(15)?,
        history: history
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
        dependent: row
            .get::<_, Option<i64>>(20)?
            .map(|next| JobId::new(next.to_string())),
        parents: parents(row)?,
    })
}

/// From its columns.
pub(super) fn unserved(times: u32, since: Option<i64>) -> Option<Unserved> {
    since.filter(|_| times > 0).map(|since| Unserved {
        times,
        since: time(since),
    })
}

fn parents(row: &Row<'_>) -> rusqlite::Result<Option<Parents>> {
    let (parents, left, missed): (u32, u32, u32) = (row.get(21)?, row.get(22)?, row.get(23)?);
    let jobs: Option<String> = row.get(29)?;
    let jobs = jobs
        .iter()
        .flat_map(|jobs| jobs.split(','))
        .map(JobId::new)
        .collect();
    Ok((parents > 0).then(|| Parents {
        total: parents,
        settled: parents.saturating_sub(left),
        missed,
        unsettled: jobs,
    }))
}

//! What the parents of a waiting job leave: their results, and why some of them are *missed*.
//!
//! `brigade_parent_results` has a row for each parent that ended and whose result is handed on, or
//! that is missed. The rows stay until the job goes on with them; those of a job that was not run
//! stay until its parents are retried.

use std::borrow::Cow;

use rusqlite::{Row, params};

use super::store::Store;
use crate::error::Error;
use crate::job::{DependentKind, JobState};
use crate::policy::{MISSED_BYTES_MAX, MISSED_NAMED_MAX, PAYLOAD_BYTES_MAX};

/// What a job that ended is to the one that waits for it.
pub(super) enum DependencyResult<'a> {
    /// Done, with this result, JSON text.
    Done(Option<Cow<'a, str>>),
    /// Not done, as in "job 17 before it is dead: ..".
    Missed(String),
}

impl DependencyResult<'_> {
    pub(super) fn missed(id: i64, state: JobState, reason: Option<&str>) -> Self {
        let ended = if state == JobState::Cancelled {
            "was cancelled"
        } else {
            "is dead"
        };
        Self::Missed(reason.map_or_else(
            || format!("job {id} before it {ended}"),
            |reason| format!("job {id} before it {ended}: {reason}"),
        ))
    }

    pub(super) fn removed(id: i64) -> Self {
        Self::Missed(format!("job {id} before it was removed"))
    }
}

impl Store<'_> {
    /// Keeps what a parent leaves for the job that waits for it.
    pub(super) fn keep_parent_result(
        &self,
        job: i64,
        place: Option<i64>,
        dependent_kind: DependentKind,
        fate: &DependencyResult<'_>,
    ) -> Result<(), Error> {
        let (result, reason) = match fate {
            DependencyResult::Done(_) if !hands_on(dependent_kind) => return Ok(()),
            DependencyResult::Done(result) => (result.as_deref(), None),
            DependencyResult::Missed(reason) => (
                None,
                Some(&reason[..reason.floor_char_boundary(MISSED_BYTES_MAX)]),
            ),
        };
        let sql = "INSERT OR REPLACE INTO brigade_parent_results (job, place, result, missed) \
            VALUES (?1, ?2, ?3, ?4)";
        let values = params![job, place, result, reason];
        self.execute("keep what a parent leaves", sql, values)
            .map(drop)
    }

    /// Which parents of a job were missed, the first of them by name.
    pub(super) fn missed_parents(&self, id: i64) -> Result<String, Error> {
        let sql = "SELECT missed FROM brigade_parent_results WHERE job = ?1 AND missed IS NOT NULL ORDER \
            BY place LIMIT ?2";
        let named = self.rows(
            "read why parents were missed",
            sql,
            params![id, MISSED_NAMED_MAX],
            |row| row.get::<_, String>(0),
        )?;
        let sql = "SELECT missed FROM brigade_jobs WHERE id = ?1";
        let all = self
            .row("count missed parents", sql, params![id], |row| {
                row.get::<_, i64>(0)
            })?
            .unwrap_or(0);
        let mut missed = named.join("; ");
        if all > MISSED_NAMED_MAX {
            missed.push_str(&format!("; and {} more", all - MISSED_NAMED_MAX));
        }
        Ok(missed)
    }

    /// The payload of a job that is given results, or the result of a barrier; why there can be
    /// none, otherwise.
    pub(super) fn assemble(
        &self,
        id: i64,
        dependent_kind: DependentKind,
        payload: &str,
    ) -> Result<Result<String, String>, Error> {
        let bytes = self.result_bytes(id)?.saturating_add(payload.len() + 2);
        if bytes > PAYLOAD_BYTES_MAX {
            return Ok(Err(format!(
                "the results of those it waited for have {bytes} bytes and {PAYLOAD_BYTES_MAX} are \
                    allowed"
            )));
        }
        let sql = "SELECT coalesce(result, 'null') FROM brigade_parent_results WHERE job = ?1 ORDER BY place";
        let results = self
            .rows("gather results", sql, params![id], |row| {
                row.get::<_, String>(0)
            })?
            .join(",");
        if dependent_kind == DependentKind::Barrier {
            return Ok(Ok(format!("[{results}]")));
        }
        let Some(rest) = payload.trim().strip_prefix('[') else {
            return Ok(Err(
                "its payload is no array, so no result can be put in front".to_owned(),
            ));
        };
        let comma = if rest.trim_start().starts_with(']') {
            ""
        } else {
            ","
        };
        Ok(Ok(if dependent_kind == DependentKind::Front {
            format!("[{results}{comma}{rest}")
        } else {
            format!("[[{results}]{comma}{rest}")
        }))
    }

    /// Bytes of the gathered results with a comma behind each. Their text is not read.
    pub(super) fn result_bytes(&self, id: i64) -> Result<usize, Error> {
        let sql = "SELECT coalesce(sum(coalesce(octet_length(result), 4) + 1), 0) FROM \
            brigade_parent_results WHERE job = ?1";
        let read = |row: &Row<'_>| row.get::<_, i64>(0);
        let bytes = self.row("measure results", sql, params![id], read)?;
        Ok(bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
    }
}

/// Whether it is given the results of its parents.
pub(super) fn hands_on(dependent_kind: DependentKind) -> bool {
    matches!(
        dependent_kind,
        DependentKind::Front | DependentKind::Collect | DependentKind::Barrier
    )
}

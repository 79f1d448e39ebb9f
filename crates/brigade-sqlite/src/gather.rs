//! Results of very many parents, gathered and removed in steps.
//!
//! A job that waits for at most [`GATHERED_AT_ONCE`] results is given them in the transaction that
//! counts the last of them. For more, that transaction notes the job in `brigade_gathers` and
//! leaves it waiting, as if one parent were left. Later steps of the sweep join runs of results: a
//! run becomes one row with the same text, `1,2,3`. When few rows are left the job goes on with
//! them as any other job does. Each step is a transaction, and a crash between two of them loses
//! nothing.
//!
//! The rows of a job that is removed or cancelled go in steps, too: it is noted with no place
//! (`after` is null).

use rusqlite::{Row, params};

use super::budget::limit_of;
use super::flow::{ReadyDependent, dependent_kind_of};
use super::store::Store;
use crate::error::Error;
use crate::policy::PAYLOAD_BYTES_MAX;

/// Rows of results that one transaction may take and remove.
pub(super) const GATHERED_AT_ONCE: usize = 500;
/// Rows that become one.
const RUN: usize = 100;
/// A run ends after so many bytes, once it has two rows.
const RUN_BYTES_MAX: usize = 1 << 20;

/// A job whose results are gathered, up to the place `after`; those of no job are removed.
struct NotedGather {
    job: i64,
    after: Option<i64>,
}

impl Store<'_> {
    /// Whether a job is to be given so many results that they are gathered in steps; it is noted
    /// then. What is too large for a payload is not gathered: the job is set aside at once.
    pub(super) fn gathers_in_steps(&self, id: i64) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM brigade_parent_results WHERE job = ?1 LIMIT 1 OFFSET ?2";
        let many = params![id, limit_of(GATHERED_AT_ONCE)];
        if self.row("count results", sql, many, |_| Ok(()))?.is_none()
            || self.result_bytes(id)? > PAYLOAD_BYTES_MAX
        {
            return Ok(false);
        }
        let sql = "UPDATE brigade_jobs SET parents_left = 1 WHERE id = ?1";
        self.execute("wait for results", sql, params![id])?;
        self.note_gather(id, Some(-1))?;
        Ok(true)
    }

    fn note_gather(&self, id: i64, after: Option<i64>) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO brigade_gathers (job, after) VALUES (?1, ?2)";
        self.execute("note results to gather", sql, params![id, after])
            .map(drop)
    }

    fn forget_gather(&self, id: i64) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_gathers WHERE job = ?1";
        self.execute("forget results to gather", sql, params![id])
            .map(drop)
    }

    /// Forgets what was gathered for a job that goes on with it or has ended. Of very much the rest
    /// is left to the sweep.
    pub(super) fn forget_parent_results(&self, id: i64) -> Result<(), Error> {
        if self.forget_some_results(id, GATHERED_AT_ONCE)? < GATHERED_AT_ONCE {
            return Ok(());
        }
        self.note_gather(id, None)
    }

    fn forget_some_results(&self, id: i64, limit: usize) -> Result<usize, Error> {
        let sql = "DELETE FROM brigade_parent_results WHERE job = ?1 AND place IN (SELECT place FROM \
            brigade_parent_results WHERE job = ?1 ORDER BY place LIMIT ?2)";
        self.execute(
            "forget what was gathered",
            sql,
            params![id, limit_of(limit)],
        )
    }

    /// Gathers or removes some results. Returns how many rows it touched: fewer than the limit if
    /// none is left.
    pub(super) fn continue_gathers(&self, limit: usize) -> Result<usize, Error> {
        let mut touched = 0;
        while touched < limit {
            let sql = "SELECT job, after FROM brigade_gathers LIMIT 1";
            let read = |row: &Row<'_>| {
                Ok(NotedGather {
                    job: row.get(0)?,
                    after: row.get(1)?,
                })
            };
            let Some(noted) = self.row("look for results to gather", sql, &[], read)? else {
                break;
            };
            touched += match noted.after {
                Some(after) => self.gather_some(noted.job, after)?,
                None => {
                    let removed = self.forget_some_results(noted.job, RUN)?;
                    if removed < RUN {
                        self.forget_gather(noted.job)?;
                    }
                    removed
                }
            };
        }
        Ok(touched)
    }

    /// Joins the next run of results. After the last one the job goes on, if few are left.
    fn gather_some(&self, id: i64, after: i64) -> Result<usize, Error> {
        let (mut places, mut text) = (Vec::new(), String::new());
        let sql = "SELECT place, coalesce(result, 'null') FROM brigade_parent_results WHERE job = ?1 \
            AND place > ?2 ORDER BY place";
        self.rows_while("gather results", sql, params![id, after], |row| {
            if !places.is_empty() {
                text.push(',');
            }
            places.push(row.get::<_, i64>(0)?);
            text.push_str(row.get_ref(1)?.as_str()?);
            let is_full = places.len() >= RUN || text.len() >= RUN_BYTES_MAX;
            Ok(places.len() < 2 || !is_full)
        })?;
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return self.end_pass(id).map(|()| 1);
        };
        if places.len() > 1 {
            let sql =
                "DELETE FROM brigade_parent_results WHERE job = ?1 AND place > ?2 AND place <= ?3";
            self.execute("join results", sql, params![id, first, last])?;
            let sql = "UPDATE brigade_parent_results SET result = ?3 WHERE job = ?1 AND place = ?2";
            self.execute("join results", sql, params![id, first, text])?;
        }
        self.note_gather(id, Some(*last))?;
        Ok(places.len())
    }

    /// All results were gone through. The job goes on if it may have them at once now; otherwise
    /// they are gone through again.
    fn end_pass(&self, id: i64) -> Result<(), Error> {
        self.forget_gather(id)?;
        let sql = "UPDATE brigade_jobs SET parents_left = 0 WHERE id = ?1 AND state = 2 AND \
            parents_left > 0 RETURNING dependent_kind";
        let read = |row: &Row<'_>| row.get::<_, Option<String>>(0);
        match self.row("end the wait for results", sql, params![id], read)? {
            Some(kind) => self.go_on(ReadyDependent {
                id,
                missed: 0,
                dependent_kind: dependent_kind_of(kind.as_deref()),
            }),
            None => Ok(()),
        }
    }
}

//! How jobs end for good: done, dead, cancelled, or removed.
//!
//! Every end goes through here, except those within a flow (`flow`): the row is changed or removed,
//! the change is noted (`job_change`), and then those that wait for the job go on. So a lease that
//! ends, a sweep, a cancel and a removal tell statistics, events and flows the same.

use std::time::Duration;

use rusqlite::{Row, params};

use super::counted::Count;
use super::flow::EndedJob;
use super::job_change::{Cause, ChangedJob};
use super::parent_results::DependencyResult;
use super::store::{Store, code, millis};
use crate::attempt_report::AttemptReport;
use crate::error::Error;
use crate::job::JobState;
use crate::policy::CANCELLED_KEPT;
use brigade_core::JobEventKind;

/// How a job ends for good.
struct JobEnd<'a> {
    state: JobState,
    reason: Option<&'a str>,
    remove_at: Option<i64>,
    cause: Cause<'a>,
}

impl Store<'_> {
    /// Most jobs that are done leave nothing behind and let no other go on: one statement removes
    /// them. `false` for any other.
    pub(super) fn remove_plain(
        &self,
        id: i64,
        token: i64,
        report: Option<&AttemptReport>,
    ) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id = ?1 AND state = 3 AND token = ?2 AND \
            lease_until >= ?3
                     AND key IS NULL AND dependent IS NULL AND parents = 0 AND (options IS NULL OR \
                     options ->> 'keep' IS NULL) RETURNING queue, task, attempts, leased_at";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<String>>(1)?,
                row.get::<_, u32>(2)?,
                row.get::<_, Option<i64>>(3)?,
            ))
        };
        let values = params![id, token, self.now.boot];
        let removed = self.row("remove a job that is done", sql, values, read)?;
        let Some((queue, task, attempt, leased_at)) = removed else {
            return Ok(false);
        };
        let cost = report.map(|report| &report.cost);
        let since_lease = || self.time_since(leased_at);
        let took = cost.map_or_else(since_lease, |cost| cost.wall);
        self.count(&queue, task.as_deref(), Count::Run(took));
        let job = ChangedJob {
            id,
            queue: &queue,
            task: task.as_deref(),
            state: Some(JobState::Done),
        };
        let cause = Cause {
            attempt,
            cost,
            ..Cause::new(JobEventKind::Done, None)
        };
        self.note(&job, &cause)?;
        Ok(true)
    }

    pub(super) fn done(
        &self,
        id: i64,
        keep: Option<Duration>,
        result: Option<&str>,
        cause: &Cause<'_>,
    ) -> Result<(), Error> {
        let fate = DependencyResult::Done(result.map(Into::into));
        let Some(keep) = keep else {
            return self.remove_job(id, Some(&fate), Some(cause));
        };
        let remove_at = self.now.wall.saturating_add(millis(keep));
        self.execute(
            "keep a result",
            "UPDATE brigade_jobs SET result = ?2 WHERE id = ?1",
            params![id, result],
        )?;
        let end = JobEnd {
            state: JobState::Done,
            reason: None,
            remove_at: Some(remove_at),
            cause: *cause,
        };
        self.end_as(id, &end, &fate)
    }

    pub(super) fn cancelled(&self, id: i64, reason: &str, cause: Cause<'_>) -> Result<(), Error> {
        let remove_at = self.now.wall.saturating_add(millis(CANCELLED_KEPT));
        let end = JobEnd {
            state: JobState::Cancelled,
            reason: Some(reason),
            remove_at: Some(remove_at),
            cause,
        };
        self.end_badly(id, &end)
    }

    /// Makes a job a dead letter.
    pub(super) fn dead(&self, id: i64, reason: &str, cause: Cause<'_>) -> Result<(), Error> {
        let end = JobEnd {
            state: JobState::Dead,
            reason: Some(reason),
            remove_at: None,
            cause,
        };
        self.end_badly(id, &end)
    }

    /// Settles a job for good that did not end well, and lets its dependents know.
    fn end_badly(&self, id: i64, end: &JobEnd<'_>) -> Result<(), Error> {
        let fate = DependencyResult::missed(id, end.state, end.reason);
        self.end_as(id, end, &fate)
    }

    fn end_as(&self, id: i64, end: &JobEnd<'_>, fate: &DependencyResult<'_>) -> Result<(), Error> {
        // Written out, as it is run for every job.
        let sql =
            "UPDATE brigade_jobs SET state = ?2, reason = ?3, remove_at = ?4, ended_at = ?5, \
            due = 0, lease_until = NULL, holder = NULL, leased_at = NULL WHERE id = ?1
            RETURNING id, queue, key, dependent, place, parents, task, state";
        let values = params![
            id,
            code(end.state),
            end.reason,
            end.remove_at,
            self.now.wall
        ];
        let Some(ended) = self.row("end a job", sql, values, EndedJob::read)? else {
            return Ok(());
        };
        self.note(&ended.changed(Some(end.state)), &end.cause)?;
        self.ended(&ended, Some(fate))
    }

    /// Removes a job. `fate` is what its dependent gets; `None` if that got it before, because the
    /// job has ended. Without a `cause` it is not recorded.
    pub(super) fn remove_job(
        &self,
        id: i64,
        fate: Option<&DependencyResult<'_>>,
        cause: Option<&Cause<'_>>,
    ) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id = ?1 RETURNING id, queue, key, dependent, \
            place, parents, task, state";
        let Some(ended) = self.row("remove a job", sql, params![id], EndedJob::read)? else {
            return Ok(());
        };
        if let Some(cause) = cause {
            let is_done = cause.kind == JobEventKind::Done;
            let state = if is_done {
                Some(JobState::Done)
            } else {
                ended.state
            };
            self.note(&ended.changed(state), cause)?;
        }
        self.ended(&ended, fate)
    }
}

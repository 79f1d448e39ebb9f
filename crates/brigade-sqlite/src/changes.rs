//! Changes that people and programs make to single jobs and queues: cancel, delete, retry a dead
//! letter, pause.
//!
//! Each is one transaction. A leased job is never changed by one: a cancel leaves a request for its
//! holder, and all else is refused. Changes of any number of jobs go in steps (`steps`).

use rusqlite::{Row, params};

use super::job_change::Cause;
use super::parent_results::DependencyResult;
use super::push::begins_by;
use super::store::{Store, code, row_id};
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobState};
use brigade_core::JobEventKind;
use brigade_core::options::Options;
use brigade_core::store::{CancelOutcome, Edit, stays_in_its_queue};

impl Store<'_> {
    pub(super) fn withdraw(&self, id: &JobId, reason: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM brigade_jobs WHERE id = ?1 AND state IN (0, 1, 2, 4) AND failed \
            = 0 AND crashed = 0";
        let found = self.row("look up a job", sql, params![row_id(id)], |_| Ok(()))?;
        if found.is_some() {
            self.cancel(id, reason)?;
        }
        Ok(found.is_some())
    }

    pub(super) fn delete(&self, id: &JobId, only: Option<JobState>) -> Result<bool, Error> {
        let id = row_id(id);
        let sql = "SELECT state >= 5 FROM brigade_jobs WHERE id = ?1 AND state <> 3 AND (?2 IS \
            NULL OR state = ?2)";
        let Some(has_ended) =
            self.row("look up a job", sql, params![id, only.map(code)], |row| {
                row.get::<_, bool>(0)
            })?
        else {
            return Ok(false);
        };
        self.remove_job(
            id,
            (!has_ended).then(|| DependencyResult::removed(id)).as_ref(),
            Some(&Cause::new(JobEventKind::Deleted, None)),
        )?;
        Ok(true)
    }

    pub(super) fn retry(&self, job: &JobId, edit: &Edit) -> Result<Option<JobId>, Error> {
        let id = row_id(job);
        // One that was not run because of others has to wait for those.
        let sql = "SELECT queue, unique_key, dependent_kind, options FROM brigade_jobs WHERE id = ?1 AND state = \
            6 AND (missed = 0 OR dependent_kind = 'finally')";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, String>(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
            ))
        };
        let found = self.row("look up a dead letter", sql, params![id], read)?;
        let Some((queue, unique_key, dependent_kind, options)) = found else {
            return Ok(None);
        };
        let (unique_key, dependent_kind, options): (
            Option<String>,
            Option<String>,
            Option<String>,
        ) = (unique_key, dependent_kind, options);
        self.check_unique(
            id,
            edit.queue.as_deref().unwrap_or(&queue),
            unique_key.as_deref(),
        )?;
        self.edit(job, edit)?;
        self.take_back(id)?;
        // It begins again, with all the time that it had.
        let options: Options = options
            .and_then(|options| serde_json::from_str(&options).ok())
            .unwrap_or_default();
        let sql =
            "UPDATE brigade_jobs SET failed = 0, crashed = 0, lost = 0, unserved = 0, unserved_at \
                = NULL, reason = NULL, ended_at = NULL, began_at = ?2, begins_by = ?3
                   WHERE id = ?1";
        let values = params![id, self.now.wall, begins_by(&options, &self.now)];
        self.execute("retry a job", sql, values)?;
        self.come_back(id, dependent_kind.as_deref())?;
        Ok(Some(job.clone()))
    }

    /// Changes a dead letter.
    fn edit(&self, job: &JobId, edit: &Edit) -> Result<(), Error> {
        let Edit {
            payload,
            task,
            queue,
        } = edit;
        let id = row_id(job);
        let sql = "SELECT dependent IS NOT NULL OR parents > 0 FROM brigade_jobs WHERE id = ?1 AND \
            queue <> ?2";
        if self.row("look up a dead letter", sql, params![id, queue], |row| {
            row.get::<_, bool>(0)
        })? == Some(true)
        {
            return Err(stays_in_its_queue(job));
        }
        // One that comes to a queue with limits by partition is in one, as if it had been pushed
        // there.
        let sql = "UPDATE brigade_jobs SET payload = coalesce(?2, payload), task = coalesce(?3, \
            task), queue = coalesce(?4, queue),
                   partition = CASE WHEN partition IS NULL AND EXISTS (SELECT 1 FROM \
                   brigade_queues WHERE queue = ?4 AND parted = 1)
                               THEN coalesce(key, '') ELSE partition END
                   WHERE id = ?1";
        self.execute(
            "change a dead letter",
            sql,
            params![id, payload, task, queue],
        )
        .map(drop)
    }

    /// A unique key is unique among unsettled jobs: one that has ended cannot come back while
    /// another one has its unique key.
    pub(super) fn check_unique(
        &self,
        id: i64,
        queue: &str,
        unique_key: Option<&str>,
    ) -> Result<(), Error> {
        let sql = "SELECT id FROM brigade_jobs WHERE queue = ?1 AND unique_key = ?2 AND state < 5";
        match self.row(
            "look for a duplicate",
            sql,
            params![queue, unique_key],
            |row| row.get::<_, i64>(0),
        )? {
            None => Ok(()),
            Some(other) => Err(Error::new(
                ErrorKind::Duplicate,
                format!("retry job {id}: job {other} has its unique key and is not settled"),
            )),
        }
    }

    pub(super) fn cancel(&self, id: &JobId, reason: &str) -> Result<CancelOutcome, Error> {
        let id = row_id(id);
        let sql = "SELECT state, parents_left FROM brigade_jobs WHERE id = ?1";
        let found = self.row("look up a job", sql, params![id], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        let Some((state, parents_left)) = found else {
            return Ok(CancelOutcome::Nothing);
        };
        let cancelled = self.cancel_one(id, state, reason)?;
        if state == code(JobState::Blocked) && parents_left > 0 {
            self.cancel_members_of(id, reason)?;
        }
        Ok(cancelled)
    }

    /// Cancels a job that is in this state.
    pub(super) fn cancel_one(
        &self,
        id: i64,
        state: i64,
        reason: &str,
    ) -> Result<CancelOutcome, Error> {
        match state {
            3 => {
                self.execute(
                    "ask for a cancel",
                    "UPDATE brigade_jobs SET cancel = ?2 WHERE id = ?1",
                    params![id, reason],
                )?;
                Ok(CancelOutcome::Asked)
            }
            0..5 => self
                .cancelled(
                    id,
                    reason,
                    Cause::new(JobEventKind::Cancelled, Some(reason)),
                )
                .map(|()| CancelOutcome::Cancelled),
            _ => Ok(CancelOutcome::Nothing),
        }
    }

    pub(super) fn set_paused(&self, queue: &str, paused: bool) -> Result<(), Error> {
        let sql = "INSERT INTO brigade_queues (queue, paused) VALUES (?1, ?2) ON CONFLICT (queue) \
            DO UPDATE SET paused = ?2 WHERE paused <> ?2";
        self.execute("pause or resume a queue", sql, params![queue, paused])?;
        self.forget_plain_queue(queue)
    }
}

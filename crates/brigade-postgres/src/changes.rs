//! Changes that people and programs make to single jobs and queues: cancel, delete, retry a dead
//! letter, purge, pause. Each is one call of a function in the database, a purge one for each step.

use super::database::{Database, Statement};
use super::settle::{number_of, storable};
use super::sql_error::{DUPLICATE, STAYS, code_of, unreadable};
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobState};
use brigade_core::job_event::PURGE_EVENTS_MAX;
use brigade_core::store::{CancelOutcome, Edit, stays_in_its_queue};

const CANCEL: Statement = Statement::write("cancel a job", "select brigade.cancel($1, $2, $3)");
const DELETE: Statement = Statement::write("remove a job", "select brigade.delete_job($1, $2)");
const RETRY: Statement = Statement::write("retry a job", "select brigade.retry($1, $2, $3, $4)");
const LAST_JOB: Statement = Statement::read(
    "find the last job",
    "select last_value from brigade.job_ids",
);
const PURGE: Statement = Statement::write(
    "purge a queue",
    "select looked_at, removed from brigade.purge($1, $2, $3, $4)",
);
const PAUSE: Statement = Statement::write_again(
    "pause or resume a queue",
    "select brigade.set_paused($1, $2)",
);

/// Jobs that one step of a purge removes.
const PURGED_AT_ONCE: i32 = 5_000;

/// A job's state as the columns have it; below 5 it is live.
pub(super) fn code(state: JobState) -> i16 {
    match state {
        JobState::Ready => 0,
        JobState::Scheduled => 1,
        JobState::Blocked => 2,
        JobState::Leased => 3,
        JobState::Retrying => 4,
        JobState::Done => 5,
        JobState::Dead => 6,
        JobState::Cancelled => 7,
    }
}

impl Database {
    pub(super) async fn cancel(&self, id: &JobId, reason: &str) -> Result<CancelOutcome, Error> {
        let answer = self.cancel_if(id, reason, false).await?;
        match answer.as_str() {
            "cancelled" => Ok(CancelOutcome::Cancelled),
            "asked" => Ok(CancelOutcome::Asked),
            _ => Ok(CancelOutcome::Nothing),
        }
    }

    pub(super) async fn withdraw(&self, id: &JobId, reason: &str) -> Result<bool, Error> {
        Ok(self.cancel_if(id, reason, true).await? == "cancelled")
    }

    async fn cancel_if(
        &self,
        id: &JobId,
        reason: &str,
        is_untouched: bool,
    ) -> Result<String, Error> {
        let reason = storable(reason);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&number_of(id), &&*reason, &is_untouched];
        let row = self.row(CANCEL, &values).await?;
        row.and_then(|row| row.try_get(0).ok())
            .ok_or_else(|| unreadable(CANCEL.what).uncertain())
    }

    pub(super) async fn delete(&self, id: &JobId, only: Option<JobState>) -> Result<bool, Error> {
        let only = only.map(|state| i32::from(code(state)));
        let row = self.row(DELETE, &[&number_of(id), &only]).await?;
        row.and_then(|row| row.try_get(0).ok())
            .ok_or_else(|| unreadable(DELETE.what).uncertain())
    }

    pub(super) async fn retry(&self, id: &JobId, edit: &Edit) -> Result<Option<JobId>, Error> {
        let Edit {
            payload,
            task,
            queue,
        } = edit;
        let number = number_of(id);
        let (payload, task, queue) = (payload.as_deref(), task.as_deref(), queue.as_deref());
        let row = self.row(RETRY, &[&number, &payload, &task, &queue]).await;
        let row = row.map_err(|error| match code_of(&error) {
            Some(DUPLICATE) => {
                let text = format!("retry job {id}: {}", super::sql_error::message_of(&error));
                Error::new(ErrorKind::Duplicate, text)
            }
            Some(STAYS) => stays_in_its_queue(id),
            _ => error,
        })?;
        let is_back: bool = row
            .and_then(|row| row.try_get(0).ok())
            .ok_or_else(|| unreadable(RETRY.what).uncertain())?;
        Ok(is_back.then(|| id.clone()))
    }

    /// Removes what waited in a queue when this began, in steps.
    pub(super) async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let row = self.row(LAST_JOB, &[]).await?;
        let last: i64 = row
            .and_then(|row| row.try_get(0).ok())
            .ok_or_else(|| unreadable(LAST_JOB.what))?;
        let mut purged = 0;
        loop {
            let records = purged < PURGE_EVENTS_MAX as u64;
            let most = if records {
                i32::try_from(PURGE_EVENTS_MAX).unwrap_or(PURGED_AT_ONCE)
            } else {
                PURGED_AT_ONCE
            };
            let row = self.row(PURGE, &[&queue, &last, &most, &records]).await?;
            let read = |row: tokio_postgres::Row| {
                let counts: (i64, i64) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
                Some(counts)
            };
            let (looked_at, removed) = row
                .and_then(read)
                .ok_or_else(|| unreadable(PURGE.what).uncertain())?;
            if looked_at == 0 {
                return Ok(purged);
            }
            purged += removed.unsigned_abs();
        }
    }

    pub(super) async fn set_paused(&self, queue: &str, is_paused: bool) -> Result<(), Error> {
        self.row(PAUSE, &[&queue, &is_paused]).await.map(drop)
    }
}

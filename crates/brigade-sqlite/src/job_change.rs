//! A change of a job, as statistics and events know it: the one place that both learn from.
//!
//! What changes a job calls [`Store::note`] in the same transaction, after its own statement and
//! before those that let other jobs go on, so that events are in order. `statistics` counts it,
//! `events` records it if events are read.

use rusqlite::{Row, params};

use super::counted::Count;
use super::look::state_of;
use super::store::Store;
use crate::error::Error;
use crate::job::JobState;
use brigade_core::{Cost, JobEventKind};

/// Why a job changes: what the event says besides which job it is and what became of it.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    pub(super) kind: JobEventKind,
    /// Number of the attempt that does it; 0 if none does.
    pub(super) attempt: u32,
    pub(super) reason: Option<&'a str>,
    pub(super) cost: Option<&'a Cost>,
}

impl<'a> Cause<'a> {
    /// Not by an attempt.
    pub(super) fn new(kind: JobEventKind, reason: Option<&'a str>) -> Self {
        Self {
            kind,
            attempt: 0,
            reason,
            cost: None,
        }
    }
}

/// A job that changes.
pub(super) struct ChangedJob<'a> {
    pub(super) id: i64,
    pub(super) queue: &'a str,
    pub(super) task: Option<&'a str>,
    /// The state that it has now; `None` where it is in its row.
    pub(super) state: Option<JobState>,
}

impl Store<'_> {
    /// Counts and records a change.
    pub(super) fn note(&self, job: &ChangedJob<'_>, cause: &Cause<'_>) -> Result<(), Error> {
        let counts = [
            Count::of_kind(cause.kind),
            Count::of_state(cause.kind, job.state),
        ];
        for count in counts.into_iter().flatten() {
            self.count(job.queue, job.task, count);
        }
        if self.is_recording()? {
            let state = match job.state {
                Some(state) => state,
                None => self.state_now(job.id)?,
            };
            self.record(job, state, cause)?;
        }
        Ok(())
    }

    /// The same for a job of which only the id is known.
    pub(super) fn note_stored(&self, id: i64, cause: &Cause<'_>) -> Result<(), Error> {
        let sql = "SELECT queue, task, state FROM brigade_jobs WHERE id = ?1";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<String>>(1)?,
                state_of(row.get(2)?),
            ))
        };
        let Some((queue, task, state)) = self.row("look up a job", sql, params![id], read)? else {
            return Ok(());
        };
        let job = ChangedJob {
            id,
            queue: &queue,
            task: task.as_deref(),
            state,
        };
        self.note(&job, cause)
    }

    fn state_now(&self, id: i64) -> Result<JobState, Error> {
        let sql = "SELECT state FROM brigade_jobs WHERE id = ?1";
        let state = self.row("look up a job", sql, params![id], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(state.and_then(state_of).unwrap_or(JobState::Dead))
    }
}

//! Storing a job, in a transaction of ours or of an application.
//!
//! Both run the same statements, through [`Sql`]: our own connection keeps them prepared, an
//! application's runs them by its [`SqlTransaction`](super::SqlTransaction). A unique key is looked
//! up first, in the same transaction, so a duplicate is never stored.

use std::time::Duration;

use rusqlite::ToSql;
use rusqlite::types::{Null, ToSqlOutput, ValueRef};

use super::job_change::{Cause, ChangedJob};
use super::sql_error::sql_error;
use super::sql_value::SqlValue;
use super::store::{Now, Store, code, millis, no_room, row_id, wall_millis};
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId, JobState};
use brigade_core::JobEventKind;
use brigade_core::options::Options;
use brigade_core::store::PushOutcome;

/// Runs the statements of a push.
pub(super) trait Sql {
    /// The first column of the first row, an integer; `None` if there is no row.
    fn number(
        &mut self,
        what: &str,
        sql: &str,
        parameters: &[SqlValue<'_>],
    ) -> Result<Option<i64>, Error>;
}

/// A parameter as rusqlite takes it.
struct Parameter<'a>(&'a SqlValue<'a>);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            SqlValue::Null => ToSqlOutput::from(Null),
            SqlValue::Integer(number) => ToSqlOutput::from(*number),
            SqlValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl Sql for &Store<'_> {
    fn number(
        &mut self,
        what: &str,
        sql: &str,
        parameters: &[SqlValue<'_>],
    ) -> Result<Option<i64>, Error> {
        #[cfg(test)]
        super::tests::count_statement();
        let parameters = parameters.iter().map(Parameter);
        let run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
            let number = rows.next()?.map(|row| row.get(0)).transpose()?;
            // A statement that writes is done when it gives no more rows.
            while rows.next()?.is_some() {}
            Ok(number)
        };
        run().map_err(|e| sql_error(what, e))
    }
}

impl Store<'_> {
    pub(super) fn push(&self, job: &Job) -> Result<PushOutcome, Error> {
        if self.tight {
            return Err(no_room("store a job"));
        }
        push(&mut &*self, job, &self.now, true)
    }

    /// Counts and records a push.
    pub(super) fn note_pushed(&self, job: &Job, outcome: &PushOutcome) -> Result<(), Error> {
        let PushOutcome::New(id) = outcome else {
            return Ok(());
        };
        let pushed = ChangedJob {
            id: row_id(id),
            queue: &job.queue,
            task: job.task.as_deref(),
            // A trigger or its flow may have changed it.
            state: None,
        };
        self.note(&pushed, &Cause::new(JobEventKind::Pushed, None))
    }
}

/// Stores a job, unless there is one with its unique key. A trigger counts the push, unless the
/// caller does (`is_counted`).
pub(super) fn push(
    sql: &mut impl Sql,
    job: &Job,
    now: &Now,
    is_counted: bool,
) -> Result<PushOutcome, Error> {
    if let Some(id) = duplicate(sql, job, now)? {
        return Ok(PushOutcome::Duplicate(id));
    }
    let options = (job.options != Options::default())
        .then(|| serde_json::to_string(&job.options))
        .transpose();
    let options = options.map_err(|e| {
        Error::new(ErrorKind::Encode, format!("write a job's options: {e}")).with_source(e)
    })?;
    let Options {
        key,
        unique,
        unique_for,
        partition,
        ..
    } = &job.options;
    let due = due_of(&job.options, now);
    let state = if due > now.wall {
        JobState::Scheduled
    } else {
        JobState::Ready
    };
    let insert = "INSERT OR FAIL INTO brigade_jobs (queue, payload, task, state, priority, due, \
            begins_by, key, partition, unique_key, options, pushed_at, counted)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) RETURNING id";
    // A failure undoes the whole operation, so SQLite need not be able to undo this statement
    // alone: `OR FAIL`.
    let values = [
        SqlValue::Text(&job.queue),
        SqlValue::Text(&job.payload),
        SqlValue::of_text(job.task.as_deref()),
        SqlValue::Integer(code(state)),
        SqlValue::Integer(job.options.priority().into()),
        SqlValue::Integer(due),
        begins_by(&job.options, now).map_or(SqlValue::Null, SqlValue::Integer),
        SqlValue::of_text(key.as_deref()),
        SqlValue::of_text(partition.as_deref().or(key.as_deref())),
        SqlValue::of_text(unique.as_deref()),
        SqlValue::of_text(options.as_deref()),
        SqlValue::Integer(now.wall),
        SqlValue::Integer(is_counted.into()),
    ];
    let id = sql.number("store a job", insert, &values)?.ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            "store a job: the statement gave no id, and RETURNING gives one",
        )
    })?;
    if let (Some(unique), Some(period)) = (unique, unique_for) {
        keep_unique(
            sql,
            job,
            unique,
            id,
            now.wall.saturating_add(millis(*period)),
        )?;
    }
    Ok(PushOutcome::New(JobId::new(id.to_string())))
}

/// The job that a unique key stands for already.
fn duplicate(sql: &mut impl Sql, job: &Job, now: &Now) -> Result<Option<JobId>, Error> {
    let Some(unique) = &job.options.unique else {
        return Ok(None);
    };
    let select = "SELECT id FROM brigade_jobs WHERE queue = ?1 AND unique_key = ?2 AND state < 5
        UNION ALL SELECT job FROM brigade_unique_keys WHERE queue = ?1 AND unique_key = ?2 AND until > ?3
        LIMIT 1";
    let values = [
        SqlValue::Text(&job.queue),
        SqlValue::Text(unique),
        SqlValue::Integer(now.wall),
    ];
    let id = sql.number("look for a duplicate", select, &values)?;
    Ok(id.map(|id| JobId::new(id.to_string())))
}

/// Keeps a unique key for a time, whatever becomes of its job.
fn keep_unique(
    sql: &mut impl Sql,
    job: &Job,
    unique: &str,
    id: i64,
    until: i64,
) -> Result<(), Error> {
    let insert = "INSERT OR REPLACE INTO brigade_unique_keys (queue, unique_key, job, until) VALUES (?1, \
        ?2, ?3, ?4)";
    let values = [
        SqlValue::Text(&job.queue),
        SqlValue::Text(unique),
        SqlValue::Integer(id),
        SqlValue::Integer(until),
    ];
    sql.number("keep a unique key", insert, &values).map(drop)
}

/// The latest moment for an attempt to begin, for a job whose time begins now.
pub(super) fn begins_by(options: &Options, now: &Now) -> Option<i64> {
    let within: Option<Duration> = options.retry().within;
    within.map(|within| now.wall.saturating_add(millis(within)))
}

/// When a job that may go on now is due; 0 if it need not wait.
pub(super) fn due_of(options: &Options, now: &Now) -> i64 {
    match (options.at, options.delay) {
        (Some(at), _) => wall_millis(at),
        (None, Some(delay)) => now.wall.saturating_add(millis(delay)),
        (None, None) => 0,
    }
}

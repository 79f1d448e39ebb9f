//! The connection within a transaction, and pushing. Everything here runs within a transaction of
//! `transactions`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::schema;
use crate::clock::{BootTime, Clock};
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId, JobOptions, JobState};
use crate::process::Descendants;
use crate::store::PushOutcome;

/// The connection within a transaction, and its moment.
pub(super) struct Store<'a> {
    pub(super) connection: &'a Connection,
    pub(super) now: Now,
    pub(super) memo: &'a RefCell<Memo>,
    /// There is room on the disk for what runs, and no more.
    pub(super) tight: bool,
    /// This transaction may not write, see [`Store::must_write`].
    pub(super) is_look: bool,
    /// Set by an operation that found, within a transaction that may not write, that it has to: it
    /// is run again in one that may.
    pub(super) must_write: Cell<bool>,
    /// What has come due was seen to in this transaction; whether some of it is left to the next.
    pub(super) swept: Cell<Option<bool>>,
    /// Jobs that this transaction set aside instead of handing them out.
    pub(super) set_aside: Cell<usize>,
}

/// What a connection remembers from one transaction to the next, to save work. Nothing here may
/// matter if it is forgotten, and it is forgotten with each transaction that is undone.
#[derive(Default)]
pub(super) struct Memo {
    /// Which sets of queues this process was last noted to ask for, and when, boot clock. See
    /// `asks`.
    pub(super) asked: HashMap<u64, i64>,
    /// When this process was last noted as a holder of leases, boot clock.
    pub(super) held: Option<i64>,
    /// When it was last looked for holders that are gone, boot clock.
    pub(super) looked: Option<i64>,
    pub(super) heirs: Descendants,
    /// Holders of which nothing is left, and whose leases were not all ended yet.
    pub(super) gone: Vec<String>,
    /// A holder is gone and its workers are ending: worth another look soon.
    pub(super) is_ending: bool,
    /// It ended so lately that nothing is handed out before its jobs.
    pub(super) is_waiting_for_end: bool,
    /// The sweep that comes first next time, see `sweep`.
    pub(super) turn: usize,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since 1970, by the wall clock.
    pub(super) wall: i64,
    /// Since the host was started; nobody sets this one.
    pub(super) boot: i64,
    /// The same moment for this process.
    pub(super) since: BootTime,
}

impl Now {
    pub(super) fn read(clock: &Clock) -> Self {
        let since = BootTime::now();
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ahead = millis(clock.ahead());
        Self {
            wall: wall_millis(SystemTime::now())
                .saturating_add(ahead)
                .saturating_add(clock.wall_off_millis()),
            boot: (boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000).saturating_add(ahead),
            since,
        }
    }
}

/// Longer times than any clock will see are cut, so that sums of two fit.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4)
}

/// The moment of a wall clock's milliseconds.
pub(super) fn moment_of(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

pub(super) fn wall_millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or_else(|before| -millis(before.duration()), millis)
}

/// A job's state as the `state` column has it; below 5 it is not settled for good.
pub(super) fn code(state: JobState) -> i64 {
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

impl<'a> Store<'a> {
    pub(super) fn new(connection: &'a Connection, now: Now, memo: &'a RefCell<Memo>) -> Self {
        Self {
            connection,
            now,
            memo,
            tight: false,
            is_look: false,
            must_write: Cell::new(false),
            swept: Cell::new(None),
            set_aside: Cell::new(0),
        }
    }

    /// Forgets what may have been done by something that is undone.
    pub(super) fn forget(&self) {
        self.memo.take();
        self.swept.set(None);
        self.set_aside.set(0);
    }
}

impl Store<'_> {
    pub(super) fn execute(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
    ) -> Result<usize, Error> {
        #[cfg(test)]
        super::tests::count_statement();
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map_err(|e| schema::error(what, e))
    }

    pub(super) fn rows<T>(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        #[cfg(test)]
        super::tests::count_statement();
        let run = || {
            self.connection
                .prepare_cached(sql)?
                .query_map(values, read)?
                .collect::<rusqlite::Result<Vec<T>>>()
        };
        run().map_err(|e| schema::error(what, e))
    }

    pub(super) fn row<T>(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        #[cfg(test)]
        super::tests::count_statement();
        let run = || {
            self.connection
                .prepare_cached(sql)?
                .query_row(values, read)
                .optional()
        };
        run().map_err(|e| schema::error(what, e))
    }

    // -- push

    pub(super) fn push(&self, job: &Job) -> Result<PushOutcome, Error> {
        if self.tight {
            return Err(no_room("store a job"));
        }
        if let Some(id) = self.duplicate(job)? {
            return Ok(PushOutcome::Duplicate(id));
        }
        let due = due_of(&job.options, &self.now);
        let state = if due > self.now.wall {
            JobState::Scheduled
        } else {
            JobState::Ready
        };
        let options = (job.options != JobOptions::default())
            .then(|| serde_json::to_string(&job.options))
            .transpose();
        let options = options.map_err(|e| {
            Error::new(ErrorKind::Encode, format!("write a job's options: {e}")).with_source(e)
        })?;
        // A failure undoes the whole operation, so SQLite need not be able to undo this statement
        // alone: `OR FAIL`.
        let sql = "INSERT OR FAIL INTO brigade_jobs (queue, payload, task, state, priority, due, \
                begins_by, key, partition, unique_key, options, pushed_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let JobOptions {
            priority,
            key,
            unique,
            ..
        } = &job.options;
        let (partition, begins_by) = (
            job.options.partition.as_ref().or(key.as_ref()),
            self.begins_by(&job.options),
        );
        let place = params![
            job.queue,
            job.payload,
            job.task,
            code(state),
            priority,
            due,
            begins_by
        ];
        let rest = params![key, partition, unique, options, self.now.wall];
        let values: Vec<&dyn ToSql> = place.iter().chain(rest).copied().collect();
        self.execute("store a job", sql, &values)?;
        let id = self.connection.last_insert_rowid();
        if let (Some(unique_key), Some(period)) = (unique, job.options.unique_for) {
            let sql = "INSERT OR REPLACE INTO brigade_unique_keys (queue, unique_key, job, until) VALUES (?1, \
                ?2, ?3, ?4)";
            let until = self.now.wall.saturating_add(millis(period));
            self.execute(
                "mark a job as unique",
                sql,
                params![job.queue, unique_key, id, until],
            )?;
        }
        Ok(PushOutcome::New(JobId::new(id.to_string())))
    }

    /// The job that a unique key stands for already.
    fn duplicate(&self, job: &Job) -> Result<Option<JobId>, Error> {
        let Some(unique_key) = &job.options.unique else {
            return Ok(None);
        };
        let sql = "SELECT id FROM brigade_jobs WHERE queue = ?1 AND unique_key = ?2 AND state < 5
                   UNION ALL SELECT job FROM brigade_unique_keys WHERE queue = ?1 AND unique_key = ?2 AND \
                   until > ?3 LIMIT 1";
        let id = self.row(
            "look for a duplicate",
            sql,
            params![job.queue, unique_key, self.now.wall],
            |row| row.get::<_, i64>(0),
        )?;
        Ok(id.map(|id| JobId::new(id.to_string())))
    }
}

/// When a job that may go on now is due; 0 if it need not wait.
pub(super) fn due_of(options: &JobOptions, now: &Now) -> i64 {
    match (options.at, options.delay) {
        (Some(at), _) => wall_millis(at),
        (None, Some(delay)) => now.wall.saturating_add(millis(delay)),
        (None, None) => 0,
    }
}

pub(super) fn no_room(what: &str) -> Error {
    Error::new(
        ErrorKind::Os,
        format!(
            "{what}: the disk is full but for what running jobs need; nothing of this was stored"
        ),
    )
}

/// The row of an id; one that no row has, if it is not a number.
pub(super) fn row_id(id: &JobId) -> i64 {
    id.as_str().parse().unwrap_or(-1)
}

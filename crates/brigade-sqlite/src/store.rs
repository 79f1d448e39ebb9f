//! The connection within a transaction. Everything here runs within a transaction of
//! `transactions`.
//!
//! [`Store`] lives for one transaction and has its moment ([`Now`]): all statements of a
//! transaction see the same time. The methods that hand out, settle, look and sweep are in the
//! files of those names. [`ConnectionCache`] outlives the transaction and is forgotten when one is
//! undone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::budget::FLOW_STEPS_MAX;
use super::counted::{CountedChanges, NamedTasks, ReadBefore};
use super::sql_error::sql_error;
use crate::clock::{BootTime, Clock};
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobState};
use brigade_runtime::owner::Descendants;

/// The connection within a transaction, and its moment.
pub(super) struct Store<'a> {
    pub(super) connection: &'a Connection,
    pub(super) now: Now,
    pub(super) cache: &'a RefCell<ConnectionCache>,
    /// There is room on the disk for what runs, and no more.
    pub(super) tight: bool,
    /// This transaction may not write, see [`Store::must_write`].
    pub(super) is_look: bool,
    /// Set by an operation that found, within a transaction that may not write, that it has to: it
    /// is run again in one that may.
    pub(super) must_write: Cell<bool>,
    /// What has come due was seen to in this transaction; whether some of it is left to the next.
    pub(super) swept: Cell<Option<bool>>,
    /// Jobs whose ends this transaction may still pass on within their flows, see `flow_ends`.
    pub(super) flow_steps: Cell<usize>,
    /// Jobs that this transaction set aside instead of handing them out.
    pub(super) set_aside: Cell<usize>,
    /// What this transaction has counted, see `statistics`.
    pub(super) counted: RefCell<CountedChanges>,
    /// Whether its changes are recorded, once that is known, see `events`.
    pub(super) recording: Cell<Option<bool>>,
}

/// What a connection remembers from one transaction to the next, to save work. Nothing here may
/// matter if it is forgotten, and it is forgotten with each transaction that is undone.
#[derive(Default)]
pub(super) struct ConnectionCache {
    /// Which sets of queues this process was last noted to ask for, and when, boot clock. See
    /// `asks`.
    pub(super) asked: HashMap<u64, i64>,
    /// When this process was last noted as a holder of leases, boot clock.
    pub(super) held: Option<i64>,
    /// When it was last looked for holders that are gone, boot clock.
    pub(super) looked: Option<i64>,
    pub(super) descendants: Descendants,
    /// Holders of which nothing is left, and whose leases were not all ended yet.
    pub(super) gone: Vec<String>,
    /// A holder is gone and its workers are ending: worth another look soon.
    pub(super) is_ending: bool,
    /// It ended so lately that nothing is handed out before its jobs.
    pub(super) is_waiting_for_end: bool,
    /// The sweep that comes first next time, see `sweep`.
    pub(super) turn: usize,
    /// The tasks of queues that are counted by name in this hour, see `statistics`.
    pub(super) tasks: HashMap<Box<str>, NamedTasks>,
    /// What need not be read again, see `statistics`.
    pub(super) read_before: ReadBefore,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since 1970, by the wall clock.
    pub(super) wall: i64,
    /// Since the host was started; this clock is never set.
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
    pub(super) fn new(
        connection: &'a Connection,
        now: Now,
        cache: &'a RefCell<ConnectionCache>,
    ) -> Self {
        Self {
            connection,
            now,
            cache,
            tight: false,
            is_look: false,
            must_write: Cell::new(false),
            swept: Cell::new(None),
            flow_steps: Cell::new(FLOW_STEPS_MAX),
            set_aside: Cell::new(0),
            counted: RefCell::default(),
            recording: Cell::new(None),
        }
    }

    /// Forgets what may have been done by something that is undone. What it counted is forgotten
    /// by itself.
    pub(super) fn forget(&self) {
        self.cache.take();
        self.swept.set(None);
        self.flow_steps.set(FLOW_STEPS_MAX);
        self.set_aside.set(0);
        self.recording.set(None);
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
        run().map_err(|e| sql_error(what, e))
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
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(values, read)?;
            let rows = rows.collect::<rusqlite::Result<Vec<T>>>();
            #[cfg(test)]
            super::tests::count_steps(&statement);
            rows
        };
        run().map_err(|e| sql_error(what, e))
    }

    /// Reads rows until `read` gives `false`, and no further ones.
    pub(super) fn rows_while(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> Result<(), Error> {
        #[cfg(test)]
        super::tests::count_statement();
        let mut run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(values)?;
            while let Some(row) = rows.next()? {
                if !read(row)? {
                    break;
                }
            }
            drop(rows);
            #[cfg(test)]
            super::tests::count_steps(&statement);
            Ok(())
        };
        run().map_err(|e| sql_error(what, e))
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
        run().map_err(|e| sql_error(what, e))
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

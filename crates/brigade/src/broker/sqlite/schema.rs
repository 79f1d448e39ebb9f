//! The file: its tables, their versions, and what makes it safe.
//!
//! On a change: add a step to [`STEPS`], never edit one that was released, and describe the new column in `docs/brokers.md`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::lane::Safety;
use crate::error::{Error, ErrorKind};

/// `BRGD`, so that the file of another program is not taken for ours (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x4252_4744;

/// Each step brings the schema from its index to the next version.
const STEPS: [&str; 1] = [r"
CREATE TABLE jobs (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  queue       TEXT    NOT NULL CHECK (queue <> ''),
  payload     TEXT    NOT NULL,
  task        TEXT,
  state       INTEGER NOT NULL DEFAULT 0,
  priority    INTEGER NOT NULL DEFAULT 0,
  due         INTEGER NOT NULL DEFAULT 0,
  key         TEXT,
  mark        TEXT,
  options     TEXT,
  token       INTEGER NOT NULL DEFAULT 0,
  lease_until INTEGER,
  holder      TEXT,
  attempts    INTEGER NOT NULL DEFAULT 0,
  failed      INTEGER NOT NULL DEFAULT 0,
  crashed     INTEGER NOT NULL DEFAULT 0,
  interrupted INTEGER NOT NULL DEFAULT 0,
  pushed_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  remove_at   INTEGER,
  cancel      TEXT,
  reason      TEXT,
  result      TEXT,
  history     TEXT
) STRICT;
CREATE INDEX jobs_ready  ON jobs (queue, priority DESC, id) WHERE state = 0;
CREATE INDEX jobs_due    ON jobs (due) WHERE state IN (1, 4);
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 3;
CREATE INDEX jobs_key    ON jobs (queue, key, id) WHERE key IS NOT NULL AND state < 5;
CREATE UNIQUE INDEX jobs_mark ON jobs (queue, mark) WHERE mark IS NOT NULL AND state < 5;
CREATE INDEX jobs_ended  ON jobs (state, id) WHERE state >= 5;
CREATE INDEX jobs_remove ON jobs (remove_at) WHERE remove_at IS NOT NULL;
CREATE TRIGGER jobs_hold AFTER INSERT ON jobs
WHEN NEW.key IS NOT NULL AND NEW.state = 0 AND EXISTS
  (SELECT 1 FROM jobs WHERE queue = NEW.queue AND key = NEW.key AND state < 5 AND id < NEW.id)
BEGIN
  UPDATE jobs SET state = 2 WHERE id = NEW.id;
END;
CREATE TABLE queues (
  queue  TEXT PRIMARY KEY,
  paused INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"];

/// Opens the file, makes it safe, and brings its schema up to date.
///
/// # Errors
///
/// `NotOurs` for a file of another program, `OtherVersion` for one of a later version, `Os` for what the system refuses.
pub(super) fn open(path: Option<&Path>, safety: Safety, busy: Duration) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match path {
        Some(path) => Connection::open_with_flags(path, flags).map_err(|e| error(&format!("open {}", path.display()), e))?,
        None => Connection::open_in_memory().map_err(|e| error("open a database in memory", e))?,
    };
    prepare(&connection, safety, busy, path.is_some())?;
    migrate(&connection)?;
    forget_old_boots(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn prepare(connection: &Connection, safety: Safety, busy: Duration, in_file: bool) -> Result<(), Error> {
    let set = |e| error("set up the database", e);
    connection.busy_timeout(busy).map_err(set)?;
    if in_file {
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(set)?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("set up the database: its journal stays {mode:?}, it needs WAL (not on a network filesystem)"),
            ));
        }
    }
    let synchronous = match safety {
        Safety::Full => "FULL",
        Safety::Normal => "NORMAL",
    };
    let pragmas = format!("PRAGMA synchronous = {synchronous}; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -16384;");
    connection.execute_batch(&pragmas).map_err(set)
}

fn migrate(connection: &Connection) -> Result<(), Error> {
    let read = |e| error("read the database's version", e);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(read)?;
    let migrated = migrate_within(connection);
    let end = if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.execute_batch(end).map_err(|e| error("bring the database up to date", e))?;
    migrated
}

fn migrate_within(connection: &Connection) -> Result<(), Error> {
    let read = |e| error("read the database's version", e);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0)).map_err(read);
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(read)?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(Error::new(ErrorKind::Unsupported, "open a database that is not a job file: it belongs to another program"));
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(steps) = STEPS.get(version..) else {
        let text = format!("open a job file of schema version {version}: this build knows up to {}; use a newer one", STEPS.len());
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    for step in steps {
        connection.execute_batch(step).map_err(|e| error("bring the database up to date", e))?;
    }
    let done = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}", STEPS.len());
    connection.execute_batch(&done).map_err(|e| error("bring the database up to date", e))
}

/// Leases are times of the boot clock: those of an earlier boot mean nothing, and their holders are gone.
fn forget_old_boots(connection: &Connection) -> Result<(), Error> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let forget = || {
        let known: Option<String> = connection.query_row("SELECT value FROM facts WHERE name = 'boot'", [], |row| row.get(0)).ok();
        if known.as_deref() != Some(boot.trim()) {
            connection.execute("UPDATE jobs SET lease_until = 0 WHERE state = 3", [])?;
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('boot', ?1)", [boot.trim()])?;
        }
        Ok(())
    };
    forget().map_err(|e| error("look for leases of an earlier boot", e))
}

/// What a person is told of an error of SQLite's.
pub(super) fn error(what: &str, source: rusqlite::Error) -> Error {
    let (kind, hint) = match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (ErrorKind::Timeout, "another process holds the file; try again"),
        Some(ErrorCode::DiskFull) => (ErrorKind::Os, "the disk is full; nothing of this was stored"),
        Some(ErrorCode::ReadOnly) => (ErrorKind::Os, "the file or its directory cannot be written to"),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Os, "the file is damaged or no database; restore a copy, or recover it with sqlite3's .recover")
        }
        Some(ErrorCode::CannotOpen) => (ErrorKind::Os, "the file cannot be opened; does its directory exist?"),
        _ => (ErrorKind::Os, "the database refused"),
    };
    Error::new(kind, format!("{what}: {hint}")).with_source(source)
}

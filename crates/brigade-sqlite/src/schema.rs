//! The file: its tables, their versions, and what makes it safe.
//!
//! On a change: add a step to [`STEPS`], never edit one that was released, and describe the new
//! column in `docs/brokers.md`. A file of a later version is refused, and so is one with tables of
//! another program, unless the URL allows that.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};
use rustix::fs::{FileType, Mode};

use super::config::{Safety, SqliteConfig};
use super::file::LOG_BYTES_MAX;
use super::refuse;
use super::sql_error::sql_error;
use crate::error::{Error, ErrorKind};

/// `BRGD`: by this people and file(1) know a file that we made (`PRAGMA application_id`). An
/// application's own file keeps its own.
const APPLICATION_ID: i32 = 0x4252_4744;

/// Each step brings the schema from its index to the next version.
///
/// A trigger costs each push, also where its condition is false: so jobs have one, without an
/// upsert and without functions of the time, which SQLite would set up in vain each time.
const STEPS: [&str; 1] = [r"
CREATE TABLE brigade_jobs (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  queue       TEXT    NOT NULL CHECK (queue <> ''),
  payload     TEXT    NOT NULL,
  task        TEXT,
  state       INTEGER NOT NULL DEFAULT 0,
  priority    INTEGER NOT NULL DEFAULT 0,
  due         INTEGER NOT NULL DEFAULT 0,
  begins_by   INTEGER,
  key         TEXT,
  partition   TEXT,
  unique_key        TEXT,
  options     TEXT,
  token       INTEGER NOT NULL DEFAULT 0,
  lease_until INTEGER,
  holder      TEXT,
  attempts    INTEGER NOT NULL DEFAULT 0,
  failed      INTEGER NOT NULL DEFAULT 0,
  crashed     INTEGER NOT NULL DEFAULT 0,
  interrupted INTEGER NOT NULL DEFAULT 0,
  lost        INTEGER NOT NULL DEFAULT 0,
  unserved    INTEGER NOT NULL DEFAULT 0,
  unserved_at INTEGER,
  pushed_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  counted     INTEGER NOT NULL DEFAULT 0,
  began_at    INTEGER,
  leased_at   INTEGER,
  ended_at    INTEGER,
  remove_at   INTEGER,
  dependent   INTEGER,
  place       INTEGER,
  parents     INTEGER NOT NULL DEFAULT 0,
  parents_left       INTEGER NOT NULL DEFAULT 0,
  missed      INTEGER NOT NULL DEFAULT 0,
  dependent_kind      TEXT,
  cancel      TEXT,
  reason      TEXT,
  result      TEXT,
  history     TEXT
) STRICT;
CREATE INDEX brigade_jobs_ready  ON brigade_jobs (queue, priority DESC, id) WHERE state = 0;
CREATE INDEX brigade_jobs_turn   ON brigade_jobs (queue, partition, priority DESC, id) WHERE state = 0 AND partition IS NOT NULL;
CREATE INDEX brigade_jobs_due    ON brigade_jobs (due) WHERE state IN (1, 4);
CREATE INDEX brigade_jobs_waiting ON brigade_jobs (queue, id, state) WHERE state IN (1, 2, 4);
CREATE INDEX brigade_jobs_late   ON brigade_jobs (begins_by) WHERE begins_by IS NOT NULL AND state IN (0, 1, 2, 4);
CREATE INDEX brigade_jobs_leased ON brigade_jobs (lease_until) WHERE state = 3;
CREATE INDEX brigade_jobs_cancel ON brigade_jobs (holder) WHERE state = 3 AND cancel IS NOT NULL;
CREATE INDEX brigade_jobs_key    ON brigade_jobs (queue, key, id) WHERE key IS NOT NULL AND state < 5;
CREATE INDEX brigade_jobs_busy   ON brigade_jobs (queue, key) WHERE key IS NOT NULL AND state = 3;
CREATE INDEX brigade_jobs_dependent ON brigade_jobs (dependent) WHERE dependent IS NOT NULL;
CREATE UNIQUE INDEX brigade_jobs_unique_key ON brigade_jobs (queue, unique_key) WHERE unique_key IS NOT NULL AND state < 5;
CREATE INDEX brigade_jobs_ended  ON brigade_jobs (state, id) WHERE state >= 5;
CREATE INDEX brigade_jobs_ended_in ON brigade_jobs (queue, state, id) WHERE state >= 5;
CREATE INDEX brigade_jobs_dead   ON brigade_jobs (queue, task, reason, pushed_at) WHERE state = 6;
CREATE INDEX brigade_jobs_remove ON brigade_jobs (remove_at) WHERE remove_at IS NOT NULL;
CREATE TRIGGER brigade_jobs_insert AFTER INSERT ON brigade_jobs
WHEN NEW.counted = 0 OR NEW.key IS NOT NULL AND NEW.state = 0
  OR NEW.partition IS NULL AND EXISTS (SELECT 1 FROM brigade_queues WHERE queue = NEW.queue AND parted = 1)
BEGIN
  UPDATE brigade_jobs SET partition = coalesce(NEW.key, '') WHERE id = NEW.id AND NEW.partition IS NULL
    AND EXISTS (SELECT 1 FROM brigade_queues WHERE queue = NEW.queue AND parted = 1);
  UPDATE brigade_jobs SET state = 2 WHERE id = NEW.id AND NEW.key IS NOT NULL AND NEW.state = 0 AND EXISTS
    (SELECT 1 FROM brigade_jobs WHERE queue = NEW.queue AND key = NEW.key AND state < 5 AND id < NEW.id);
  INSERT INTO brigade_statistics (queue, minute, task)
    SELECT NEW.queue, NEW.pushed_at / 60000, name FROM (SELECT CASE
        WHEN NEW.task IS NULL THEN ''
        WHEN EXISTS (SELECT 1 FROM brigade_statistics WHERE queue = NEW.queue AND minute >= NEW.pushed_at / 3600000 * 60 AND task = NEW.task) THEN NEW.task
        WHEN (SELECT count(DISTINCT task) FROM brigade_statistics WHERE queue = NEW.queue AND minute >= NEW.pushed_at / 3600000 * 60 AND task NOT IN ('', '(others)')) < 100 THEN NEW.task
        ELSE '(others)' END AS name)
      WHERE NEW.counted = 0
        AND NOT EXISTS (SELECT 1 FROM brigade_statistics WHERE queue = NEW.queue AND minute = NEW.pushed_at / 60000 AND task = coalesce(NEW.task, ''))
        AND NOT EXISTS (SELECT 1 FROM brigade_statistics WHERE queue = NEW.queue AND minute = NEW.pushed_at / 60000 AND task = name);
  UPDATE brigade_statistics SET pushed = pushed + 1
    WHERE NEW.counted = 0 AND queue = NEW.queue AND minute = NEW.pushed_at / 60000 AND task = CASE
        WHEN EXISTS (SELECT 1 FROM brigade_statistics WHERE queue = NEW.queue AND minute = NEW.pushed_at / 60000 AND task = coalesce(NEW.task, '')) THEN coalesce(NEW.task, '')
        ELSE '(others)' END;
  INSERT INTO brigade_events (at, job, queue, task, kind, state, attempt)
    SELECT NEW.pushed_at, NEW.id, NEW.queue, NEW.task, 'pushed', (SELECT state FROM brigade_jobs WHERE id = NEW.id), 0
      WHERE NEW.counted = 0 AND EXISTS (SELECT 1 FROM brigade_facts WHERE name = 'recording' AND CAST(value AS INTEGER) > NEW.pushed_at);
END;
CREATE TABLE brigade_queues (
  queue  TEXT PRIMARY KEY,
  paused INTEGER NOT NULL DEFAULT 0,
  limits TEXT,
  parted INTEGER NOT NULL DEFAULT 0,
  turn   TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE brigade_starts (queue TEXT NOT NULL, partition TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE INDEX brigade_starts_at ON brigade_starts (queue, at);
CREATE INDEX brigade_starts_partition ON brigade_starts (queue, partition, at);
CREATE TABLE brigade_unique_keys (
  queue TEXT NOT NULL, unique_key TEXT NOT NULL, job INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY (queue, unique_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX brigade_unique_keys_until ON brigade_unique_keys (until);
CREATE TABLE brigade_parent_results (
  job INTEGER NOT NULL, place INTEGER NOT NULL, result TEXT, missed TEXT,
  PRIMARY KEY (job, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE brigade_schedules (
  name    TEXT PRIMARY KEY,
  plan    TEXT NOT NULL,
  job     TEXT NOT NULL,
  tick    INTEGER NOT NULL,
  next_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX brigade_schedules_next ON brigade_schedules (next_at);
CREATE TABLE brigade_consumers (
  holder TEXT NOT NULL, asks INTEGER NOT NULL, asked_at INTEGER NOT NULL, queues TEXT NOT NULL,
  PRIMARY KEY (holder, asks)
) STRICT;
CREATE TABLE brigade_live_consumers (
  id TEXT PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL, consumer TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE brigade_holders (holder TEXT PRIMARY KEY, seen INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE brigade_flow_ends (
  job INTEGER PRIMARY KEY, dependent INTEGER NOT NULL, place INTEGER, result TEXT, missed TEXT
) STRICT;
CREATE TABLE brigade_flow_retries (job INTEGER PRIMARY KEY) STRICT;
CREATE TABLE brigade_gathers (job INTEGER PRIMARY KEY, after INTEGER) STRICT;
CREATE TABLE brigade_cancels (job INTEGER PRIMARY KEY, after INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE TABLE brigade_statistics (
  id INTEGER PRIMARY KEY, queue TEXT NOT NULL, minute INTEGER NOT NULL, task TEXT NOT NULL,
  pushed      INTEGER NOT NULL DEFAULT 0,
  done        INTEGER NOT NULL DEFAULT 0,
  failed      INTEGER NOT NULL DEFAULT 0,
  crashed     INTEGER NOT NULL DEFAULT 0,
  interrupted INTEGER NOT NULL DEFAULT 0,
  dead        INTEGER NOT NULL DEFAULT 0,
  cancelled   INTEGER NOT NULL DEFAULT 0,
  wait TEXT, run TEXT
) STRICT;
CREATE UNIQUE INDEX brigade_statistics_task ON brigade_statistics (queue, minute, task);
CREATE INDEX brigade_statistics_minute ON brigade_statistics (minute);
CREATE TRIGGER brigade_statistics_trim AFTER INSERT ON brigade_statistics WHEN NEW.id % 100 = 0
BEGIN
  DELETE FROM brigade_statistics WHERE id <= NEW.id - 200000;
  DELETE FROM brigade_statistics WHERE id IN
    (SELECT id FROM (SELECT id, minute FROM brigade_statistics ORDER BY id LIMIT 300) WHERE minute < NEW.minute - 1440);
END;
CREATE TABLE brigade_events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, job INTEGER NOT NULL, queue TEXT NOT NULL, task TEXT,
  kind TEXT NOT NULL, state INTEGER NOT NULL, attempt INTEGER NOT NULL, reason TEXT, cost TEXT
) STRICT;
CREATE TRIGGER brigade_events_trim AFTER INSERT ON brigade_events WHEN NEW.seq % 500 = 0
BEGIN
  DELETE FROM brigade_events WHERE seq <= NEW.seq - 20000;
END;
CREATE TABLE brigade_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"];

pub(super) const VERSION: usize = STEPS.len();

/// Leases of an earlier boot that are ended in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1000;
/// Prepared statements that are kept: all that there are, and some.
const STATEMENTS_MAX: usize = 256;

/// Opens the file, makes it safe, and brings its schema up to date.
///
/// # Errors
///
/// `Unsupported` for a file of a later version, `Os` for what the system refuses.
pub(super) fn open(config: &SqliteConfig, busy: Duration) -> Result<Connection, Error> {
    let connection = connect(config, busy)?;
    migrate(&connection, config.shared)?;
    Ok(connection)
}

/// Opens the file as it is.
///
/// # Errors
///
/// `Os` for what the system refuses.
pub(super) fn connect(config: &SqliteConfig, busy: Duration) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if let Some(path) = &config.path {
        refuse::broken_set(path)?;
        make_private(path);
    }
    let connection = match &config.path {
        Some(path) => Connection::open_with_flags(path, flags)
            .map_err(|e| sql_error(&format!("open {}", path.display()), e))?,
        None => {
            Connection::open_in_memory().map_err(|e| sql_error("open a database in memory", e))?
        }
    };
    prepare(&connection, config.safety, busy, config.path.is_some())?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Makes a new file that only its owner can read, and so its log and index, to which SQLite gives
/// the same mode. One that is there keeps the mode that it has. It is made without being opened:
/// closing it would give up the locks of another connection of this process.
fn make_private(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    // If this fails, SQLite has the better error.
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::RegularFile, mode, 0).ok();
}

fn prepare(
    connection: &Connection,
    safety: Safety,
    busy: Duration,
    in_file: bool,
) -> Result<(), Error> {
    let set = |e| sql_error("set up the database", e);
    connection.busy_timeout(busy).map_err(set)?;
    if in_file {
        let mode = use_wal(connection, busy).map_err(set)?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "set up the database: its journal stays {mode:?}, it needs WAL (not on a \
                        network filesystem)"
                ),
            ));
        }
    }
    // Otherwise a statement with a bound LIMIT is planned again each time it runs.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(set)?;
    let synchronous = match safety {
        Safety::Full => "FULL",
        Safety::Normal => "NORMAL",
    };
    // `file` checkpoints, after the callers were answered: SQLite itself does it within a commit.
    let pragmas = format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA trusted_schema = OFF; PRAGMA cache_size = \
            -16384; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = {LOG_BYTES_MAX}; PRAGMA \
            wal_autocheckpoint = 0;"
    );
    connection.execute_batch(&pragmas).map_err(set)
}

/// Turns a new file to the write-ahead log. Two that do so at once would each wait for the other's
/// lock, so SQLite refuses one of them at once, whatever the busy timeout is; the other is done in
/// a moment.
fn use_wal(connection: &Connection, busy: Duration) -> rusqlite::Result<String> {
    let until = Instant::now() + busy;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < until =>
            {
                // The thread is the connection's own; SQLite waits in the same way.
                std::thread::park_timeout(Duration::from_millis(2));
            }
            answer => return answer,
        }
    }
}

fn migrate(connection: &Connection, shared: bool) -> Result<(), Error> {
    let read = |e| sql_error("read the database's version", e);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(read)?;
    let migrated = migrate_within(connection, shared);
    let end = if migrated.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    connection
        .execute_batch(end)
        .map_err(|e| sql_error("bring the database up to date", e))?;
    migrated?;
    forget_old_boots(connection)
}

fn migrate_within(connection: &Connection, shared: bool) -> Result<(), Error> {
    let read = |e| sql_error("read the database's version", e);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(read)?;
    let version = version(connection)?;
    let Some(steps) = STEPS.get(version..) else {
        let text = format!(
            "open a job file of schema version {version}: this build knows up to {VERSION}; use a \
                newer one"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    let write = |e| sql_error("bring the database up to date", e);
    if version == 0 && tables > 0 && !shared {
        let text = "open a database with tables of another program: to keep jobs in the same \
            file, open it as sqlite:app.db?shared=true";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    refuse::lost_tables(connection, tables)?;
    if tables == 0 {
        connection
            .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}"))
            .map_err(write)?;
    }
    if steps.is_empty() {
        return Ok(());
    }
    for step in steps {
        connection.execute_batch(step).map_err(write)?;
    }
    connection
        .execute(
            "INSERT OR REPLACE INTO brigade_facts VALUES ('schema', ?1)",
            [VERSION.to_string()],
        )
        .map_err(write)?;
    Ok(())
}

/// The version of the tables; 0 if there are none. It stands in a table of ours, because the file,
/// and so its `user_version`, may be an application's own.
pub(super) fn version(connection: &Connection) -> Result<usize, Error> {
    let read = |e| sql_error("read the database's version", e);
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('brigade_facts', 'brigade_jobs')";
    let known: i64 = connection
        .query_row(sql, [], |row| row.get(0))
        .map_err(read)?;
    if known == 0 {
        return Ok(0);
    }
    let version = connection.query_row(
        "SELECT value FROM brigade_facts WHERE name = 'schema'",
        [],
        |row| row.get::<_, String>(0),
    );
    let version = version
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|version| *version > 0);
    version.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "open a job file without a version: its brigade_ tables are not ours, or damaged",
        )
    })
}

/// Leases are times of the boot clock: those of an earlier boot mean nothing, and their holders are
/// gone. Each names its holder's boot, so that this ends none that another process has meanwhile
/// been given; the last statement notes that it is done.
fn forget_old_boots(connection: &Connection) -> Result<(), Error> {
    // An earlier boot cannot be recognised where this cannot be read.
    let Some(boot) = brigade_runtime::owner::boot() else {
        return Ok(());
    };
    let forget = || {
        let sql = "SELECT value FROM brigade_facts WHERE name = 'boot'";
        let known = connection
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .optional()?;
        if known.as_deref() == Some(boot) {
            return Ok(());
        }
        let sql = "UPDATE brigade_jobs SET lease_until = 0 WHERE id IN (SELECT id FROM \
            brigade_jobs INDEXED BY brigade_jobs_leased
                     WHERE state = 3 AND lease_until > 0 AND instr(coalesce(holder, ''), '-' || ?1 \
                     || '-') = 0 LIMIT ?2)";
        while connection.execute(sql, (boot, FORGOTTEN_AT_ONCE))? > 0 {}
        connection.execute(
            "DELETE FROM brigade_consumers WHERE instr(holder, '-' || ?1 || '-') = 0",
            [boot],
        )?;
        connection.execute(
            "DELETE FROM brigade_live_consumers WHERE instr(holder, '-' || ?1 || '-') = 0",
            [boot],
        )?;
        // Events whose commits were not synced may be lost, and their numbers given again.
        connection.execute(
            "UPDATE brigade_facts SET value = '0' || substr(value, instr(value, ' ')) WHERE name = \
                'recording'",
            [],
        )?;
        connection.execute(
            "INSERT OR REPLACE INTO brigade_facts VALUES ('boot', ?1)",
            [boot],
        )?;
        Ok(())
    };
    forget().map_err(|e| sql_error("look for leases of an earlier boot", e))
}

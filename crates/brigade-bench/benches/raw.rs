//! Plain SQLite on the same disk: the rows of a queue, the two indexes that every queue needs, and
//! as many rows in a transaction as Brigade gathers.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::jobs::{PAYLOAD, on_disk};
use crate::load::Result;

/// Jobs whose rows fill a write-ahead log.
pub(crate) const LOG_FULL: usize = 50_000;

/// One connection that syncs every commit.
pub(crate) struct Raw {
    connection: Connection,
    _directory: TempDir,
}

impl Raw {
    pub(crate) fn open() -> Result<Self> {
        let directory = on_disk()?;
        let connection = connect(&directory.path().join("raw.db"))?;
        connection.execute_batch(
            "CREATE TABLE jobs (
               id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, payload TEXT NOT NULL, \
               task TEXT,
               state INTEGER NOT NULL DEFAULT 0, priority INTEGER NOT NULL DEFAULT 0, due INTEGER \
               NOT NULL DEFAULT 0,
               token INTEGER NOT NULL DEFAULT 0, lease_until INTEGER, holder TEXT, attempts \
               INTEGER NOT NULL DEFAULT 0,
               pushed_at INTEGER NOT NULL) STRICT;
             CREATE INDEX ready ON jobs (queue, priority DESC, id) WHERE state = 0;
             CREATE INDEX leased ON jobs (lease_until) WHERE state = 3;",
        )?;
        Ok(Self {
            connection,
            _directory: directory,
        })
    }

    /// One whose write-ahead log has come to its full length, as it soon does in use: a commit no
    /// longer lengthens a file.
    pub(crate) fn open_worn() -> Result<Self> {
        let raw = Self::open()?;
        raw.push(LOG_FULL)?;
        Ok(raw)
    }

    fn commit<T>(&self, work: impl FnOnce() -> rusqlite::Result<T>) -> Result<T> {
        let run = |sql: &str| self.connection.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE")?;
        let done = work()?;
        run("COMMIT")?;
        Ok(done)
    }

    pub(crate) fn push(&self, rows: usize) -> Result<()> {
        self.commit(|| {
            let sql = "INSERT INTO jobs (queue, payload, task, pushed_at) VALUES (?1, ?2, ?3, ?4)";
            let mut insert = self.connection.prepare_cached(sql)?;
            (0..rows).try_for_each(|_| {
                insert
                    .execute(params!["noop", PAYLOAD, "noop", 1_700_000_000_000_i64])
                    .map(drop)
            })
        })
    }

    /// The first ready ones, by their ids and payloads.
    fn lease(&self, rows: usize) -> Result<Vec<(i64, String)>> {
        self.commit(|| {
            let sql = "SELECT id, payload FROM jobs WHERE queue = ?1 AND state = 0 ORDER BY \
                priority DESC, id LIMIT ?2";
            let mut select = self.connection.prepare_cached(sql)?;
            let found = select.query_map(
                params!["noop", i64::try_from(rows).unwrap_or(i64::MAX)],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let found = found.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
            let sql = "UPDATE jobs SET state = 3, token = token + 1, attempts = attempts + 1, \
                lease_until = ?2, holder = ?3 WHERE id = ?1";
            let mut lease = self.connection.prepare_cached(sql)?;
            for (id, _) in &found {
                lease.execute(params![id, 1_000_000_000_i64, "12345-67890"])?;
            }
            Ok(found)
        })
    }

    fn ack(&self, jobs: &[(i64, String)]) -> Result<()> {
        self.commit(|| {
            let mut delete = self
                .connection
                .prepare_cached("DELETE FROM jobs WHERE id = ?1 AND state = 3 AND token = ?2")?;
            jobs.iter()
                .try_for_each(|(id, _)| delete.execute(params![id, 1]).map(drop))
        })
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;",
    )?;
    Ok(connection)
}

/// Rows per second with so many in each commit.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn push_rate(rows: usize, time: Duration) -> Result<f64> {
    let raw = Raw::open()?;
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        raw.push(rows)?;
        count += rows;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Jobs per second: all are pushed, then leased and deleted, so many in each commit.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn cycle_rate(rows: usize, time: Duration) -> Result<f64> {
    let raw = Raw::open()?;
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time / 3 {
        raw.push(rows)?;
        count += rows;
    }
    let mut left = count;
    while left > 0 {
        let leased = raw.lease(rows)?;
        assert!(
            !leased.is_empty() && leased.iter().all(|(_, payload)| payload == PAYLOAD),
            "the jobs come back"
        );
        raw.ack(&leased)?;
        left -= leased.len();
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

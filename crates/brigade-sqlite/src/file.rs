//! The file under a connection: whether it is still where it was opened, and how large its log has
//! grown.
//!
//! The log is merged into the file (a checkpoint) here and never by SQLite's own rule, which does
//! it at the end of a commit, before the caller gets its answer. Each checkpoint is small, so that
//! the next operation waits shortly; it takes no lock that others need. Of several processes, the
//! one whose commit passes the limit does it, which is mostly the one that writes most.
//!
//! A connection goes on in a file that was moved, and no other process would see what it writes. So
//! each transaction looks whether the names still stand for the files that were opened. They are
//! looked at by name and never opened: closing any descriptor of a file gives up this process's
//! locks on it (fcntl(2)).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row};

use super::config::{SqliteConfig, log_of};
use crate::error::{Error, ErrorKind};

/// Pages of the log that are not yet in the file, from which on they are merged: 4 MiB, as SQLite
/// itself does it.
const PAGES_MAX: i64 = 1000;
/// Pages that may be merged while all other processes wait; more only if the log has grown to twice
/// its size, so that no load makes it grow without end.
const PAGES_LEFT_MAX: i64 = 100;
/// A log of this size is cut. A log that is merged as a whole is written from its start
/// again, but never gets shorter.
pub(super) const LOG_BYTES_MAX: u64 = 16 << 20;
/// Before the same is tried again while a reader needs the log.
const AGAIN: Duration = Duration::from_millis(250);

/// How long another process may hold the file before an operation fails.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Which file a name stands for: its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    /// `None` if there is no file of that name.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(file) => Ok(Some(Self(file.dev(), file.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(super) struct File {
    /// The file and its log as they were opened, and the link to the file. None for a database in
    /// memory.
    opened: Vec<(PathBuf, FileId)>,
    log: Option<PathBuf>,
    not_before: Option<Instant>,
}

impl File {
    /// Of a connection that has just been opened.
    pub(super) fn of(config: &SqliteConfig) -> Self {
        let log = config.path.as_deref().map(log_of);
        let names = [&config.path, &log, &config.link];
        let identify = |name: PathBuf| {
            FileId::of(&name)
                .ok()
                .flatten()
                .map(|identity| (name, identity))
        };
        let opened = names
            .into_iter()
            .flatten()
            .cloned()
            .filter_map(identify)
            .collect();
        Self {
            opened,
            log,
            not_before: None,
        }
    }

    /// Whether the names still stand for the files that were opened.
    ///
    /// # Errors
    ///
    /// `Closed`, if they do not.
    pub(super) fn check_place(&self) -> Result<(), Error> {
        for (name, identity) in &self.opened {
            let what = match FileId::of(name) {
                Ok(None) => "was moved or deleted",
                Ok(Some(other)) if other != *identity => "was replaced by another file",
                _ => continue,
            };
            let text = format!(
                "use a broker whose file {} {what} since it was opened: connect again to use what \
                    is there now",
                name.display()
            );
            return Err(Error::new(ErrorKind::Closed, text));
        }
        Ok(())
    }

    /// Merges the log into the file if it has grown, and cuts it if it has grown too large and no
    /// reader needs it. Outside of a transaction.
    pub(super) fn keep_log_small(&mut self, connection: &mut Connection) {
        let Some(log) = &self.log else { return };
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        let bytes = fs::metadata(log).map_or(0, |log| log.len());
        let (is_large, is_too_large) = (bytes > LOG_BYTES_MAX, bytes > 2 * LOG_BYTES_MAX);
        if !is_large && pages_to_merge(connection) <= PAGES_MAX {
            return;
        }
        let left = merge(connection, "PRAGMA wal_checkpoint(PASSIVE)");
        let mut is_done = left.is_some_and(|left| left <= PAGES_MAX);
        if is_large && left.is_some_and(|left| is_too_large || left <= PAGES_LEFT_MAX) {
            // This locks writers out while it does what is left, and does not wait for readers for
            // long.
            connection.busy_handler(Some(wait_shortly)).ok();
            is_done = merge(connection, "PRAGMA wal_checkpoint(TRUNCATE)").is_some();
            connection.busy_handler(Some(wait_for_lock)).ok();
        }
        self.not_before = (!is_done).then(|| Instant::now() + AGAIN);
    }
}

/// Another process holds the file, mostly while a commit of its is synced. SQLite's own waits begin
/// at a millisecond, which is as long as several commits.
#[expect(
    clippy::disallowed_methods,
    reason = "the database thread itself, which has nothing else to do"
)]
pub(super) fn wait_for_lock(tries: i32) -> bool {
    const SHORT: Duration = Duration::from_micros(50);
    const LONG: Duration = Duration::from_millis(1);
    const SHORT_TRIES: u32 = 100;
    let tries = tries.unsigned_abs();
    std::thread::sleep(if tries < SHORT_TRIES { SHORT } else { LONG });
    SHORT * tries.min(SHORT_TRIES) + LONG * tries.saturating_sub(SHORT_TRIES) < BUSY_TIMEOUT
}

#[expect(clippy::disallowed_methods, reason = "the database thread itself")]
fn wait_shortly(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(50));
    tries < 100
}

/// Pages of the log that are not in the file yet.
fn pages_to_merge(connection: &Connection) -> i64 {
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let counted = connection
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")
        .and_then(|mut statement| statement.query_row([], read));
    counted.map_or(0, |(log, merged)| log - merged)
}

/// Runs a checkpoint. The pages that it left, for example as a reader needs them; `None` if it
/// could not run.
fn merge(connection: &Connection, pragma: &str) -> Option<i64> {
    let read = |row: &Row<'_>| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?]);
    match connection.query_row(pragma, [], read) {
        Ok([0, log, merged]) => Some(log - merged),
        _ => None,
    }
}

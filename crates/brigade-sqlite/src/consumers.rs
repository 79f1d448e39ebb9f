//! The consumers that are alive: a row for each, with its process and the moment, by the boot
//! clock, until which it is known to live.
//!
//! A consumer whose process has ended is not listed any more, whatever its row says: all processes
//! of a file are of one host. Each announcement removes rows that have run out.

use std::time::Duration;

use rusqlite::params;

use super::store::{Store, millis};
use crate::error::{Error, ErrorKind};
use brigade_core::store::LiveConsumer;
use brigade_runtime::owner::{own_name, runs};

/// The most consumers that are listed.
const LISTED_MAX: i64 = 10_000;
/// Rows of others that are removed at once.
const REMOVED_MAX: i64 = 200;

impl Store<'_> {
    pub(super) fn announce_consumer(
        &self,
        consumer: &LiveConsumer,
        lasts: Duration,
    ) -> Result<(), Error> {
        let text = serde_json::to_string(consumer)
            .map_err(|e| Error::new(ErrorKind::Encode, "write a consumer").with_source(e))?;
        let until = self.now.boot.saturating_add(millis(lasts));
        let sql = "INSERT OR REPLACE INTO brigade_live_consumers (id, holder, until, consumer) \
            VALUES (?1, ?2, ?3, ?4)";
        let values = params![consumer.id, own_name(), until, text];
        self.execute("announce a consumer", sql, values)?;
        let sql = "DELETE FROM brigade_live_consumers WHERE id IN (SELECT id FROM \
            brigade_live_consumers WHERE until < ?1 LIMIT ?2)";
        self.execute("forget consumers", sql, params![self.now.boot, REMOVED_MAX])
            .map(drop)
    }

    pub(super) fn retire_consumer(&self, id: &str) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_live_consumers WHERE id = ?1";
        self.execute("retire a consumer", sql, params![id])
            .map(drop)
    }

    /// Those that a later version of this library wrote may be unreadable, and are left out.
    pub(super) fn consumers(&self) -> Result<Vec<LiveConsumer>, Error> {
        let sql = "SELECT holder, consumer FROM brigade_live_consumers WHERE until > ?1 ORDER BY \
            id LIMIT ?2";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        let values = params![self.now.boot, LISTED_MAX];
        let rows = self.rows("list consumers", sql, values, read)?;
        let live = rows.iter().filter(|(holder, _)| runs(holder));
        Ok(live
            .filter_map(|(_, text)| serde_json::from_str(text).ok())
            .collect())
    }
}

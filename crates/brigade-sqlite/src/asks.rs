//! Who asks for jobs, and who holds some: what a file knows of the processes that use it.
//!
//! A process notes each set of queues that it asks for, and renews that every [`NOTE_EVERY`]: one
//! row, however many queues there are. It notes as often that it hands out leases to itself, so
//! that other processes need not go through all leases to find holders that are gone.
//!
//! A holder is gone when its process has ended with all of its workers (`process::owner`). Its
//! leases are then ended by the next sweep of any process (`sweep`).

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::params;

use super::store::{Store, millis};
use crate::error::{Error, ErrorKind};
use brigade_core::store::Queues;
use brigade_runtime::owner::{Left, own_name, runs};

/// A consumer that has not asked for this long is none.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(60);
/// How often a waiting consumer renews its note.
const NOTE_EVERY: Duration = Duration::from_secs(20);
/// Sets of queues that one process is noted with. One that asks for ever new ones is noted with the
/// newest.
const ASKS_MAX: usize = 64;
/// Notes of others that are removed at once.
const REMOVED_MAX: i64 = 200;
/// How often it is looked for holders that are gone: their jobs stand before all others.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For so long after a holder's end nothing is handed out while workers of it are left, as its jobs
/// stand before all others. They are being killed, so they end within milliseconds; those that do
/// not are waited for by nothing but the holder's jobs.
const PATIENCE: Duration = Duration::from_millis(300);
/// The same while workers of one are ending.
const LOOK_SOON: Duration = Duration::from_millis(20);

impl Store<'_> {
    /// Whether it is time to note that this process asks for these queues.
    pub(super) fn is_ask_to_note(&self, queues: &Queues) -> bool {
        self.is_time(
            self.cache.borrow().asked.get(&queues.number()).copied(),
            NOTE_EVERY,
        )
    }

    fn is_time(&self, last: Option<i64>, every: Duration) -> bool {
        last.is_none_or(|last| self.now.boot.saturating_sub(last) >= millis(every))
    }

    /// Notes that this process asks for jobs of these queues, now and then.
    pub(super) fn note_ask(&self, queues: &Queues) -> Result<(), Error> {
        if !self.is_ask_to_note(queues) {
            return Ok(());
        }
        let number = queues.number();
        // As SQLite has them, and as good as any other number.
        let asks = i64::from_ne_bytes(number.to_ne_bytes());
        let values = params![own_name(), asks, self.now.boot];
        let sql = "UPDATE brigade_consumers SET asked_at = ?3 WHERE holder = ?1 AND asks = ?2";
        if self.execute("note a consumer", sql, values)? == 0 {
            let names = serde_json::to_string(queues.names()).map_err(|e| {
                Error::new(ErrorKind::Encode, "write the names of queues").with_source(e)
            })?;
            let sql = "INSERT INTO brigade_consumers (holder, asks, asked_at, queues) VALUES (?1, \
                ?2, ?3, ?4)";
            self.execute(
                "note a consumer",
                sql,
                params![own_name(), asks, self.now.boot, names],
            )?;
        }
        self.remember(number)?;
        self.forget_old_notes()
    }

    fn remember(&self, number: u64) -> Result<(), Error> {
        let mut cache = self.cache.borrow_mut();
        if cache.asked.len() >= ASKS_MAX {
            cache.asked.clear();
            let asks = i64::from_ne_bytes(number.to_ne_bytes());
            let sql = "DELETE FROM brigade_consumers WHERE holder = ?1 AND asks <> ?2";
            self.execute(
                "forget what was asked for before",
                sql,
                params![own_name(), asks],
            )?;
        }
        cache.asked.insert(number, self.now.boot);
        Ok(())
    }

    /// Removes notes of processes that are long gone, or never come back.
    fn forget_old_notes(&self) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_consumers WHERE (holder, asks) IN
                     (SELECT holder, asks FROM brigade_consumers WHERE asked_at < ?1 LIMIT ?2)";
        self.execute(
            "forget consumers",
            sql,
            params![self.asked_since(), REMOVED_MAX],
        )?;
        let sql =
            "DELETE FROM brigade_holders WHERE holder IN (SELECT holder FROM brigade_holders \
            WHERE seen < ?1 AND NOT EXISTS
                     (SELECT 1 FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE state = 3 \
                     AND holder = brigade_holders.holder) LIMIT ?2)";
        self.execute(
            "forget holders",
            sql,
            params![self.asked_since(), REMOVED_MAX],
        )
        .map(drop)
    }

    /// Notes that this process has leases, now and then.
    pub(super) fn note_holder(&self) -> Result<(), Error> {
        if !self.is_time(self.cache.borrow().held, NOTE_EVERY) {
            return Ok(());
        }
        let sql = "INSERT OR REPLACE INTO brigade_holders (holder, seen) VALUES (?1, ?2)";
        self.execute("note a holder", sql, params![own_name(), self.now.boot])?;
        self.cache.borrow_mut().held = Some(self.now.boot);
        Ok(())
    }

    /// Whether a look at the holders is recent enough for a hand-out; `at_once`: for one that does
    /// not wait.
    pub(super) fn knows_the_gone(&self, at_once: bool) -> bool {
        let cache = self.cache.borrow();
        let every = if cache.is_ending || at_once {
            LOOK_SOON
        } else {
            LOOK_EVERY
        };
        !self.is_time(cache.looked, every)
    }

    /// Looks which holders are gone, now and then, or `at_once`. To be called outside of a
    /// transaction: it looks at all processes.
    pub(super) fn look_for_the_gone(&self, at_once: bool) -> Result<(), Error> {
        if !at_once && self.knows_the_gone(false) {
            return Ok(());
        }
        let holders = self.rows(
            "list holders",
            "SELECT holder FROM brigade_holders",
            &[],
            |row| row.get::<_, String>(0),
        )?;
        let mut cache = self.cache.borrow_mut();
        cache.looked = Some(self.now.boot);
        (cache.is_ending, cache.is_waiting_for_end) = (false, false);
        cache.gone.clear();
        for holder in &holders {
            match cache.descendants.left(holder) {
                Left::Runs => {}
                Left::Workers(ended_for) => {
                    cache.is_ending = true;
                    cache.is_waiting_for_end |= ended_for < PATIENCE;
                }
                Left::Nothing => cache.gone.push(holder.clone()),
            }
        }
        cache.descendants.keep_only(&holders);
        Ok(())
    }

    /// Whether a consumer asked for jobs of this queue lately, or has one.
    pub(super) fn has_consumer(&self, queue: &str) -> Result<bool, Error> {
        let sql = "SELECT DISTINCT holder FROM brigade_consumers, json_each(queues) AS asked WHERE \
            asked_at >= ?2 AND asked.value = ?1";
        let holders = self.rows(
            "find consumers",
            sql,
            params![queue, self.asked_since()],
            |row| row.get::<_, String>(0),
        )?;
        Ok(holders.iter().any(|holder| runs(holder)) || self.has_leases(queue)?)
    }

    fn has_leases(&self, queue: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE state = 3 AND \
            queue = ?1 LIMIT 1";
        Ok(self
            .row("find leases", sql, params![queue], |_| Ok(()))?
            .is_some())
    }

    /// The queues that have a consumer in the sense of [`has_consumer`](Store::has_consumer).
    pub(super) fn queues_with_consumers(&self) -> Result<HashSet<String>, Error> {
        let sql = "SELECT holder, queues FROM brigade_consumers WHERE asked_at >= ?1";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        let asks = self.rows("list consumers", sql, params![self.asked_since()], read)?;
        let of_live = asks.iter().filter(|(holder, _)| runs(holder));
        let mut queues: HashSet<String> = of_live
            .flat_map(|(_, names)| serde_json::from_str::<Vec<String>>(names).unwrap_or_default())
            .collect();
        let sql = "SELECT DISTINCT queue FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE \
            state = 3";
        queues.extend(self.rows("list queues with leases", sql, &[], |row| {
            row.get::<_, String>(0)
        })?);
        Ok(queues)
    }

    fn asked_since(&self) -> i64 {
        self.now.boot.saturating_sub(millis(ASKED_WITHIN))
    }
}

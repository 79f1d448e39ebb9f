//! Settling: how leases and jobs end.

use std::time::{Duration, UNIX_EPOCH};

use rusqlite::params;

use super::store::{Store, code, millis, row_id};
use crate::broker::{Ending, Order, Ordered, Settled, Settlement};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::job::{AttemptKind, AttemptRecord, JobId, JobState};

/// Attempts kept in a job's history.
const HISTORY_MAX: usize = 20;
/// How long a cancelled job can be looked at.
const CANCELLED_KEPT: Duration = Duration::from_secs(24 * 3600);

impl Store<'_> {
    /// Ends a lease, if the token still holds it.
    pub(super) fn settle(&self, settlement: &Settlement) -> Result<Settled, Error> {
        let id = row_id(&settlement.id);
        let sql = "SELECT cancel FROM brigade_jobs WHERE id = ?1 AND state = 3 AND token = ?2 AND lease_until >= ?3";
        let values = params![id, settlement.token, self.now.boot];
        let Some(cancel) = self.row("look up a lease", sql, values, |row| row.get::<_, Option<String>>(0))? else {
            return Ok(Settled::Stale);
        };
        match &settlement.ending {
            Ending::Ack(result) => self.done(id, settlement.account.keep, result.as_deref())?,
            Ending::Fail { kind, reason, certificate, retry_in, permanent } => {
                self.note(id, *kind, reason, certificate.clone())?;
                let pause = settlement.account.pause_after(*kind, *retry_in, *permanent);
                self.failed(id, *kind, reason, pause)?;
            }
            Ending::GiveBack { kind, reason, after } => self.give_back(id, *kind, reason, *after)?,
            Ending::DeadLetter(reason) => self.end_job(id, JobState::Dead, Some(reason), None)?,
            Ending::Cancelled(reason) => self.cancelled(id, reason)?,
            Ending::Extend(time) => {
                let until = self.now.boot.saturating_add(millis(*time));
                self.execute("extend a lease", "UPDATE brigade_jobs SET lease_until = ?2 WHERE id = ?1", params![id, until])?;
                return Ok(Settled::Accepted(cancel));
            }
        }
        Ok(Settled::Accepted(None))
    }

    fn done(&self, id: i64, keep: Option<Duration>, result: Option<&str>) -> Result<(), Error> {
        let Some(keep) = keep else { return self.remove_job(id) };
        let remove_at = self.now.wall.saturating_add(millis(keep));
        self.execute("keep a result", "UPDATE brigade_jobs SET result = ?2 WHERE id = ?1", params![id, result])?;
        self.end_job(id, JobState::Done, None, Some(remove_at))
    }

    fn failed(&self, id: i64, kind: AttemptKind, reason: &str, pause: Option<Duration>) -> Result<(), Error> {
        let column = if kind == AttemptKind::Crashed {
            "UPDATE brigade_jobs SET crashed = crashed + 1 WHERE id = ?1"
        } else {
            "UPDATE brigade_jobs SET failed = failed + 1 WHERE id = ?1"
        };
        self.execute("count an attempt", column, params![id])?;
        match pause {
            Some(pause) => self.back_to_queue(id, JobState::Retrying, pause),
            None => self.end_job(id, JobState::Dead, Some(reason), None),
        }
    }

    /// Puts a job back where it was, uncharged.
    pub(super) fn give_back(&self, id: i64, kind: AttemptKind, reason: &str, after: Duration) -> Result<(), Error> {
        self.note(id, kind, reason, None)?;
        if kind == AttemptKind::Interrupted {
            self.execute("count an attempt", "UPDATE brigade_jobs SET interrupted = interrupted + 1 WHERE id = ?1", params![id])?;
        }
        // Somebody wanted it cancelled while it was leased: then it is not run again.
        let cancel =
            self.row("look up a job", "SELECT cancel FROM brigade_jobs WHERE id = ?1", params![id], |row| row.get::<_, Option<String>>(0))?;
        match cancel.flatten() {
            Some(reason) => self.cancelled(id, &reason),
            None => self.back_to_queue(id, JobState::Scheduled, after),
        }
    }

    /// Ready at once, or later in the given state. Its id has not changed, so neither has its place.
    fn back_to_queue(&self, id: i64, later: JobState, after: Duration) -> Result<(), Error> {
        let (state, due) = if after.is_zero() { (JobState::Ready, 0) } else { (later, self.now.wall.saturating_add(millis(after))) };
        let sql = "UPDATE brigade_jobs SET state = ?2, due = ?3, lease_until = NULL, holder = NULL WHERE id = ?1";
        self.execute("give a job back", sql, params![id, code(state), due]).map(drop)
    }

    fn cancelled(&self, id: i64, reason: &str) -> Result<(), Error> {
        let remove_at = self.now.wall.saturating_add(millis(CANCELLED_KEPT));
        self.end_job(id, JobState::Cancelled, Some(reason), Some(remove_at))
    }

    /// Settles a job for good; the next of its key may run.
    pub(super) fn end_job(&self, id: i64, state: JobState, reason: Option<&str>, remove_at: Option<i64>) -> Result<(), Error> {
        let sql = "UPDATE brigade_jobs SET state = ?2, reason = ?3, remove_at = ?4, due = 0, lease_until = NULL, holder = NULL WHERE id = ?1 RETURNING queue, key";
        let ended = self.row("end a job", sql, params![id, code(state), reason, remove_at], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.release_key(ended)
    }

    pub(super) fn remove_job(&self, id: i64) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id = ?1 RETURNING queue, key";
        let ended = self.row("remove a job", sql, params![id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.release_key(ended)
    }

    /// Lets the first of a key's unsettled jobs go on, if it was held.
    fn release_key(&self, ended: Option<(String, Option<String>)>) -> Result<(), Error> {
        let Some((queue, Some(key))) = ended else { return Ok(()) };
        let sql = "UPDATE brigade_jobs SET state = 0 WHERE state = 2 AND id =
                     (SELECT min(id) FROM brigade_jobs WHERE queue = ?1 AND key = ?2 AND state < 5)";
        self.execute("release a key", sql, params![queue, key]).map(drop)
    }

    /// Adds an attempt to the job's history.
    fn note(&self, id: i64, kind: AttemptKind, reason: &str, certificate: Option<Box<Certificate>>) -> Result<(), Error> {
        let sql = "SELECT history, attempts FROM brigade_jobs WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, u32>(1)?));
        let Some((history, attempt)) = self.row("read a history", sql, params![id], read)? else { return Ok(()) };
        let mut history: Vec<AttemptRecord> = history.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.now.wall).unwrap_or(0));
        history.push(AttemptRecord { attempt, at, kind, reason: reason.to_owned(), certificate });
        let over = history.len().saturating_sub(HISTORY_MAX);
        history.drain(..over);
        let text = serde_json::to_string(&history)
            .map_err(|e| Error::new(crate::ErrorKind::Encode, format!("write a history: {e}")).with_source(e))?;
        self.execute("write a history", "UPDATE brigade_jobs SET history = ?2 WHERE id = ?1", params![id, text]).map(drop)
    }

    // -- orders

    pub(super) fn order(&self, order: &Order) -> Result<Ordered, Error> {
        let changed = |count: usize| if count == 0 { Ordered::Nothing } else { Ordered::Changed(count as u64) };
        match order {
            Order::Cancel(id, reason) => self.cancel(id, reason),
            Order::Retry(id) => {
                let sql = "UPDATE brigade_jobs SET state = 0, failed = 0, crashed = 0, reason = NULL, due = 0 WHERE id = ?1 AND state = 6";
                self.execute("retry a job", sql, params![row_id(id)]).map(changed)
            }
            Order::Delete(id) => {
                let sql = "SELECT 1 FROM brigade_jobs WHERE id = ?1 AND state <> 3";
                let found = self.row("look up a job", sql, params![row_id(id)], |_| Ok(()))?;
                found.map_or(Ok(Ordered::Nothing), |()| self.remove_job(row_id(id)).map(|()| Ordered::Changed(1)))
            }
            Order::Purge(queue) => {
                let sql = "DELETE FROM brigade_jobs WHERE queue = ?1 AND state IN (0, 1, 2, 4)";
                self.execute("purge a queue", sql, params![queue]).map(changed)
            }
            Order::Manage(..) => {
                let text = "hand jobs to plain clients of a SQLite file: they take them with the brigade command, or from Redis";
                Err(Error::new(crate::ErrorKind::Unsupported, text))
            }
            Order::Limit(queue, limits) => self.set_limits(queue, limits.as_ref()).map(|()| Ordered::Changed(1)),
            Order::Pause(queue) => self.set_paused(queue, true),
            Order::Resume(queue) => self.set_paused(queue, false),
            Order::Schedule(schedule) => self.schedule(schedule),
            Order::Unschedule(name) => self.unschedule(name).map(changed),
        }
    }

    fn cancel(&self, id: &JobId, reason: &str) -> Result<Ordered, Error> {
        let id = row_id(id);
        let state = self.row("look up a job", "SELECT state FROM brigade_jobs WHERE id = ?1", params![id], |row| row.get::<_, i64>(0))?;
        match state {
            Some(3) => {
                self.execute("ask for a cancel", "UPDATE brigade_jobs SET cancel = ?2 WHERE id = ?1", params![id, reason])?;
                Ok(Ordered::Asked)
            }
            Some(0..5) => self.cancelled(id, reason).map(|()| Ordered::Changed(1)),
            _ => Ok(Ordered::Nothing),
        }
    }

    fn set_paused(&self, queue: &str, paused: bool) -> Result<Ordered, Error> {
        let sql =
            "INSERT INTO brigade_queues (queue, paused) VALUES (?1, ?2) ON CONFLICT (queue) DO UPDATE SET paused = ?2 WHERE paused <> ?2";
        let count = self.execute("pause or resume a queue", sql, params![queue, paused])?;
        Ok(if count == 0 { Ordered::Nothing } else { Ordered::Changed(1) })
    }
}

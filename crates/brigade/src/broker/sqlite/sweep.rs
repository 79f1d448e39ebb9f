//! Everything whose time has come, in steps that are short however much that is.
//!
//! Each hand-out begins with a step ([`Store::sweep`]). A step takes at most [`STEP_ROWS`] of each
//! kind and begins no further kind after [`STEP_TIME`]; the next one begins with the kind that was
//! left out. What is left is done by later steps, each a transaction of its own, with
//! [`STEP_PAUSE`] between them, in which other processes get the file. Of several processes one
//! does it: it says so in `brigade_facts`, for as long as [`CLAIM`] without another step.
//!
//! Nothing depends on a sweep having come to a job: a lease that ran out is not accepted, and a job
//! whose time to begin is over is not handed out.

use std::time::{Duration, Instant};

use rusqlite::params;

use super::store::{Store, millis};
use crate::error::Error;
use crate::job::JobState;
use crate::policy::too_late;
use crate::process::own_name;

/// Rows of one kind in one step.
pub(super) const STEP_ROWS: usize = 500;
/// After this time a step begins with no further kind.
const STEP_TIME: Duration = Duration::from_millis(10);
/// Between two steps: longer than others wait between two looks for the lock.
pub(super) const STEP_PAUSE: Duration = Duration::from_millis(3);
/// A process that began to sweep and does not go on within this time is none that sweeps.
const CLAIM: Duration = Duration::from_secs(1);

/// One step of a kind; whether more is left.
type Kind = fn(&Store<'_>) -> Result<bool, Error>;

/// The kinds; each does one step and says whether more is left.
const KINDS: [Kind; 7] = [
    |store| store.expire_leases(),
    |store| store.fire_schedules(),
    |store| store.end_late(),
    |store| store.promote_due(),
    |store| store.cancel_flows(),
    |store| store.remove_ended(),
    |store| store.remove_notes(),
];

fn limit() -> i64 {
    i64::try_from(STEP_ROWS).unwrap_or(i64::MAX)
}

fn is_full(rows: usize) -> bool {
    rows >= STEP_ROWS
}

impl Store<'_> {
    /// One step through everything whose time has come; once in a transaction, which is one moment.
    /// Says whether more is left.
    pub(super) fn sweep(&self) -> Result<bool, Error> {
        if let Some(more) = self.swept.get() {
            return Ok(more);
        }
        let mut more = self.end_leases_of_the_gone()?;
        if !self.is_swept_elsewhere()? {
            let first = self.memo.borrow().turn;
            let began = Instant::now();
            for kind in (0..KINDS.len()).map(|step| (first + step) % KINDS.len()) {
                if began.elapsed() > STEP_TIME {
                    self.memo.borrow_mut().turn = kind;
                    more = true;
                    break;
                }
                more |= KINDS[kind](self)?;
            }
            self.claim(more)?;
        }
        self.swept.set(Some(more));
        Ok(more)
    }

    /// Looks when nothing is due any more; `None` if more steps come first.
    pub(super) fn look_at_now<T>(
        &self,
        look: impl Fn(&Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.is_look {
            if !self.memo.borrow().gone.is_empty() || self.is_overdue()? {
                self.must_write.set(true);
                return Ok(None);
            }
        } else if self.sweep()? {
            return Ok(None);
        }
        look(self).map(Some)
    }

    /// Whether a step would find anything, as far as no other process is at it.
    pub(super) fn is_overdue(&self) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM brigade_jobs WHERE state = 3 AND lease_until < ?1)
                       OR EXISTS (SELECT 1 FROM brigade_schedules WHERE next_at <= ?2)
                       OR EXISTS (SELECT 1 FROM brigade_jobs WHERE begins_by < ?2 AND state IN (0, \
                       1, 2, 4))
                       OR EXISTS (SELECT 1 FROM brigade_jobs WHERE state IN (1, 4) AND due <= ?2)
                       OR EXISTS (SELECT 1 FROM brigade_jobs WHERE remove_at <= ?2)
                       OR EXISTS (SELECT 1 FROM brigade_unique_keys WHERE until <= ?2)
                       OR EXISTS (SELECT 1 FROM brigade_cancels)";
        let found = self.row(
            "look for what is due",
            sql,
            params![self.now.boot, self.now.wall],
            |row| row.get::<_, bool>(0),
        )?;
        Ok(found.unwrap_or(false) && !self.is_swept_elsewhere()?)
    }

    fn is_swept_elsewhere(&self) -> Result<bool, Error> {
        let sql = "SELECT value FROM brigade_facts WHERE name = 'sweeper'";
        let Some(claim) = self.row("look who sweeps", sql, &[], |row| row.get::<_, String>(0))?
        else {
            return Ok(false);
        };
        let Some((holder, until)) = claim.split_once(' ') else {
            return Ok(false);
        };
        let until: i64 = until.parse().unwrap_or(0);
        // One that is far ahead is of another boot.
        let holds = until > self.now.boot && until <= self.now.boot.saturating_add(millis(CLAIM));
        Ok(holds && holder != own_name())
    }

    fn claim(&self, more: bool) -> Result<(), Error> {
        if more {
            let until = self.now.boot.saturating_add(millis(CLAIM));
            let sql = "INSERT OR REPLACE INTO brigade_facts (name, value) VALUES ('sweeper', ?1)";
            return self
                .execute(
                    "say who sweeps",
                    sql,
                    params![format!("{} {until}", own_name())],
                )
                .map(drop);
        }
        let sql = "DELETE FROM brigade_facts WHERE name = 'sweeper' AND value LIKE ?1 || ' %'";
        self.execute("say that nobody sweeps", sql, params![own_name()])
            .map(drop)
    }

    /// Ends leases that ran out: their holders were too late, which is charged to nobody.
    fn expire_leases(&self) -> Result<bool, Error> {
        let sql = "SELECT id FROM brigade_jobs WHERE state = 3 AND lease_until < ?1 ORDER BY \
            lease_until LIMIT ?2";
        let ids = self.rows(
            "find expired leases",
            sql,
            params![self.now.boot, limit()],
            |row| row.get::<_, i64>(0),
        )?;
        for id in &ids {
            self.lose(*id, "its lease ran out")?;
        }
        Ok(is_full(ids.len()))
    }

    /// Ends leases whose holder is no more, nor any worker of its: it was a process of this host.
    fn end_leases_of_the_gone(&self) -> Result<bool, Error> {
        let gone = self.memo.borrow().gone.clone();
        let mut done = 0;
        for holder in &gone {
            let sql = "SELECT id FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE state = 3 \
                AND holder = ?1 LIMIT ?2";
            let room = limit() - done;
            let ids = self.rows(
                "find leases of a dead holder",
                sql,
                params![holder, room],
                |row| row.get::<_, i64>(0),
            )?;
            for id in &ids {
                self.lose(*id, "the process that held it ended")?;
            }
            done += i64::try_from(ids.len()).unwrap_or(0);
            if done >= limit() {
                return Ok(true);
            }
            self.execute(
                "forget a holder",
                "DELETE FROM brigade_holders WHERE holder = ?1",
                params![holder],
            )?;
            self.memo.borrow_mut().gone.retain(|name| name != holder);
        }
        Ok(false)
    }

    /// The latest moment for an attempt to begin, for a job whose time begins now.
    pub(super) fn begins_by(&self, options: &crate::job::JobOptions) -> Option<i64> {
        options
            .retry()
            .within
            .map(|within| self.now.wall.saturating_add(millis(within)))
    }

    /// Sets jobs aside that were to begin by now.
    fn end_late(&self) -> Result<bool, Error> {
        let sql = "SELECT id, failed + crashed FROM brigade_jobs WHERE begins_by < ?1 AND state IN \
            (0, 1, 2, 4) ORDER BY begins_by LIMIT ?2";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?));
        let late = self.rows(
            "find jobs that are too late",
            sql,
            params![self.now.wall, limit()],
            read,
        )?;
        for (id, attempts) in &late {
            self.end_job(*id, JobState::Dead, Some(&too_late(*attempts)), None)?;
        }
        Ok(is_full(late.len()))
    }

    fn promote_due(&self) -> Result<bool, Error> {
        let sql = "UPDATE brigade_jobs SET due = 0, state = CASE WHEN key IS NOT NULL AND
                     (EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                     brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state < 5 AND other.id < brigade_jobs.id)
                      OR EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                      brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state = 3)) THEN 2 ELSE 0 END
                   WHERE id IN (SELECT id FROM brigade_jobs WHERE state IN (1, 4) AND due <= ?1 \
                   ORDER BY due LIMIT ?2)";
        Ok(is_full(self.execute(
            "wake due jobs",
            sql,
            params![self.now.wall, limit()],
        )?))
    }

    fn remove_ended(&self) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id IN (SELECT id FROM brigade_jobs WHERE \
            remove_at <= ?1 ORDER BY remove_at LIMIT ?2)";
        Ok(is_full(self.execute(
            "remove old jobs",
            sql,
            params![self.now.wall, limit()],
        )?))
    }

    /// Removes what was noted for a time.
    fn remove_notes(&self) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_unique_keys WHERE (queue, unique_key) IN (SELECT queue, unique_key FROM \
            brigade_unique_keys WHERE until <= ?1 LIMIT ?2)";
        let unique_keys = self.execute(
            "remove old unique_keys",
            sql,
            params![self.now.wall, limit()],
        )?;
        Ok(is_full(unique_keys))
    }
}

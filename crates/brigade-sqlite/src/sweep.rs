//! Work whose time has come (due, late, expired, ended jobs, long flows), in steps that are short
//! however much of it there is.
//!
//! Each hand-out begins with a step ([`Store::sweep`]). A step has a [`StepBudget`] of rows and
//! time; the next one begins with the kind after the one that used it up. What is left is done by
//! later steps, each a transaction of its own. Between two steps the sweeper pauses as long as the
//! step took ([`pause_after`]), so that other processes get the file. Of several processes one
//! sweeps: it notes that in `brigade_facts`, for as long as [`CLAIM`] without another step.
//!
//! Nothing depends on a sweep having come to a job: a lease that ran out is not accepted, and a job
//! whose time to begin is over is not handed out.

use std::time::Duration;

use rusqlite::params;

use super::budget::{StepBudget, limit_of};
use super::job_change::Cause;
use super::store::{Store, millis};
use crate::error::Error;
use crate::policy::too_late;
use brigade_core::JobEventKind;
use brigade_runtime::owner::own_name;

/// A process that began to sweep and does not go on within this time is none that sweeps.
const CLAIM: Duration = Duration::from_secs(1);

/// Handles at most so many rows of a kind, and returns how many: fewer than the limit if
/// none is left.
type SweepKind = fn(&Store<'_>, usize) -> Result<usize, Error>;

/// The kinds of work.
const KINDS: [SweepKind; 9] = [
    |store, limit| store.expire_leases(limit),
    |store, limit| store.fire_schedules(limit),
    |store, limit| store.end_late(limit),
    |store, limit| store.promote_due(limit),
    |store, limit| store.cancel_flows(limit),
    |store, limit| store.continue_flows(limit),
    |store, limit| store.continue_gathers(limit),
    |store, limit| store.remove_ended(limit),
    |store, limit| store.remove_notes(limit),
];

impl Store<'_> {
    /// One step through everything whose time has come; once in a transaction, which is one moment.
    /// Returns whether more is left.
    pub(super) fn sweep(&self) -> Result<bool, Error> {
        if let Some(more) = self.swept.get() {
            return Ok(more);
        }
        let mut budget = StepBudget::of_sweep();
        let mut more = self.end_leases_of_the_gone(&mut budget)?;
        if !self.is_swept_elsewhere()? {
            let first = self.cache.borrow().turn;
            for kind in (0..KINDS.len()).map(|step| (first + step) % KINDS.len()) {
                if !budget.use_up(|limit| KINDS[kind](self, limit))? {
                    self.cache.borrow_mut().turn = (kind + 1) % KINDS.len();
                    more = true;
                    break;
                }
            }
            self.claim(more)?;
        }
        self.swept.set(Some(more));
        Ok(more)
    }

    /// Looks when nothing is due any more; `None` if more steps come first, or if the end of a job
    /// is passed on in its flow, by whichever process: no look shows half of that.
    pub(super) fn look_at_now<T>(
        &self,
        look: impl Fn(&Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.is_look {
            if !self.cache.borrow().gone.is_empty() || self.is_overdue()? {
                self.must_write.set(true);
                return Ok(None);
            }
        } else if self.sweep()? {
            return Ok(None);
        }
        if self.has_unfinished_flows()? {
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
                       OR EXISTS (SELECT 1 FROM brigade_cancels)
                       OR EXISTS (SELECT 1 FROM brigade_flow_ends)
                       OR EXISTS (SELECT 1 FROM brigade_flow_retries)
                       OR EXISTS (SELECT 1 FROM brigade_gathers)";
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
                    "note which process sweeps",
                    sql,
                    params![format!("{} {until}", own_name())],
                )
                .map(drop);
        }
        let sql = "DELETE FROM brigade_facts WHERE name = 'sweeper' AND value LIKE ?1 || ' %'";
        self.execute("note that no process sweeps", sql, params![own_name()])
            .map(drop)
    }

    /// Ends leases that ran out: their holders were too late, which is not charged to the job.
    fn expire_leases(&self, limit: usize) -> Result<usize, Error> {
        let sql = "SELECT id FROM brigade_jobs WHERE state = 3 AND lease_until < ?1 ORDER BY \
            lease_until LIMIT ?2";
        let ids = self.rows(
            "find expired leases",
            sql,
            params![self.now.boot, limit_of(limit)],
            |row| row.get::<_, i64>(0),
        )?;
        for id in &ids {
            self.lose(*id, "its lease ran out")?;
        }
        Ok(ids.len())
    }

    /// Ends leases whose holder, a process of this host, has ended with all of its workers. Returns
    /// whether some are left.
    fn end_leases_of_the_gone(&self, budget: &mut StepBudget) -> Result<bool, Error> {
        let gone = self.cache.borrow().gone.clone();
        for holder in &gone {
            if !budget.use_up(|limit| self.end_leases_of(holder, limit))? {
                return Ok(true);
            }
            self.execute(
                "forget a holder",
                "DELETE FROM brigade_holders WHERE holder = ?1",
                params![holder],
            )?;
            self.cache.borrow_mut().gone.retain(|name| name != holder);
        }
        Ok(false)
    }

    fn end_leases_of(&self, holder: &str, limit: usize) -> Result<usize, Error> {
        let sql = "SELECT id FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE state = 3 AND \
            holder = ?1 LIMIT ?2";
        let ids = self.rows(
            "find leases of a dead holder",
            sql,
            params![holder, limit_of(limit)],
            |row| row.get::<_, i64>(0),
        )?;
        for id in &ids {
            self.lose(*id, "the process that held it ended")?;
        }
        Ok(ids.len())
    }

    /// Sets jobs aside that were to begin by now.
    fn end_late(&self, limit: usize) -> Result<usize, Error> {
        let sql = "SELECT id, failed + crashed FROM brigade_jobs WHERE begins_by < ?1 AND state IN \
            (0, 1, 2, 4) ORDER BY begins_by LIMIT ?2";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?));
        let late = self.rows(
            "find jobs that are too late",
            sql,
            params![self.now.wall, limit_of(limit)],
            read,
        )?;
        for (id, attempts) in &late {
            let reason = too_late(*attempts);
            self.dead(*id, &reason, Cause::new(JobEventKind::Dead, Some(&reason)))?;
        }
        Ok(late.len())
    }

    /// Each keeps the time at which it fell due: since then it waits.
    fn promote_due(&self, limit: usize) -> Result<usize, Error> {
        let sql = "UPDATE brigade_jobs SET state = CASE WHEN key IS NOT NULL AND
                     (EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                     brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state < 5 AND other.id < brigade_jobs.id)
                      OR EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                      brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state = 3)) THEN 2 ELSE 0 END
                   WHERE id IN (SELECT id FROM brigade_jobs WHERE state IN (1, 4) AND due <= ?1 \
                   ORDER BY due LIMIT ?2)";
        self.execute(
            "wake due jobs",
            sql,
            params![self.now.wall, limit_of(limit)],
        )
    }

    fn remove_ended(&self, limit: usize) -> Result<usize, Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id IN (SELECT id FROM brigade_jobs WHERE \
            remove_at <= ?1 ORDER BY remove_at LIMIT ?2)";
        self.execute(
            "remove old jobs",
            sql,
            params![self.now.wall, limit_of(limit)],
        )
    }

    /// Removes what was noted for a time.
    fn remove_notes(&self, limit: usize) -> Result<usize, Error> {
        let sql = "DELETE FROM brigade_unique_keys WHERE (queue, unique_key) IN (SELECT queue, unique_key FROM \
            brigade_unique_keys WHERE until <= ?1 LIMIT ?2)";
        self.execute(
            "remove old unique_keys",
            sql,
            params![self.now.wall, limit_of(limit)],
        )
    }
}

//! Retries in flows: the end of a dead letter is taken back, and so are those of the jobs behind it
//! that were not run because of it. All of them wait again.
//!
//! A chain may be of any length. A transaction takes back at most `FLOW_STEPS_MAX` (`budget`) ends;
//! the job where it stopped is noted in `brigade_flow_retries`, in the same transaction, and a
//! later step goes on behind it. Until then its dependent looks as if it had not been run: looks
//! wait for the last step (`look_at_now`). If the noted job ends before that step, its dependent is
//! first made to wait, and then that end is counted ([`Store::take_back_noted`]): no end is lost
//! between a retry that is on its way and a flow that follows it.

use std::ops::ControlFlow::{self, Break, Continue};

use rusqlite::{Row, params};

use super::budget::StepBudget;
use super::job_change::Cause;
use super::store::Store;
use crate::error::Error;
use brigade_core::JobEventKind;

/// What becomes of a job that comes back while another one has its unique key.
#[derive(Clone, Copy)]
enum TakenKey {
    /// The retry fails.
    Refuses,
    /// The job goes on without its key, as its retry was accepted in an earlier transaction.
    IsGivenUp,
}

/// A job, and its dependent.
pub(super) struct MemberLink {
    pub(super) job: i64,
    pub(super) dependent: i64,
    pub(super) place: Option<i64>,
}

/// A job that waited for one whose end is taken back.
struct WaitedFor {
    id: i64,
    /// It has ended, without being run.
    has_ended: bool,
    queue: String,
    unique_key: Option<String>,
    behind: Option<MemberLink>,
}

impl WaitedFor {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (id, dependent, place) = (row.get(0)?, row.get::<_, Option<i64>>(4)?, row.get(5)?);
        Ok(Self {
            id,
            has_ended: row.get(1)?,
            queue: row.get(2)?,
            unique_key: row.get(3)?,
            behind: dependent.map(|dependent| MemberLink {
                job: id,
                dependent,
                place,
            }),
        })
    }
}

impl Store<'_> {
    /// Takes the end of a dead letter back with those behind it: they wait for it again. Before it
    /// is itself put back.
    pub(super) fn take_back(&self, id: i64) -> Result<(), Error> {
        if self.forget_end(id)? {
            // It was not counted yet.
            return Ok(());
        }
        let mut behind = self.link_of(id)?;
        while let Some(link) = behind {
            behind = self.take_back_behind(&link, TakenKey::Refuses)?;
            if let Some(next) = &behind
                && !self.has_flow_step()
            {
                return self.note_retry(next.job);
            }
        }
        Ok(())
    }

    fn link_of(&self, id: i64) -> Result<Option<MemberLink>, Error> {
        let sql =
            "SELECT dependent, place FROM brigade_jobs WHERE id = ?1 AND dependent IS NOT NULL";
        let read = |row: &Row<'_>| {
            Ok(MemberLink {
                job: id,
                dependent: row.get(0)?,
                place: row.get(1)?,
            })
        };
        self.row("look for who waited", sql, params![id], read)
    }

    /// Makes the dependent of a job wait for it again. Returns the next one whose end is to be
    /// taken back: the dependent, if it had ended for want of this job.
    fn take_back_behind(
        &self,
        link: &MemberLink,
        taken: TakenKey,
    ) -> Result<Option<MemberLink>, Error> {
        let sql = "SELECT id, state = 6, queue, unique_key, dependent, place FROM brigade_jobs WHERE \
            id = ?1 AND missed > 0 AND (state = 2 AND parents_left > 0 OR state = 6 AND \
            dependent_kind <> 'finally')";
        let values = params![link.dependent];
        let Some(next) = self.row("look for who waited", sql, values, WaitedFor::read)? else {
            return Ok(None);
        };
        if next.has_ended {
            self.see_to_unique_key(&next, taken)?;
        }
        let sql = "UPDATE brigade_jobs SET state = 2, parents_left = parents_left + 1, missed = \
            missed - 1, reason = NULL, ended_at = NULL WHERE id = ?1";
        self.execute("wait again", sql, params![next.id])?;
        if next.has_ended {
            self.note_stored(next.id, &Cause::new(JobEventKind::Retried, None))?;
        }
        self.execute(
            "forget a member",
            "DELETE FROM brigade_parent_results WHERE job = ?1 AND place = ?2",
            params![next.id, link.place],
        )?;
        // An end that was not counted yet is not behind others.
        let goes_on = next.has_ended && !self.forget_end(next.id)?;
        Ok(next.behind.filter(|_| goes_on))
    }

    fn see_to_unique_key(&self, job: &WaitedFor, taken: TakenKey) -> Result<(), Error> {
        match taken {
            TakenKey::Refuses => self.check_unique(job.id, &job.queue, job.unique_key.as_deref()),
            TakenKey::IsGivenUp => {
                let sql = "UPDATE brigade_jobs SET unique_key = NULL WHERE id = ?1 AND EXISTS (SELECT \
                    1 FROM brigade_jobs WHERE queue = ?2 AND unique_key = ?3 AND state < 5)";
                let values = params![job.id, job.queue, job.unique_key];
                self.execute("give up a unique key", sql, values).map(drop)
            }
        }
    }

    // -- what is left to a later transaction

    fn note_retry(&self, id: i64) -> Result<(), Error> {
        let sql = "INSERT OR IGNORE INTO brigade_flow_retries (job) VALUES (?1)";
        self.execute("note a retry", sql, params![id]).map(drop)
    }

    fn forget_retry(&self, id: i64) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_flow_retries WHERE job = ?1";
        Ok(self.execute("forget a retry", sql, params![id])? > 0)
    }

    /// Whether ends are left to take back.
    pub(super) fn has_retries(&self) -> Result<bool, Error> {
        Ok(self.next_retry()?.is_some())
    }

    fn next_retry(&self) -> Result<Option<i64>, Error> {
        let sql = "SELECT job FROM brigade_flow_retries LIMIT 1";
        self.row("look for retries", sql, &[], |row| row.get(0))
    }

    /// For a job whose end is about to be counted: its dependent waits by then.
    pub(super) fn take_back_noted(&self, link: &MemberLink) -> Result<(), Error> {
        if !self.forget_retry(link.job)? {
            return Ok(());
        }
        match self.take_back_behind(link, TakenKey::IsGivenUp)? {
            Some(next) => self.note_retry(next.job),
            None => Ok(()),
        }
    }

    pub(super) fn retry_step(&self) -> Result<ControlFlow<(), ()>, Error> {
        let is_over = StepBudget::of_sweep().use_up(|limit| self.continue_retries(limit))?;
        Ok(if is_over { Break(()) } else { Continue(()) })
    }

    /// Takes back some of the ends that are left. Returns how many: fewer than the limit if none is
    /// left.
    pub(super) fn continue_retries(&self, limit: usize) -> Result<usize, Error> {
        let mut taken_back = 0;
        while taken_back < limit {
            let Some(noted) = self.next_retry()? else {
                break;
            };
            self.forget_retry(noted)?;
            let mut behind = self.link_of(noted)?;
            while let Some(link) = behind {
                if taken_back == limit {
                    self.note_retry(link.job)?;
                    break;
                }
                behind = self.take_back_behind(&link, TakenKey::IsGivenUp)?;
                taken_back += 1;
            }
        }
        Ok(taken_back)
    }
}

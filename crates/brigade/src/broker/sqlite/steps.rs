//! Changes that touch any number of jobs, in steps: each is a transaction of its own, and between
//! two of them others get the file.
//!
//! A process that ends in the middle leaves a purge or the sorting of a queue half done, which does
//! no harm: both can be ordered again. The cancel of a flow goes on without it: what is left of it
//! is noted in the file, and the next sweep of any process goes on.

use rusqlite::{Row, params};
use tokio::time::sleep;

use super::Sqlite;
use super::flow::{Ended, Fate};
use super::lane::{Access, Synced};
use super::store::Store;
use super::sweep::{STEP_PAUSE, STEP_ROWS};
use crate::error::Error;
use crate::limits::Limits;

/// Jobs that one step of a purge removes. Each step is synced, so it is larger than that of a
/// sweep.
const PURGED_AT_ONCE: usize = 2000;
/// Rows that are looked at in one step while a queue is sorted, most of which may be of other
/// queues.
const LOOKED_AT_ONCE: usize = 2000;

/// How far a purge is.
#[derive(Clone, Copy, Default)]
pub(super) struct Purge {
    /// What came later than the purge stays; known from the first step on.
    last: Option<i64>,
    /// What waits for something is done; what is ready is next.
    ready: bool,
    count: u64,
    is_over: bool,
}

/// How far the sorting of a queue by partition is: all up to `after`, of those up to `last`.
#[derive(Clone, Copy, Default)]
pub(super) struct Sorting {
    after: i64,
    last: Option<i64>,
    is_over: bool,
}

impl Sqlite {
    /// Cancels in one transaction, which notes what is to end with the job; then carries that out.
    pub(super) async fn cancel_in_steps<T: Send + 'static>(
        &self,
        cancel: impl Fn(&Store<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cancelled = self.lane.run(Access::Write(Synced::Now), cancel).await?;
        // The cancel is noted as a whole: the steps that are left need no sync, and no caller.
        while self
            .lane
            .run(Access::Look, |store| store.has_flows_to_cancel())
            .await?
        {
            self.lane
                .run(Access::Write(Synced::Later), |store| store.cancel_flows())
                .await?;
            sleep(STEP_PAUSE).await;
        }
        Ok(cancelled)
    }

    pub(super) async fn purge_in_steps(&self, queue: &str) -> Result<u64, Error> {
        let queue: Box<str> = queue.into();
        let mut purge = Purge::default();
        while !purge.is_over {
            let (queue, from) = (queue.clone(), purge);
            purge = self
                .lane
                .run(Access::Write(Synced::Now), move |store| {
                    store.purge_step(&queue, from)
                })
                .await?;
            if !purge.is_over {
                sleep(STEP_PAUSE).await;
            }
        }
        Ok(purge.count)
    }

    pub(super) async fn limit_in_steps(
        &self,
        queue: &str,
        limits: Option<Limits>,
    ) -> Result<(), Error> {
        let queue: Box<str> = queue.into();
        match limits {
            None => self.unlimit(queue).await,
            Some(limits) if limits.is_by_partition() => {
                self.limit_by_partition(queue, limits).await
            }
            Some(limits) => {
                self.lane
                    .run(Access::Write(Synced::Now), move |store| {
                        store.set_limits(&queue, Some(&limits))
                    })
                    .await
            }
        }
    }

    async fn limit_by_partition(&self, queue: Box<str>, limits: Limits) -> Result<(), Error> {
        let mut sorting = Sorting::default();
        while !sorting.is_over {
            let (queue, from) = (queue.clone(), sorting);
            sorting = self
                .lane
                .run(Access::Write(Synced::Now), move |store| {
                    store.limit_step(&queue, &limits, from)
                })
                .await?;
            if !sorting.is_over {
                sleep(STEP_PAUSE).await;
            }
        }
        Ok(())
    }

    /// The starts that its rates counted go after its limits.
    async fn unlimit(&self, queue: Box<str>) -> Result<(), Error> {
        loop {
            let of = queue.clone();
            let unlimit = move |store: &Store<'_>| {
                store
                    .set_limits(&of, None)
                    .and_then(|()| store.forget_all_starts(&of))
            };
            if !self.lane.run(Access::Write(Synced::Now), unlimit).await? {
                return Ok(());
            }
            sleep(STEP_PAUSE).await;
        }
    }
}

impl Store<'_> {
    /// Removes some of what waits in a queue and was there when the purge began. A job goes before
    /// those that it waits for, so that these tell it nothing.
    fn purge_step(&self, queue: &str, mut purge: Purge) -> Result<Purge, Error> {
        if purge.last.is_none() {
            let sql = "SELECT coalesce(max(id), 0) FROM brigade_jobs";
            purge.last = self.row("find the last job", sql, &[], |row| row.get::<_, i64>(0))?;
        }
        let mut room = PURGED_AT_ONCE;
        while room > 0 && !purge.is_over {
            let from = if purge.ready {
                "INDEXED BY brigade_jobs_ready WHERE queue = ?1 AND state = 0 AND id <= ?2"
            } else {
                "INDEXED BY brigade_jobs_waiting WHERE queue = ?1 AND state IN (1, 2, 4) AND id <= \
                    ?2 ORDER BY id DESC"
            };
            let sql = format!(
                "SELECT {} FROM brigade_jobs {from} LIMIT ?3",
                Ended::COLUMNS
            );
            let limit = i64::try_from(room).unwrap_or(i64::MAX);
            let found = self.rows(
                "look for jobs to purge",
                &sql,
                params![queue, purge.last, limit],
                Ended::read,
            )?;
            for job in &found {
                self.remove_job(job.id, Some(&Fate::removed(job.id)))?;
            }
            purge.count += found.len() as u64;
            if found.len() < room {
                purge.is_over = purge.ready;
                purge.ready = true;
            }
            room -= found.len();
        }
        Ok(purge)
    }

    /// Gives some jobs of a queue their partitions; with the last of them, the limits hold.
    fn limit_step(
        &self,
        queue: &str,
        limits: &Limits,
        mut sorting: Sorting,
    ) -> Result<Sorting, Error> {
        let last = match sorting.last {
            Some(last) => last,
            None => {
                // From now on a trigger sees to it that each job of the queue has a partition.
                let sql = "INSERT INTO brigade_queues (queue, parted) VALUES (?1, 1) ON CONFLICT \
                    (queue) DO UPDATE SET parted = 1";
                self.execute("sort a queue by partition", sql, params![queue])?;
                let sql = "SELECT coalesce(max(id), 0) FROM brigade_jobs";
                *sorting.last.insert(
                    self.row("find the last job", sql, &[], |row| row.get::<_, i64>(0))?
                        .unwrap_or(0),
                )
            }
        };
        let sql = "SELECT count(*), max(id) FROM (SELECT id FROM brigade_jobs WHERE id > ?1 AND id \
            <= ?2 ORDER BY id LIMIT ?3)";
        let limit = i64::try_from(LOOKED_AT_ONCE).unwrap_or(i64::MAX);
        let read = |row: &Row<'_>| Ok((row.get::<_, usize>(0)?, row.get::<_, Option<i64>>(1)?));
        let (count, end) = self
            .row(
                "find the next jobs",
                sql,
                params![sorting.after, last, limit],
                read,
            )?
            .unwrap_or_default();
        if let Some(end) = end {
            let sql = "UPDATE brigade_jobs SET partition = coalesce(key, '')
                       WHERE id > ?2 AND id <= ?3 AND queue = ?1 AND partition IS NULL AND state < \
                       5";
            self.execute(
                "sort jobs by partition",
                sql,
                params![queue, sorting.after, end],
            )?;
            sorting.after = end;
        }
        if count < LOOKED_AT_ONCE {
            self.set_limits(queue, Some(limits))?;
            sorting.is_over = true;
        }
        Ok(sorting)
    }

    // -- cancelling flows

    /// Notes that what a cancelled job waits for is to be cancelled too, and begins with it.
    pub(super) fn cancel_members_of(&self, id: i64, reason: &str) -> Result<(), Error> {
        self.note_cancel(id, reason)?;
        self.cancel_flows().map(drop)
    }

    fn note_cancel(&self, id: i64, reason: &str) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO brigade_cancels (job, after, reason) VALUES (?1, 0, ?2)";
        self.execute("note the cancel of a flow", sql, params![id, reason])
            .map(drop)
    }

    pub(super) fn has_flows_to_cancel(&self) -> Result<bool, Error> {
        Ok(self
            .row(
                "look for flows to cancel",
                "SELECT 1 FROM brigade_cancels LIMIT 1",
                &[],
                |_| Ok(()),
            )?
            .is_some())
    }

    /// Cancels some of the jobs that cancelled ones wait for, however far back.
    pub(super) fn cancel_flows(&self) -> Result<bool, Error> {
        let mut room = STEP_ROWS;
        while room > 0 {
            let sql = "SELECT job, after, reason FROM brigade_cancels ORDER BY job DESC LIMIT 1";
            let read = |row: &Row<'_>| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?,
                ))
            };
            let Some((job, after, reason)) =
                self.row("look for flows to cancel", sql, &[], read)?
            else {
                return Ok(false);
            };
            let sql = "SELECT id, state, parents_left FROM brigade_jobs INDEXED BY brigade_jobs_dependent \
                WHERE dependent = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            let read = |row: &Row<'_>| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            };
            let limit = i64::try_from(room).unwrap_or(i64::MAX);
            let parents = self.rows("look for parents", sql, params![job, after, limit], read)?;
            let next = parents
                .last()
                .filter(|_| parents.len() == room)
                .map(|(id, ..)| *id);
            match next {
                Some(after) => {
                    let sql = "UPDATE brigade_cancels SET after = ?2 WHERE job = ?1";
                    self.execute("note the cancel of a flow", sql, params![job, after])?;
                }
                None => drop(self.execute(
                    "forget a cancel",
                    "DELETE FROM brigade_cancels WHERE job = ?1",
                    params![job],
                )?),
            }
            for (member, state, parents_left) in &parents {
                self.cancel_one(*member, *state, &reason)?;
                if *parents_left > 0 && *state < 5 {
                    self.note_cancel(*member, &reason)?;
                }
            }
            room = room.saturating_sub(parents.len().max(1));
        }
        self.has_flows_to_cancel()
    }
}

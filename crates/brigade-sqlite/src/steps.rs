//! Changes that touch any number of jobs, in steps: each is a transaction of its own, and between
//! two of them others get the file.
//!
//! A process that ends in the middle leaves a purge or the sorting of a queue half done, which does
//! no harm: both can be ordered again. The cancel and the retry of a flow go on without it: what is
//! left of them is noted in the file, and the next sweep of any process goes on.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Instant;

use rusqlite::{Row, params};
use tokio::time::sleep;

use super::Sqlite;
use super::budget::{StepBudget, limit_of, pause_after};
use super::flow::EndedJob;
use super::job_change::Cause;
use super::operation::{OperationAccess, Synced};
use super::parent_results::DependencyResult;
use super::store::Store;
use crate::error::Error;
use crate::job::JobId;
use brigade_core::JobEventKind;
use brigade_core::job_event::PURGE_EVENTS_MAX;
use brigade_core::limits::Limits;
use brigade_core::store::Edit;

/// How far a purge is.
#[derive(Clone, Copy, Default)]
pub(super) struct Purge {
    /// What came later than the purge stays; known from the first step on.
    last: Option<i64>,
    /// What waits for something is done; what is ready is next.
    ready: bool,
    count: u64,
}

/// How far the sorting of a queue by partition is: all up to `after`, of those up to `last`.
#[derive(Clone, Copy, Default)]
pub(super) struct Sorting {
    after: i64,
    last: Option<i64>,
}

impl Sqlite {
    /// Cancels in one transaction, which notes what is to end with the job; then carries that out.
    pub(super) async fn cancel_in_steps<T: Send + 'static>(
        &self,
        cancel: impl Fn(&Store<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cancelled = self
            .thread
            .run(OperationAccess::Write(Synced::Now), cancel)
            .await?;
        // The cancel is noted as a whole: the steps that are left need no sync, and no caller.
        let has_more = |store: &Store<'_>| store.has_flows_to_cancel();
        if self.thread.run(OperationAccess::Look, has_more).await? {
            self.in_steps(Synced::Later, (), |store, ()| store.cancel_step())
                .await?;
        }
        Ok(cancelled)
    }

    /// Retries in one transaction, which notes which ends are left to take back; then takes those
    /// back.
    pub(super) async fn retry_in_steps(
        &self,
        id: JobId,
        edit: Edit,
    ) -> Result<Option<JobId>, Error> {
        let retry = move |store: &Store<'_>| Ok((store.retry(&id, &edit)?, store.has_retries()?));
        let access = OperationAccess::Write(Synced::Now);
        let (retried, has_more) = self.thread.run(access, retry).await?;
        if has_more {
            self.in_steps(Synced::Later, (), |store, ()| store.retry_step())
                .await?;
        }
        Ok(retried)
    }

    /// Runs steps, each in a transaction of its own and with a pause before the next, until one
    /// was the last.
    async fn in_steps<T: Copy + Send + 'static, R: Send + 'static>(
        &self,
        sync: Synced,
        first: T,
        step: impl Fn(&Store<'_>, T) -> Result<ControlFlow<R, T>, Error> + Clone + Send + 'static,
    ) -> Result<R, Error> {
        let mut from = first;
        loop {
            let (began, step) = (Instant::now(), step.clone());
            let run = move |store: &Store<'_>| step(store, from);
            match self.thread.run(OperationAccess::Write(sync), run).await? {
                Break(result) => return Ok(result),
                Continue(next) => from = next,
            }
            sleep(pause_after(began.elapsed())).await;
        }
    }

    pub(super) async fn purge_in_steps(&self, queue: &str) -> Result<u64, Error> {
        let queue: Box<str> = queue.into();
        let step = move |store: &Store<'_>, purge| store.purge_step(&queue, purge);
        self.in_steps(Synced::Now, Purge::default(), step).await
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
                let step =
                    move |store: &Store<'_>, sorting| store.limit_step(&queue, &limits, sorting);
                self.in_steps(Synced::Now, Sorting::default(), step).await
            }
            Some(limits) => {
                self.thread
                    .run(OperationAccess::Write(Synced::Now), move |store| {
                        store.set_limits(&queue, Some(&limits))
                    })
                    .await
            }
        }
    }

    /// The starts that its rates counted go after its limits.
    async fn unlimit(&self, queue: Box<str>) -> Result<(), Error> {
        let step = move |store: &Store<'_>, ()| {
            store.set_limits(&queue, None)?;
            store.forget_all_starts(&queue)
        };
        self.in_steps(Synced::Now, (), step).await
    }
}

impl Store<'_> {
    /// Removes some of what waits in a queue and was there when the purge began.
    fn purge_step(&self, queue: &str, mut purge: Purge) -> Result<ControlFlow<u64, Purge>, Error> {
        if purge.last.is_none() {
            let sql = "SELECT coalesce(max(id), 0) FROM brigade_jobs";
            purge.last = self.row("find the last job", sql, &[], |row| row.get::<_, i64>(0))?;
        }
        let mut budget = StepBudget::of_order();
        while budget.use_up(|limit| self.purge_some(queue, &mut purge, limit))? {
            if purge.ready {
                return Ok(Break(purge.count));
            }
            purge.ready = true;
        }
        Ok(Continue(purge))
    }

    /// A job goes before its parents, so that their removal does not reach it.
    fn purge_some(&self, queue: &str, purge: &mut Purge, limit: usize) -> Result<usize, Error> {
        let from = if purge.ready {
            "INDEXED BY brigade_jobs_ready WHERE queue = ?1 AND state = 0 AND id <= ?2"
        } else {
            "INDEXED BY brigade_jobs_waiting WHERE queue = ?1 AND state IN (1, 2, 4) AND id <= ?2 \
                ORDER BY id DESC"
        };
        let sql = format!(
            "SELECT {} FROM brigade_jobs {from} LIMIT ?3",
            EndedJob::COLUMNS
        );
        let deleted = Cause::new(JobEventKind::Deleted, None);
        let found = self.rows(
            "look for jobs to purge",
            &sql,
            params![queue, purge.last, limit_of(limit)],
            EndedJob::read,
        )?;
        for job in &found {
            let cause = (purge.count < PURGE_EVENTS_MAX as u64).then_some(&deleted);
            self.remove_job(job.id, Some(&DependencyResult::removed(job.id)), cause)?;
            purge.count += 1;
        }
        Ok(found.len())
    }

    /// Gives some jobs of a queue their partitions; with the last of them, the limits hold.
    fn limit_step(
        &self,
        queue: &str,
        limits: &Limits,
        mut sorting: Sorting,
    ) -> Result<ControlFlow<(), Sorting>, Error> {
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
        let mut budget = StepBudget::of_order();
        if !budget.use_up(|limit| self.sort_some(queue, &mut sorting.after, last, limit))? {
            return Ok(Continue(sorting));
        }
        self.set_limits(queue, Some(limits))?;
        Ok(Break(()))
    }

    /// Looks at some jobs, most of which may be of other queues, and returns at how many.
    fn sort_some(
        &self,
        queue: &str,
        after: &mut i64,
        last: i64,
        limit: usize,
    ) -> Result<usize, Error> {
        let sql = "SELECT count(*), max(id) FROM (SELECT id FROM brigade_jobs WHERE id > ?1 AND id \
            <= ?2 ORDER BY id LIMIT ?3)";
        let values = params![*after, last, limit_of(limit)];
        let read = |row: &Row<'_>| Ok((row.get::<_, usize>(0)?, row.get::<_, Option<i64>>(1)?));
        let found = self.row("find the next jobs", sql, values, read)?;
        let Some((count, Some(end))) = found else {
            return Ok(0);
        };
        let sql = "UPDATE brigade_jobs SET partition = coalesce(key, '')
                   WHERE id > ?2 AND id <= ?3 AND queue = ?1 AND partition IS NULL AND state < 5";
        let values = params![queue, *after, end];
        self.execute("sort jobs by partition", sql, values)?;
        *after = end;
        Ok(count)
    }

    // -- cancelling flows

    /// Notes that what a cancelled job waits for is to be cancelled too, and begins with it.
    pub(super) fn cancel_members_of(&self, id: i64, reason: &str) -> Result<(), Error> {
        self.note_cancel(id, reason)?;
        self.cancel_step().map(drop)
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

    fn cancel_step(&self) -> Result<ControlFlow<(), ()>, Error> {
        let is_over = StepBudget::of_sweep().use_up(|limit| self.cancel_flows(limit))?;
        Ok(if is_over { Break(()) } else { Continue(()) })
    }

    /// Cancels some of the jobs that cancelled ones wait for, however far back. Returns how many
    /// rows it looked at: fewer than the limit if none is left.
    pub(super) fn cancel_flows(&self, limit: usize) -> Result<usize, Error> {
        let mut room = limit;
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
                return Ok(limit - room);
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
            let values = params![job, after, limit_of(room)];
            let parents = self.rows("look for parents", sql, values, read)?;
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
        Ok(limit)
    }
}

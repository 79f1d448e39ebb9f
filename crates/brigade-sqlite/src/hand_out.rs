//! Handing out jobs, from one queue or ten thousand.
//!
//! An idle consumer looks in a transaction that may not write ([`Store::has_work`]), so that it
//! takes no lock that others wait for. Only where there is something to do does the same operation
//! run again in one that may.
//!
//! The first queues of an ask are looked at one by one. Behind them, one statement finds which
//! queues have ready jobs at all: its cost goes with those, or with the queues asked for, whichever
//! are fewer, and an idle file of any number of queues costs nothing.

use std::time::Duration;

use rusqlite::{Row, params};

use super::budget::{PAUSE_MIN, SWEEP_ROWS};
use super::counted::Count;
use super::job_change::{Cause, ChangedJob};
use super::look::unserved;
use super::parent_results::DependencyResult;
use super::store::{Store, millis, moment_of, row_id};
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId, JobState, Unserved};
use crate::policy::too_late;
use brigade_core::JobEventKind;
use brigade_core::store::{DeliveryMode, LeaseRequest, Leased, Queues};
use brigade_runtime::owner::own_name;

/// Queues that are looked at one by one, plus two for each job that is asked for.
const DIRECT_QUEUES: usize = 16;
/// Queues with rates whose next moment an idle consumer waits for; the others are looked at when it
/// looks again in any case.
const RATES_MAX: i64 = 1000;
/// When to look again for the end of workers whose owner is gone.
const ENDING_PAUSE: Duration = Duration::from_millis(25);

/// What came of an ask.
#[derive(Default)]
pub(super) struct HandedOut {
    pub(super) leased: Vec<Leased>,
    /// In how long something else falls due; only said if nothing was handed out.
    pub(super) due_in: Option<Duration>,
    /// Something that comes first is not done: ask again after this pause.
    pub(super) again_in: Option<Duration>,
}

impl Store<'_> {
    /// Hands out jobs; the result also has in how long another falls due.
    pub(super) fn lease(&self, ask: &LeaseRequest) -> Result<HandedOut, Error> {
        if self.cache.borrow().is_waiting_for_end {
            return Ok(HandedOut {
                again_in: Some(ENDING_PAUSE),
                ..HandedOut::default()
            });
        }
        if self.is_look {
            if self.has_work(ask)? {
                self.must_write.set(true);
                return Ok(HandedOut::default());
            }
            return Ok(HandedOut {
                due_in: self.next_due(ask)?,
                ..HandedOut::default()
            });
        }
        self.sweep()?;
        self.note_ask(&ask.queues)?;
        let mut leased = Vec::new();
        let direct = ask
            .queues
            .len()
            .min(DIRECT_QUEUES.saturating_add(ask.max.saturating_mul(2)));
        for queue in ask.queues.iter().take(direct) {
            self.lease_queue(queue, ask, &mut leased)?;
        }
        if direct < ask.queues.len() && leased.len() < ask.max {
            for rank in self
                .ready_queues(&ask.queues)?
                .into_iter()
                .filter(|rank| *rank >= direct)
            {
                self.lease_queue(
                    &ask.queues.names()[ask.queues.place(rank)],
                    ask,
                    &mut leased,
                )?;
            }
        }
        let is_unfinished = self.swept.get() == Some(true) || self.has_set_aside_enough();
        let again_in = is_unfinished.then_some(PAUSE_MIN);
        let due_in = if leased.is_empty() {
            self.next_due(ask)?
        } else {
            None
        };
        Ok(HandedOut {
            leased,
            due_in,
            again_in,
        })
    }

    /// Whether an ask has anything to do in this file.
    fn has_work(&self, ask: &LeaseRequest) -> Result<bool, Error> {
        let is_for_memo = !self.cache.borrow().gone.is_empty() || self.is_ask_to_note(&ask.queues);
        Ok(is_for_memo || self.is_overdue()? || self.has_ready(&ask.queues)?)
    }

    fn has_ready(&self, queues: &Queues) -> Result<bool, Error> {
        if queues.len() > DIRECT_QUEUES {
            return Ok(!self.ready_queues(queues)?.is_empty());
        }
        let sql = "SELECT 1 FROM brigade_jobs INDEXED BY brigade_jobs_ready WHERE state = 0 AND \
            queue = ?1
                     AND NOT EXISTS (SELECT 1 FROM brigade_queues AS known WHERE known.queue = ?1 \
                     AND known.paused = 1) LIMIT 1";
        for queue in queues.names() {
            if self
                .row("look for ready jobs", sql, params![queue], |_| Ok(()))?
                .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ranks of those of these queues that have ready jobs and are not paused, in order.
    fn ready_queues(&self, asked: &Queues) -> Result<Vec<usize>, Error> {
        let mut ranks: Vec<usize> = self
            .names_of_ready(asked)?
            .iter()
            .filter_map(|queue| asked.rank(queue))
            .collect();
        ranks.sort_unstable();
        Ok(ranks)
    }

    fn names_of_ready(&self, asked: &Queues) -> Result<Vec<Box<str>>, Error> {
        // From each queue to the next by the index, without looking at their jobs.
        let sql = "WITH RECURSIVE ready (queue) AS (
                     SELECT min(queue) FROM brigade_jobs INDEXED BY brigade_jobs_ready WHERE state \
                     = 0
                     UNION ALL
                     SELECT (SELECT min(queue) FROM brigade_jobs INDEXED BY brigade_jobs_ready \
                     WHERE state = 0 AND queue > ready.queue)
                       FROM ready WHERE ready.queue IS NOT NULL)
                   SELECT queue FROM ready WHERE queue IS NOT NULL
                     AND NOT EXISTS (SELECT 1 FROM brigade_queues AS known WHERE known.queue = \
                     ready.queue AND known.paused = 1) LIMIT ?1";
        let most = i64::try_from(asked.len()).unwrap_or(i64::MAX - 1) + 1;
        let read = |row: &Row<'_>| row.get::<_, Box<str>>(0);
        let found = self.rows("find queues with ready jobs", sql, params![most], read)?;
        if found.len() <= asked.len() {
            return Ok(found);
        }
        // There are more of them than were asked for.
        let names = serde_json::to_string(asked.names()).map_err(|e| {
            Error::new(ErrorKind::Encode, "write the names of queues").with_source(e)
        })?;
        let sql = "SELECT asked.value FROM json_each(?1) AS asked
                   WHERE EXISTS (SELECT 1 FROM brigade_jobs INDEXED BY brigade_jobs_ready WHERE \
                   state = 0 AND queue = asked.value)
                     AND NOT EXISTS (SELECT 1 FROM brigade_queues AS known WHERE known.queue = \
                     asked.value AND known.paused = 1)";
        self.rows("find queues with ready jobs", sql, params![names], read)
    }

    /// What one queue has, as far as there is room.
    fn lease_queue(
        &self,
        queue: &str,
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<(), Error> {
        if leased.len() >= ask.max || self.has_set_aside_enough() {
            return Ok(());
        }
        let settings = self.settings(queue)?;
        if settings.paused {
            return Ok(());
        }
        if settings.limits.is_some() {
            return self.lease_within(queue, &settings, ask, leased);
        }
        // Jobs that are set aside leave room for others.
        while leased.len() < ask.max
            && !self.has_set_aside_enough()
            && self.lease_from(queue, ask, leased)?
        {}
        Ok(())
    }

    /// One round through a queue without limits; `true` if another may find more.
    fn lease_from(
        &self,
        queue: &str,
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<bool, Error> {
        let sql = ReadyRow::select("queue = ?2");
        let room = i64::try_from(ask.max - leased.len()).unwrap_or(i64::MAX);
        let found = self.rows("find ready jobs", &sql, params![room, queue], |row| {
            ReadyRow::read(queue, row)
        })?;
        let mut was_set_aside = false;
        for found in found {
            match self.checked(found)? {
                Some(job) => {
                    self.hand_out(&job, ask.mode)?;
                    leased.push(job.leased);
                }
                None => was_set_aside = true,
            }
        }
        Ok(was_set_aside)
    }

    /// The job, unless it can never be run, or not any more: then it is set aside.
    pub(super) fn checked(&self, found: ReadyRow) -> Result<Option<ReadyJob>, Error> {
        match found.check(self.now.since, self.now.wall) {
            Ok(job) => Ok(Some(job)),
            Err((id, why)) => {
                self.set_aside.set(self.set_aside.get() + 1);
                self.dead(id, &why, Cause::new(JobEventKind::Dead, Some(&why)))
                    .map(|()| None)
            }
        }
    }

    /// So that one transaction is short whatever stands at the head of a queue.
    pub(super) fn has_set_aside_enough(&self) -> bool {
        self.set_aside.get() >= SWEEP_ROWS
    }

    pub(super) fn hand_out(&self, ready: &ReadyJob, mode: DeliveryMode) -> Result<(), Error> {
        let job = &ready.leased;
        let (id, queue, task) = (row_id(&job.id), &*job.job.queue, job.job.task.as_deref());
        let waited = self.time_since(Some(ready.since));
        self.count(queue, task, Count::Wait(waited));
        let changed = ChangedJob {
            id,
            queue,
            task,
            state: Some(JobState::Leased),
        };
        let cause = |kind| Cause {
            attempt: ready.attempt,
            ..Cause::new(kind, None)
        };
        match mode {
            // There will be no settlement.
            DeliveryMode::Take => {
                self.note(&changed, &cause(JobEventKind::Leased))?;
                let done = cause(JobEventKind::Done);
                self.remove_job(id, Some(&DependencyResult::Done(None)), Some(&done))
            }
            DeliveryMode::Lease(time) => {
                self.note_holder()?;
                let until = self.now.boot.saturating_add(millis(time));
                let sql = "UPDATE brigade_jobs SET state = 3, token = ?2, attempts = attempts + 1, \
                    lease_until = ?3, holder = ?4, leased_at = ?5, cancel = NULL WHERE id = ?1";
                let values = params![id, job.token, until, own_name(), self.now.wall];
                self.execute("lease a job", sql, values)?;
                self.note(&changed, &cause(JobEventKind::Leased))
            }
        }
    }

    /// In how long a job falls due, a lease ends, or a limit opens.
    fn next_due(&self, ask: &LeaseRequest) -> Result<Option<Duration>, Error> {
        let sql = "SELECT min(due) FROM brigade_jobs WHERE state IN (1, 4)";
        let due = self
            .row("find the next due job", sql, &[], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .flatten();
        let sql = "SELECT min(lease_until) FROM brigade_jobs WHERE state = 3";
        let until = self
            .row("find the next lease to end", sql, &[], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .flatten();
        let tick = self.next_schedule()?;
        let wall = [due, tick].into_iter().flatten().min();
        let left = [
            wall.map(|due| due.saturating_sub(self.now.wall)),
            until.map(|until| until.saturating_sub(self.now.boot) + 1),
        ];
        let least = left.into_iter().flatten().min();
        // What is due already is left to another step, or to another process that is at it.
        let mut least = least
            .map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)).max(PAUSE_MIN));
        if self.cache.borrow().is_ending {
            least = Some(least.map_or(ENDING_PAUSE, |least| least.min(ENDING_PAUSE)));
        }
        for queue in self.queues_with_rates(&ask.queues)? {
            least = least.into_iter().chain(self.next_start(&queue)?).min();
        }
        Ok(least)
    }

    fn queues_with_rates(&self, asked: &Queues) -> Result<Vec<Box<str>>, Error> {
        if asked.len() <= DIRECT_QUEUES {
            return Ok(asked.names().to_vec());
        }
        let sql = "SELECT queue FROM brigade_queues WHERE limits IS NOT NULL LIMIT ?1";
        self.rows("list limited queues", sql, params![RATES_MAX], |row| {
            row.get(0)
        })
    }
}

/// A ready job as it is stored.
pub(super) struct ReadyRow {
    id: i64,
    token: i64,
    failed: u32,
    crashed: u32,
    begins_by: Option<i64>,
    lost: u32,
    unserved: Option<Unserved>,
    options: Option<String>,
    began_at: i64,
    attempts: u32,
    since: i64,
    job: Job,
}

/// A ready job that may be handed out.
pub(super) struct ReadyJob {
    pub(super) leased: Leased,
    /// Since when it waits, wall clock.
    since: i64,
    /// The number of this attempt among all, charged or not.
    attempt: u32,
}

impl ReadyRow {
    /// The query for the first ready jobs, in the order of the hand-out; its first parameter is how
    /// many.
    pub(super) fn select(filter: &str) -> String {
        format!(
            "SELECT id, payload, task, options, token, failed, crashed, begins_by, lost, unserved, \
                unserved_at, coalesce(began_at, pushed_at), attempts, max(pushed_at, due) FROM \
                brigade_jobs
             WHERE state = 0 AND {filter} ORDER BY priority DESC, id LIMIT ?1"
        )
    }

    pub(super) fn read(queue: &str, row: &Row<'_>) -> rusqlite::Result<Self> {
        let task: Option<Box<str>> = row.get(2)?;
        let payload: Box<str> = row.get(1)?;
        let job = Job::new(queue, task, payload);
        Ok(Self {
            id: row.get(0)?,
            token: row.get(4)?,
            failed: row.get(5)?,
            crashed: row.get(6)?,
            begins_by: row.get(7)?,
            lost: row.get(8)?,
            unserved: unserved(row.get(9)?, row.get(10)?),
            options: row.get(3)?,
            began_at: row.get(11)?,
            attempts: row.get(12)?,
            since: row.get(13)?,
            job,
        })
    }

    /// The job, or why it can never be run: other programs write to this table too, and a sweep may
    /// not have come to it yet.
    fn check(mut self, since: BootTime, wall: i64) -> Result<ReadyJob, (i64, String)> {
        if self.begins_by.is_some_and(|by| by < wall) {
            return Err((self.id, too_late(self.failed.saturating_add(self.crashed))));
        }
        if let Err(e) = serde_json::from_str::<&serde_json::value::RawValue>(&self.job.payload) {
            return Err((self.id, format!("its payload is not JSON: {e}")));
        }
        if let Some(options) = &self.options {
            self.job.options = serde_json::from_str(options)
                .map_err(|e| (self.id, format!("its options cannot be read: {e}")))?;
        }
        let attempt = self.failed + self.crashed + 1;
        let leased = Leased {
            id: JobId::new(self.id.to_string()),
            token: self.token + 1,
            since,
            job: self.job,
            attempt,
            crashed: self.crashed,
            lost: self.lost,
            unserved: self.unserved,
            is_call: false,
            began_at: moment_of(self.began_at),
        };
        Ok(ReadyJob {
            leased,
            since: self.since,
            attempt: self.attempts.saturating_add(1),
        })
    }
}

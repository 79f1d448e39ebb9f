//! Limits and turns: which of a queue's ready jobs may be handed out now.
//!
//! A [`Gate`] is what runs and was started, read once per hand-out; each question to it is answered
//! with a [`Blocker`], so that what decides and what explains are the same code. Running jobs are
//! counted where they are, in the rows of the leased; starts are rows of their own, kept for the
//! time of their rate.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;

use rusqlite::{Row, params};

use super::budget::{StepBudget, limit_of};
use super::hand_out::ReadyRow;
use super::store::{Store, millis};
use crate::error::{Error, ErrorKind};
use brigade_core::limits::{Limits, Rate};
use brigade_core::store::{DeliveryMode, LeaseRequest, Leased};
use brigade_core::why::Blocker;

/// Starts that are forgotten at once: more than one hand-out adds.
const STARTS_AT_ONCE: i64 = 2000;

/// What is set for a queue.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) paused: bool,
    pub(super) limits: Option<Limits>,
    /// The partition whose turn was last.
    turn: String,
}

/// What of a queue runs and was started.
pub(super) struct Gate {
    limits: Limits,
    now: i64,
    all: Busy,
    partitions: HashMap<String, Busy>,
}

#[derive(Clone, Copy, Default)]
struct Busy {
    running: u64,
    started: u64,
    /// When the first start of those was, wall clock.
    first: i64,
}

impl Gate {
    /// Why nothing more of the queue may be handed out, if so.
    pub(super) fn queue_closed(&self) -> Option<Blocker> {
        self.closed(&self.all, None, self.limits.running, self.limits.starts)
    }

    /// Why nothing more of this partition may be handed out, if so.
    pub(super) fn partition_closed(&self, partition: &str) -> Option<Blocker> {
        let busy = self.partitions.get(partition)?;
        self.closed(
            busy,
            Some(partition),
            self.limits.running_per_partition,
            self.limits.starts_per_partition,
        )
    }

    fn closed(
        &self,
        busy: &Busy,
        partition: Option<&str>,
        limit: Option<u32>,
        rate: Option<Rate>,
    ) -> Option<Blocker> {
        let partition = partition.map(str::to_owned);
        match (limit, rate) {
            (Some(limit), _) if busy.running >= u64::from(limit) => Some(Blocker::RunningLimit {
                partition,
                limit,
                running: busy.running,
            }),
            (_, Some(rate)) if busy.started >= u64::from(rate.starts) => {
                let left = busy.first.saturating_add(millis(rate.per)) - self.now;
                Some(Blocker::RateLimit {
                    partition,
                    rate,
                    free_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
                })
            }
            _ => None,
        }
    }

    /// One more was handed out.
    fn count(&mut self, partition: &str, mode: DeliveryMode) {
        let now = self.now;
        let add = |busy: &mut Busy| {
            busy.running += u64::from(matches!(mode, DeliveryMode::Lease(_)));
            busy.started += 1;
            busy.first = if busy.started == 1 { now } else { busy.first };
        };
        add(&mut self.all);
        add(self.partitions.entry(partition.to_owned()).or_default());
    }
}

/// In which order a limited queue is gone through.
enum ReadyOrder {
    /// Priority, then place: no partition matters.
    ByPlace,
    /// The same, among the partitions that are open: the first of each.
    Firsts(BinaryHeap<(i64, Reverse<i64>, String)>),
    /// Partition after partition, from the one after this.
    Turns(String),
}

impl Store<'_> {
    pub(super) fn settings(&self, queue: &str) -> Result<Settings, Error> {
        let sql = "SELECT paused, limits, turn FROM brigade_queues WHERE queue = ?1";
        let row = self.row("look up a queue", sql, params![queue], |row| {
            Ok((
                row.get::<_, bool>(0)?,
                row.get::<_, Option<String>>(1)?,
                row.get::<_, String>(2)?,
            ))
        })?;
        let Some((paused, limits, turn)) = row else {
            return Ok(Settings::default());
        };
        let limits = limits.map(|text| serde_json::from_str(&text)).transpose();
        let limits = limits.map_err(|e| {
            Error::new(
                ErrorKind::Decode,
                format!("read the limits of queue {queue:?}"),
            )
            .with_source(e)
        })?;
        Ok(Settings {
            paused,
            limits,
            turn,
        })
    }

    /// Limits a queue, or takes its limits away. Where they go by partition, its jobs have theirs
    /// already.
    pub(super) fn set_limits(&self, queue: &str, limits: Option<&Limits>) -> Result<(), Error> {
        let by_partition = limits.is_some_and(Limits::is_by_partition);
        let text = limits.map(serde_json::to_string).transpose();
        let text = text.map_err(|e| {
            Error::new(ErrorKind::Encode, "write the limits of a queue").with_source(e)
        })?;
        let sql = "INSERT INTO brigade_queues (queue, limits, parted) VALUES (?1, ?2, ?3)
                   ON CONFLICT (queue) DO UPDATE SET limits = ?2, parted = ?3";
        self.execute("limit a queue", sql, params![queue, text, by_partition])?;
        self.forget_plain_queue(queue)
    }

    /// A step that removes starts of a queue without rates.
    pub(super) fn forget_all_starts(&self, queue: &str) -> Result<ControlFlow<(), ()>, Error> {
        let sql = "DELETE FROM brigade_starts WHERE rowid IN (SELECT rowid FROM brigade_starts \
            WHERE queue = ?1 LIMIT ?2)";
        let remove = |limit| self.execute("forget starts", sql, params![queue, limit_of(limit)]);
        Ok(if StepBudget::of_order().use_up(remove)? {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// A queue that is neither paused nor limited has no row.
    pub(super) fn forget_plain_queue(&self, queue: &str) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_queues WHERE queue = ?1 AND paused = 0 AND limits IS NULL";
        self.execute("forget a queue", sql, params![queue])
            .map(drop)
    }

    /// Hands out as many jobs of a queue as its limits allow.
    pub(super) fn lease_within(
        &self,
        queue: &str,
        settings: &Settings,
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<(), Error> {
        let Some(limits) = &settings.limits else {
            return Ok(());
        };
        self.forget_starts(queue, limits)?;
        let mut gate = self.gate(queue, limits)?;
        let mut order = match (limits.turns, limits.is_by_partition()) {
            (true, _) => ReadyOrder::Turns(settings.turn.clone()),
            (false, true) => ReadyOrder::Firsts(self.firsts(queue)?),
            (false, false) => ReadyOrder::ByPlace,
        };
        while leased.len() < ask.max
            && !self.has_set_aside_enough()
            && gate.queue_closed().is_none()
            && let Some((found, partition)) = self.pick(queue, &gate, &mut order)?
        {
            if let Some(job) = self.checked(found)? {
                self.hand_out(&job, ask.mode)?;
                self.remember_start(queue, &partition, limits)?;
                gate.count(&partition, ask.mode);
                leased.push(job.leased);
            }
            if let ReadyOrder::Firsts(firsts) = &mut order {
                firsts.extend(self.first_of(queue, &partition)?);
            }
        }
        match order {
            ReadyOrder::Turns(turn) if turn != settings.turn => {
                let sql = "UPDATE brigade_queues SET turn = ?2 WHERE queue = ?1";
                self.execute("pass the turn on", sql, params![queue, turn])
                    .map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The next job that may be handed out, and its partition.
    fn pick(
        &self,
        queue: &str,
        gate: &Gate,
        order: &mut ReadyOrder,
    ) -> Result<Option<(ReadyRow, String)>, Error> {
        match order {
            ReadyOrder::ByPlace => {
                let sql = ReadyRow::select("queue = ?2");
                let found = self.row("find a ready job", &sql, params![1, queue], |row| {
                    ReadyRow::read(queue, row)
                })?;
                Ok(found.map(|found| (found, String::new())))
            }
            ReadyOrder::Firsts(firsts) => {
                while let Some((_, _, partition)) = firsts.pop() {
                    if gate.partition_closed(&partition).is_none() {
                        return self.first_job_of(queue, partition);
                    }
                }
                Ok(None)
            }
            ReadyOrder::Turns(turn) => {
                let (mut after, mut first_closed) = (turn.clone(), None);
                while let Some(partition) = self.next_partition(queue, &after)? {
                    if gate.partition_closed(&partition).is_none() {
                        turn.clone_from(&partition);
                        return self.first_job_of(queue, partition);
                    }
                    // Once round and all of them closed.
                    if first_closed.as_ref() == Some(&partition) {
                        break;
                    }
                    after.clone_from(&partition);
                    first_closed.get_or_insert(partition);
                }
                Ok(None)
            }
        }
    }

    fn first_job_of(
        &self,
        queue: &str,
        partition: String,
    ) -> Result<Option<(ReadyRow, String)>, Error> {
        let sql = ReadyRow::select("queue = ?2 AND partition = ?3");
        let found = self.row(
            "find a ready job of a partition",
            &sql,
            params![1, queue, partition],
            |row| ReadyRow::read(queue, row),
        )?;
        Ok(found.map(|found| (found, partition)))
    }

    /// The partition with ready jobs that comes after this one, from the beginning again after the
    /// last.
    fn next_partition(&self, queue: &str, after: &str) -> Result<Option<String>, Error> {
        let sql = "SELECT min(partition) FROM brigade_jobs WHERE queue = ?1 AND state = 0 AND \
            partition > ?2";
        let read = |row: &Row<'_>| row.get::<_, Option<String>>(0);
        if let Some(next) = self
            .row("find the next partition", sql, params![queue, after], read)?
            .flatten()
        {
            return Ok(Some(next));
        }
        let sql = "SELECT min(partition) FROM brigade_jobs WHERE queue = ?1 AND state = 0 AND \
            partition IS NOT NULL";
        Ok(self
            .row("find the first partition", sql, params![queue], read)?
            .flatten())
    }

    /// The first ready job of each partition.
    fn firsts(&self, queue: &str) -> Result<BinaryHeap<(i64, Reverse<i64>, String)>, Error> {
        let mut firsts = BinaryHeap::new();
        let mut partition = self.next_partition(queue, "")?;
        // The empty one sorts before all others, and so is the first that "after" cannot name.
        firsts.extend(self.first_of(queue, "")?);
        let mut last = String::new();
        while let Some(name) = partition.filter(|name| *name > last) {
            firsts.extend(self.first_of(queue, &name)?);
            partition = self.next_partition(queue, &name)?;
            last = name;
        }
        Ok(firsts)
    }

    fn first_of(
        &self,
        queue: &str,
        partition: &str,
    ) -> Result<Option<(i64, Reverse<i64>, String)>, Error> {
        let sql = "SELECT priority, id FROM brigade_jobs WHERE queue = ?1 AND partition = ?2 AND \
            state = 0 ORDER BY priority DESC, id LIMIT 1";
        self.row(
            "find the first of a partition",
            sql,
            params![queue, partition],
            |row| Ok((row.get(0)?, Reverse(row.get(1)?), partition.to_owned())),
        )
    }

    // -- what runs and was started

    pub(super) fn gate(&self, queue: &str, limits: &Limits) -> Result<Gate, Error> {
        let mut gate = Gate {
            limits: *limits,
            now: self.now.wall,
            all: Busy::default(),
            partitions: HashMap::new(),
        };
        if limits.running.is_some() || limits.running_per_partition.is_some() {
            let sql = "SELECT coalesce(partition, ''), count(*) FROM brigade_jobs INDEXED BY \
                brigade_jobs_leased
                       WHERE state = 3 AND queue = ?1 GROUP BY 1";
            let running = self.rows("count running jobs", sql, params![queue], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
            })?;
            for (partition, running) in running {
                gate.all.running += running;
                gate.partitions.entry(partition).or_default().running = running;
            }
        }
        let since = |rate: Rate| self.now.wall.saturating_sub(millis(rate.per));
        if let Some(rate) = limits.starts {
            let sql = "SELECT count(*), coalesce(min(at), 0) FROM brigade_starts WHERE queue = ?1 \
                AND at > ?2";
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            if let Some((started, first)) =
                self.row("count starts", sql, params![queue, since(rate)], read)?
            {
                gate.all = Busy {
                    started,
                    first,
                    ..gate.all
                };
            }
        }
        if let Some(rate) = limits.starts_per_partition {
            let sql = "SELECT partition, count(*), min(at) FROM brigade_starts WHERE queue = ?1 \
                AND at > ?2 GROUP BY partition";
            let read = |row: &Row<'_>| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, u64>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            };
            for (partition, started, first) in self.rows(
                "count starts of partitions",
                sql,
                params![queue, since(rate)],
                read,
            )? {
                let busy = gate.partitions.entry(partition).or_default();
                (busy.started, busy.first) = (started, first);
            }
        }
        Ok(gate)
    }

    fn remember_start(&self, queue: &str, partition: &str, limits: &Limits) -> Result<(), Error> {
        if limits.rates().next().is_none() {
            return Ok(());
        }
        let sql = "INSERT INTO brigade_starts (queue, partition, at) VALUES (?1, ?2, ?3)";
        self.execute(
            "remember a start",
            sql,
            params![queue, partition, self.now.wall],
        )
        .map(drop)
    }

    /// Removes the starts that no rate looks back to.
    fn forget_starts(&self, queue: &str, limits: &Limits) -> Result<(), Error> {
        let Some(longest) = limits.rates().map(|rate| rate.per).max() else {
            return Ok(());
        };
        let sql = "DELETE FROM brigade_starts WHERE rowid IN (SELECT rowid FROM brigade_starts \
            WHERE queue = ?1 AND at <= ?2 LIMIT ?3)";
        self.execute(
            "forget old starts",
            sql,
            params![
                queue,
                self.now.wall.saturating_sub(millis(longest)),
                STARTS_AT_ONCE
            ],
        )?;
        // The clock was set back: no start may count for longer than the time of its rate.
        let sql = "UPDATE brigade_starts SET at = ?2 WHERE rowid IN (SELECT rowid FROM \
            brigade_starts WHERE queue = ?1 AND at > ?2 LIMIT ?3)";
        self.execute(
            "correct starts",
            sql,
            params![queue, self.now.wall, STARTS_AT_ONCE],
        )
        .map(drop)
    }

    /// In how long a start of this queue stops counting.
    pub(super) fn next_start(&self, queue: &str) -> Result<Option<Duration>, Error> {
        let Some(limits) = self.settings(queue)?.limits else {
            return Ok(None);
        };
        let mut least = None;
        for rate in limits.rates() {
            let sql = "SELECT min(at) FROM brigade_starts WHERE queue = ?1 AND at > ?2";
            let since = self.now.wall.saturating_sub(millis(rate.per));
            let first = self
                .row("find the next start", sql, params![queue, since], |row| {
                    row.get::<_, Option<i64>>(0)
                })?
                .flatten();
            let left = first.map(|first| {
                Duration::from_millis(u64::try_from(first.saturating_sub(since)).unwrap_or(0))
            });
            least = least.into_iter().chain(left).min();
        }
        Ok(least)
    }
}

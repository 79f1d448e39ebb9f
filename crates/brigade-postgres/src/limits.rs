//! Limits and turns of queues (`schema/limits.sql`): setting them, and why they hold a job back.
//!
//! The function that hands out jobs and the explanation read the same numbers (`brigade.gate`):
//! what runs is counted among the leased jobs, and starts are rows that are kept for the time of
//! their rate. Jobs of a queue that is limited by partition need one, so those that are there get
//! theirs first, in steps, before the limits begin to hold.

use std::time::{Duration, SystemTime};

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::error::{Error, ErrorKind};
use brigade_core::limits::{Limits, Rate};
use brigade_core::why::Blocker;

const SET_PARTED: Statement =
    Statement::write_again("limit a queue", "select brigade.set_parted($1)");
const GIVE_PARTITIONS: Statement = Statement::write_again(
    "limit a queue",
    "select brigade.give_partitions($1, $2, $3)",
);
const SET_LIMITS: Statement =
    Statement::write_again("limit a queue", "select brigade.set_limits($1, $2, $3)");
const GATE: Statement = Statement::read(
    "look at the limits of a queue",
    "select partition, running, started, first, brigade.wall() from brigade.gate($1, $2::text::jsonb) \
        where partition is null or partition = $3 order by partition nulls first",
);

/// Jobs that get their partitions in one transaction.
const JOBS_AT_ONCE: i32 = 2_000;

impl Database {
    /// Limits a queue, or takes its limits away. Where jobs are counted by partition, those that
    /// are there get theirs first.
    pub(super) async fn limit(&self, queue: &str, limits: Option<&Limits>) -> Result<(), Error> {
        // What runs is found by an index of jobs with partitions.
        let is_parted =
            limits.is_some_and(|limits| limits.is_by_partition() || limits.running.is_some());
        let text = limits.map(serde_json::to_string).transpose();
        let text = text.map_err(|e| {
            Error::new(ErrorKind::Encode, "write the limits of a queue").with_source(e)
        })?;
        if is_parted {
            self.row(SET_PARTED, &[&queue]).await?;
            let mut after = Some(0_i64);
            while let Some(last) = after {
                let row = self
                    .row(GIVE_PARTITIONS, &[&queue, &last, &JOBS_AT_ONCE])
                    .await?;
                let row = row.ok_or_else(|| unreadable(GIVE_PARTITIONS.what))?;
                after = row
                    .try_get(0)
                    .map_err(|_| unreadable(GIVE_PARTITIONS.what))?;
            }
        }
        self.row(SET_LIMITS, &[&queue, &text, &is_parted])
            .await
            .map(drop)
    }

    /// Which limits of its queue hold back a job of this partition.
    pub(super) async fn limit_blockers(
        &self,
        queue: &str,
        limits: &str,
        partition: &str,
    ) -> Result<Vec<Blocker>, Error> {
        let parsed = super::counts::limits_of(queue, limits)?;
        let rows = self.rows(GATE, &[&queue, &limits, &partition]).await?;
        let mut blockers = Vec::new();
        for row in &rows {
            let read = || -> Result<LimitUse, tokio_postgres::Error> {
                Ok(LimitUse {
                    partition: row.try_get(0)?,
                    running: row.try_get::<_, i64>(1)?.unsigned_abs(),
                    started: row.try_get::<_, i64>(2)?.unsigned_abs(),
                    first: row.try_get(3)?,
                    now: row.try_get(4)?,
                })
            };
            let busy = read().map_err(|_| unreadable(GATE.what))?;
            blockers.extend(busy.blocker(&parsed));
        }
        Ok(blockers)
    }
}

/// What of a queue, or of a partition, runs and was started.
struct LimitUse {
    partition: Option<String>,
    running: u64,
    started: u64,
    /// The first of those starts.
    first: Option<SystemTime>,
    now: SystemTime,
}

impl LimitUse {
    fn blocker(self, limits: &Limits) -> Option<Blocker> {
        let (limit, rate) = if self.partition.is_none() {
            (limits.running, limits.starts)
        } else {
            (limits.running_per_partition, limits.starts_per_partition)
        };
        match (limit, rate) {
            (Some(limit), _) if self.running >= u64::from(limit) => Some(Blocker::RunningLimit {
                partition: self.partition,
                limit,
                running: self.running,
            }),
            (_, Some(rate)) if self.started >= u64::from(rate.starts) => Some(Blocker::RateLimit {
                free_in: self.free_in(rate),
                partition: self.partition,
                rate,
            }),
            _ => None,
        }
    }

    fn free_in(&self, rate: Rate) -> Duration {
        let first = self.first.unwrap_or(self.now);
        let passed = self.now.duration_since(first).unwrap_or_default();
        rate.per.saturating_sub(passed)
    }
}

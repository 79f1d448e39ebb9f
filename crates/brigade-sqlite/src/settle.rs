//! Settling: how leases and jobs end.
//!
//! A settlement counts only with the token of the lease that holds the job, before that lease ran
//! out; otherwise it is stale and changes nothing. Each settlement of a batch has its own answer,
//! and one that fails is undone alone. What becomes of a failed job is decided by `policy`; here it
//! is stored, with the job's history, and its dependents go on (`flow`).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Row, params};

use super::counted::Count;
use super::job_change::{Cause, ChangedJob};
use super::store::{Store, code, millis, row_id};
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord, JobState};
use crate::policy::{
    Charged, ChargedEnd, NEXT_TOO_LATE, NoRetry, RetryDecision, RetryRule, add_record,
};
use crate::retry::jitter;
use brigade_core::JobEventKind;
use brigade_core::options::Options;
use brigade_core::store::{Disposition, Settled, Settlement};

/// What decides over a leased job.
struct LeasedRow {
    options: Options,
    charged: Charged,
    cancel: Option<String>,
    begins_by: Option<i64>,
    queue: String,
    task: Option<String>,
    attempt: u32,
    leased_at: Option<i64>,
}

impl LeasedRow {
    /// What the event of this end says.
    fn cause<'a>(&self, disposition: &'a Disposition) -> Cause<'a> {
        let (kind, reason, report) = match disposition {
            Disposition::Ack { report, .. } => (JobEventKind::Done, None, report.as_ref()),
            Disposition::Extend(_) => (JobEventKind::Done, None, None),
            Disposition::Fail {
                kind,
                reason,
                report,
                ..
            } => (JobEventKind::from(*kind), Some(reason), report.as_ref()),
            Disposition::GiveBack { kind, reason, .. } => {
                (JobEventKind::from(*kind), Some(reason), None)
            }
            Disposition::DeadLetter(reason) => (JobEventKind::Dead, Some(reason), None),
            Disposition::Cancelled { reason, report, .. } => {
                (JobEventKind::Cancelled, Some(reason), report.as_ref())
            }
        };
        Cause {
            kind,
            attempt: self.attempt,
            reason: reason.map(String::as_str),
            cost: report.map(|report| &report.cost),
        }
    }

    /// The job when it is back in its queue.
    fn waits_again(&self, id: i64) -> ChangedJob<'_> {
        ChangedJob {
            id,
            queue: &self.queue,
            task: self.task.as_deref(),
            state: None,
        }
    }
}

impl Store<'_> {
    /// Ends leases. Each has its own answer: one that cannot be settled holds up no other.
    pub(super) fn settle_all(
        &self,
        settlements: &[Arc<Settlement>],
    ) -> Result<Vec<Result<Settled, Error>>, Error> {
        let (what, counted) = ("settle jobs", self.counted_so_far());
        self.execute(what, "SAVEPOINT settlements", &[])?;
        let together: Result<Vec<_>, Error> = settlements
            .iter()
            .map(|settlement| self.settle(settlement).map(Ok))
            .collect();
        let answers = match together {
            Ok(answers) => answers,
            // An error that ended the whole transaction is the answer of all of them.
            Err(error) if self.connection.is_autocommit() => return Err(error),
            Err(_) => {
                self.execute(what, "ROLLBACK TO settlements", &[])?;
                self.forget_counted(counted);
                settlements
                    .iter()
                    .map(|settlement| self.settle_alone(settlement))
                    .collect::<Result<_, Error>>()?
            }
        };
        self.execute(what, "RELEASE settlements", &[])?;
        Ok(answers)
    }

    /// One settlement in a savepoint; an error outside of its answer is one of the transaction.
    fn settle_alone(&self, settlement: &Settlement) -> Result<Result<Settled, Error>, Error> {
        let (what, counted) = ("settle a job", self.counted_so_far());
        self.execute(what, "SAVEPOINT settlement", &[])?;
        let answer = self.settle(settlement);
        if answer.is_err() {
            self.execute(what, "ROLLBACK TO settlement", &[])?;
            self.forget_counted(counted);
        }
        self.execute(what, "RELEASE settlement", &[])?;
        Ok(answer)
    }

    /// Ends a lease, if the token still holds it.
    fn settle(&self, settlement: &Settlement) -> Result<Settled, Error> {
        let id = row_id(&settlement.id);
        if let Disposition::Ack { report, .. } = &settlement.disposition
            && self.remove_plain(id, settlement.token, report.as_deref())?
        {
            return Ok(Settled::Accepted(None));
        }
        let Some(held) = self.held_lease(id, settlement.token)? else {
            return Ok(Settled::Stale);
        };
        let cause = held.cause(&settlement.disposition);
        if !matches!(settlement.disposition, Disposition::Extend(_)) {
            self.count_run(&held, &cause);
        }
        match &settlement.disposition {
            Disposition::Ack { result, report } => {
                if held.options.keep.is_some() {
                    self.note_attempt(id, AttemptKind::Done, "", report.clone(), None)?;
                }
                self.done(id, held.options.keep, result.as_deref(), &cause)?;
            }
            Disposition::Fail {
                kind,
                reason,
                report,
                advice,
                policy,
            } => {
                self.note_attempt(id, *kind, reason, report.clone(), None)?;
                let rule = RetryRule::of_job(&held.options, *policy);
                self.failed(id, &held, &rule, ChargedEnd::of(*kind, *advice), &cause)?;
            }
            Disposition::GiveBack {
                kind,
                reason,
                after,
            } => self.give_back(id, *kind, reason, *after)?,
            Disposition::DeadLetter(reason) => {
                self.note_attempt(id, AttemptKind::SetAside, reason, None, None)?;
                self.dead_unless_cancelled(id, &held, reason, &cause)?;
            }
            Disposition::Cancelled {
                reason,
                stop,
                report,
            } => {
                let (report, stop) = (report.clone(), stop.clone());
                self.note_attempt(id, AttemptKind::Cancelled, reason, report, stop)?;
                self.cancelled(id, reason, cause)?;
            }
            Disposition::Extend(time) => {
                self.extend(id, *time)?;
                return Ok(Settled::Accepted(held.cancel));
            }
        }
        Ok(Settled::Accepted(None))
    }

    /// Counts how long an attempt ran that ended well, failed or crashed.
    fn count_run(&self, held: &LeasedRow, cause: &Cause<'_>) {
        if !matches!(
            cause.kind,
            JobEventKind::Done | JobEventKind::Failed | JobEventKind::Crashed
        ) {
            return;
        }
        let since_lease = || self.time_since(held.leased_at);
        let took = cause.cost.map_or_else(since_lease, |cost| cost.wall);
        self.count(&held.queue, held.task.as_deref(), Count::Run(took));
    }

    /// How long ago this was, wall clock; no time if that is not known, or if the clock was set
    /// back since.
    pub(super) fn time_since(&self, then: Option<i64>) -> Duration {
        let passed = then.map_or(0, |then| self.now.wall.saturating_sub(then));
        Duration::from_millis(u64::try_from(passed).unwrap_or(0))
    }

    /// The job, if this token holds it and the lease has not run out.
    fn held_lease(&self, id: i64, token: i64) -> Result<Option<LeasedRow>, Error> {
        let sql = "SELECT options, failed, crashed, cancel, begins_by, queue, task, attempts, \
            leased_at FROM brigade_jobs
                   WHERE id = ?1 AND state = 3 AND token = ?2 AND lease_until >= ?3";
        let read = |row: &Row<'_>| {
            let options: Option<String> = row.get(0)?;
            // They were read when the job was handed out.
            let options = options
                .and_then(|options| serde_json::from_str(&options).ok())
                .unwrap_or_default();
            Ok(LeasedRow {
                options,
                charged: Charged {
                    failed: row.get(1)?,
                    crashed: row.get(2)?,
                },
                cancel: row.get(3)?,
                begins_by: row.get(4)?,
                queue: row.get(5)?,
                task: row.get(6)?,
                attempt: row.get(7)?,
                leased_at: row.get(8)?,
            })
        };
        self.row(
            "look up a lease",
            sql,
            params![id, token, self.now.boot],
            read,
        )
    }

    fn extend(&self, id: i64, time: Duration) -> Result<(), Error> {
        let until = self.now.boot.saturating_add(millis(time));
        self.execute(
            "extend a lease",
            "UPDATE brigade_jobs SET lease_until = ?2 WHERE id = ?1",
            params![id, until],
        )
        .map(drop)
    }

    fn failed(
        &self,
        id: i64,
        held: &LeasedRow,
        rule: &RetryRule,
        end: ChargedEnd,
        cause: &Cause<'_>,
    ) -> Result<(), Error> {
        let reason = cause.reason.unwrap_or_default();
        let count = match end {
            ChargedEnd::Crashed => {
                "UPDATE brigade_jobs SET crashed = crashed + 1, unserved = 0, unserved_at = NULL \
                    WHERE id = ?1"
            }
            ChargedEnd::Failed(_) => {
                "UPDATE brigade_jobs SET failed = failed + 1, unserved = 0, unserved_at = NULL \
                    WHERE id = ?1"
            }
        };
        self.execute("count an attempt", count, params![id])?;
        let left = held.begins_by.map(|by| {
            Duration::from_millis(by.saturating_sub(self.now.wall).max(0).unsigned_abs())
        });
        match rule.decide(held.charged, end, left, jitter(0.5)) {
            _ if held.cancel.is_some() => self.dead_unless_cancelled(id, held, reason, cause),
            RetryDecision::Retry(pause) => {
                self.back_to_queue(id, JobState::Retrying, pause)?;
                self.note(&held.waits_again(id), cause)
            }
            RetryDecision::Stop(NoRetry::TooLate) => {
                let reason = format!("{reason}{NEXT_TOO_LATE}");
                self.dead(id, &reason, *cause)
            }
            RetryDecision::Stop(_) => self.dead_unless_cancelled(id, held, reason, cause),
        }
    }

    /// A cancel that was accepted while the job was leased holds, however its attempt ended but
    /// well.
    fn dead_unless_cancelled(
        &self,
        id: i64,
        held: &LeasedRow,
        reason: &str,
        cause: &Cause<'_>,
    ) -> Result<(), Error> {
        match &held.cancel {
            Some(cancel) => self.cancelled(id, cancel, *cause),
            None => self.dead(id, reason, *cause),
        }
    }

    /// Puts a job back whose holder said no word.
    pub(super) fn lose(&self, id: i64, reason: &str) -> Result<(), Error> {
        self.execute(
            "count an attempt",
            "UPDATE brigade_jobs SET lost = lost + 1 WHERE id = ?1",
            params![id],
        )?;
        self.give_back(id, AttemptKind::Interrupted, reason, Duration::ZERO)
    }

    /// Puts a job back where it was, uncharged.
    pub(super) fn give_back(
        &self,
        id: i64,
        kind: AttemptKind,
        reason: &str,
        after: Duration,
    ) -> Result<(), Error> {
        self.note_attempt(id, kind, reason, None, None)?;
        if kind == AttemptKind::Unserved {
            let sql = "UPDATE brigade_jobs SET unserved = unserved + 1, unserved_at = \
                coalesce(unserved_at, ?2) WHERE id = ?1";
            self.execute("count an attempt", sql, params![id, self.now.wall])?;
        }
        if kind == AttemptKind::Interrupted {
            self.execute(
                "count an attempt",
                "UPDATE brigade_jobs SET interrupted = interrupted + 1 WHERE id = ?1",
                params![id],
            )?;
        }
        // A cancel may have been accepted while it was leased: then it is not run again.
        let sql = "SELECT cancel, queue, task, attempts FROM brigade_jobs WHERE id = ?1";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, Option<String>>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, u32>(3)?,
            ))
        };
        let Some((cancel, queue, task, attempt)) =
            self.row("look up a job", sql, params![id], read)?
        else {
            return Ok(());
        };
        let cause = Cause {
            attempt,
            ..Cause::new(JobEventKind::from(kind), Some(reason))
        };
        if let Some(cancel) = cancel {
            return self.cancelled(id, &cancel, cause);
        }
        self.back_to_queue(id, JobState::Scheduled, after)?;
        let job = ChangedJob {
            id,
            queue: &queue,
            task: task.as_deref(),
            state: None,
        };
        self.note(&job, &cause)
    }

    /// Ready at once, or later in the given state. Its id has not changed, so neither has its
    /// place.
    fn back_to_queue(&self, id: i64, later: JobState, after: Duration) -> Result<(), Error> {
        let (state, due) = if after.is_zero() {
            // Since when it waits.
            (JobState::Ready, self.now.wall)
        } else {
            (later, self.now.wall.saturating_add(millis(after)))
        };
        let sql = "UPDATE brigade_jobs SET state = ?2, due = ?3, lease_until = NULL, holder = NULL, \
            leased_at = NULL WHERE id = ?1 RETURNING queue, key";
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
        let Some((queue, Some(key))) =
            self.row("give a job back", sql, params![id, code(state), due], read)?
        else {
            return Ok(());
        };
        if state == JobState::Ready {
            self.make_ready(id)?;
        }
        // An earlier one may have come back from the dead letters while this one was leased.
        self.release_key(&queue, &key)
    }

    /// Adds an attempt to the job's history.
    fn note_attempt(
        &self,
        id: i64,
        kind: AttemptKind,
        reason: &str,
        report: Option<Box<AttemptReport>>,
        stop: Option<StopReceipt>,
    ) -> Result<(), Error> {
        let sql = "SELECT history, attempts FROM brigade_jobs WHERE id = ?1";
        let read = |row: &Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, u32>(1)?));
        let Some((history, attempt)) = self.row("read a history", sql, params![id], read)? else {
            return Ok(());
        };
        let mut history: Vec<AttemptRecord> = history
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.now.wall).unwrap_or(0));
        add_record(
            &mut history,
            AttemptRecord {
                attempt,
                at,
                kind,
                reason: reason.to_owned(),
                report,
                stop,
            },
        );
        let text = serde_json::to_string(&history).map_err(|e| {
            Error::new(ErrorKind::Encode, format!("write a history: {e}")).with_source(e)
        })?;
        self.execute(
            "write a history",
            "UPDATE brigade_jobs SET history = ?2 WHERE id = ?1",
            params![id, text],
        )
        .map(drop)
    }
}

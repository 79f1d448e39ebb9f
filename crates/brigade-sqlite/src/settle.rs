//! Settling: how leases and jobs end.
//!
//! A settlement counts only with the token of the lease that holds the job, before that lease ran
//! out; otherwise it is stale and changes nothing. Each settlement of a batch has its own answer,
//! and one that fails is undone alone. What becomes of a failed job is decided by `policy`; here it
//! is stored, with the job's history, and its dependents go on (`flow`).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Row, params};

use super::flow::EndedJob;
use super::parent_results::DependencyResult;
use super::store::{Store, code, millis, row_id};
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord, JobState};
use crate::policy::{
    CANCELLED_KEPT, Charged, ChargedEnd, NEXT_TOO_LATE, NoRetry, RetryDecision, RetryRule,
    add_record,
};
use crate::retry::jitter;
use brigade_core::options::Options;
use brigade_core::store::{Disposition, Settled, Settlement};

/// What decides over a leased job.
struct LeasedRow {
    options: Options,
    charged: Charged,
    cancel: Option<String>,
    begins_by: Option<i64>,
}

impl Store<'_> {
    /// Ends leases. Each has its own answer: one that cannot be settled holds up no other.
    pub(super) fn settle_all(
        &self,
        settlements: &[Arc<Settlement>],
    ) -> Result<Vec<Result<Settled, Error>>, Error> {
        let what = "settle jobs";
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
        let what = "settle a job";
        self.execute(what, "SAVEPOINT settlement", &[])?;
        let answer = self.settle(settlement);
        if answer.is_err() {
            self.execute(what, "ROLLBACK TO settlement", &[])?;
        }
        self.execute(what, "RELEASE settlement", &[])?;
        Ok(answer)
    }

    /// Ends a lease, if the token still holds it.
    fn settle(&self, settlement: &Settlement) -> Result<Settled, Error> {
        let id = row_id(&settlement.id);
        if matches!(settlement.disposition, Disposition::Ack { .. })
            && self.remove_plain(id, settlement.token)?
        {
            return Ok(Settled::Accepted(None));
        }
        let Some(held) = self.held_lease(id, settlement.token)? else {
            return Ok(Settled::Stale);
        };
        match &settlement.disposition {
            Disposition::Ack { result, report } => {
                self.done(id, held.options.keep, result.as_deref(), report.clone())?;
            }
            Disposition::Fail {
                kind,
                reason,
                report,
                advice,
                policy,
            } => {
                self.note(id, *kind, reason, report.clone(), None)?;
                let rule = RetryRule::of_job(&held.options, *policy);
                self.failed(id, &held, &rule, ChargedEnd::of(*kind, *advice), reason)?;
            }
            Disposition::GiveBack {
                kind,
                reason,
                after,
            } => self.give_back(id, *kind, reason, *after)?,
            Disposition::DeadLetter(reason) => {
                self.note(id, AttemptKind::SetAside, reason, None, None)?;
                self.dead_unless_cancelled(id, &held, reason)?;
            }
            Disposition::Cancelled {
                reason,
                stop,
                report,
            } => {
                let (report, stop) = (report.clone(), stop.clone());
                self.note(id, AttemptKind::Cancelled, reason, report, stop)?;
                self.cancelled(id, reason)?;
            }
            Disposition::Extend(time) => {
                self.extend(id, *time)?;
                return Ok(Settled::Accepted(held.cancel));
            }
        }
        Ok(Settled::Accepted(None))
    }

    /// The job, if this token holds it and the lease has not run out.
    fn held_lease(&self, id: i64, token: i64) -> Result<Option<LeasedRow>, Error> {
        let sql = "SELECT options, failed, crashed, cancel, begins_by FROM brigade_jobs
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

    /// Most jobs that are done leave nothing behind and let no other go on: one statement removes
    /// them. `false` for any other.
    fn remove_plain(&self, id: i64, token: i64) -> Result<bool, Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id = ?1 AND state = 3 AND token = ?2 AND \
            lease_until >= ?3
                     AND key IS NULL AND dependent IS NULL AND parents = 0 AND (options IS NULL OR \
                     options ->> 'keep' IS NULL)";
        Ok(self.execute(
            "remove a job that is done",
            sql,
            params![id, token, self.now.boot],
        )? > 0)
    }

    fn done(
        &self,
        id: i64,
        keep: Option<Duration>,
        result: Option<&str>,
        report: Option<Box<AttemptReport>>,
    ) -> Result<(), Error> {
        let fate = DependencyResult::Done(result.map(Into::into));
        let Some(keep) = keep else {
            return self.remove_job(id, Some(&fate));
        };
        self.note(id, AttemptKind::Done, "", report, None)?;
        let remove_at = self.now.wall.saturating_add(millis(keep));
        self.execute(
            "keep a result",
            "UPDATE brigade_jobs SET result = ?2 WHERE id = ?1",
            params![id, result],
        )?;
        self.end_as(id, JobState::Done, None, Some(remove_at), &fate)
    }

    fn failed(
        &self,
        id: i64,
        held: &LeasedRow,
        rule: &RetryRule,
        end: ChargedEnd,
        reason: &str,
    ) -> Result<(), Error> {
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
            _ if held.cancel.is_some() => self.dead_unless_cancelled(id, held, reason),
            RetryDecision::Retry(pause) => self.back_to_queue(id, JobState::Retrying, pause),
            RetryDecision::Stop(NoRetry::TooLate) => {
                let reason = format!("{reason}{NEXT_TOO_LATE}");
                self.end_job(id, JobState::Dead, Some(&reason), None)
            }
            RetryDecision::Stop(_) => self.dead_unless_cancelled(id, held, reason),
        }
    }

    /// A cancel that was accepted while the job was leased holds, however its attempt ended but
    /// well.
    fn dead_unless_cancelled(&self, id: i64, held: &LeasedRow, reason: &str) -> Result<(), Error> {
        match &held.cancel {
            Some(cancel) => self.cancelled(id, cancel),
            None => self.end_job(id, JobState::Dead, Some(reason), None),
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
        self.note(id, kind, reason, None, None)?;
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
        // A cancel was accepted while it was leased: then it is not run again.
        let cancel = self.row(
            "look up a job",
            "SELECT cancel FROM brigade_jobs WHERE id = ?1",
            params![id],
            |row| row.get::<_, Option<String>>(0),
        )?;
        match cancel.flatten() {
            Some(reason) => self.cancelled(id, &reason),
            None => self.back_to_queue(id, JobState::Scheduled, after),
        }
    }

    /// Ready at once, or later in the given state. Its id has not changed, so neither has its
    /// place.
    fn back_to_queue(&self, id: i64, later: JobState, after: Duration) -> Result<(), Error> {
        let (state, due) = if after.is_zero() {
            (JobState::Ready, 0)
        } else {
            (later, self.now.wall.saturating_add(millis(after)))
        };
        let sql = "UPDATE brigade_jobs SET state = ?2, due = ?3, lease_until = NULL, holder = NULL \
            WHERE id = ?1 RETURNING queue, key";
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

    pub(super) fn cancelled(&self, id: i64, reason: &str) -> Result<(), Error> {
        let remove_at = self.now.wall.saturating_add(millis(CANCELLED_KEPT));
        self.end_job(id, JobState::Cancelled, Some(reason), Some(remove_at))
    }

    /// Settles a job for good that did not end well, and lets its dependents know.
    pub(super) fn end_job(
        &self,
        id: i64,
        state: JobState,
        reason: Option<&str>,
        remove_at: Option<i64>,
    ) -> Result<(), Error> {
        self.end_as(
            id,
            state,
            reason,
            remove_at,
            &DependencyResult::missed(id, state, reason),
        )
    }

    fn end_as(
        &self,
        id: i64,
        state: JobState,
        reason: Option<&str>,
        remove_at: Option<i64>,
        fate: &DependencyResult<'_>,
    ) -> Result<(), Error> {
        // Written out, as it is run for every job.
        let sql =
            "UPDATE brigade_jobs SET state = ?2, reason = ?3, remove_at = ?4, due = 0, lease_until \
                = NULL, holder = NULL WHERE id = ?1
                   RETURNING id, queue, key, dependent, place, parents";
        let ended = self.row(
            "end a job",
            sql,
            params![id, code(state), reason, remove_at],
            EndedJob::read,
        )?;
        ended.map_or(Ok(()), |ended| self.ended(&ended, Some(fate)))
    }

    /// Removes a job. `fate` is what its dependent gets; `None` if that got it before, because the
    /// job has ended.
    pub(super) fn remove_job(
        &self,
        id: i64,
        fate: Option<&DependencyResult<'_>>,
    ) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id = ?1 RETURNING id, queue, key, dependent, place, parents";
        let ended = self.row("remove a job", sql, params![id], EndedJob::read)?;
        ended.map_or(Ok(()), |ended| self.ended(&ended, fate))
    }

    /// Adds an attempt to the job's history.
    fn note(
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

//! Settling: leases become arrays for `brigade.settle`, which ends those that several callers
//! settle at about the same time in one call; each has its own answer.
//!
//! Whether an attempt is repeated is decided here by `policy`; the function compares the pause with
//! the time that is left, by the server's clock. If the call fails for one of them, they are
//! settled one by one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::column::SparseColumn;
use super::database::{Database, Statement, millis};
use super::push::ALONE_AT_ONCE;
use super::sql_error::unreadable;
use crate::attempt_report::{AttemptReport, Cost};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId};
use crate::policy::{Charged, ChargedEnd, RetryDecision, RetryPolicy, RetryRule, record_from_kind};
use crate::retry::jitter;
use brigade_core::JobEventKind;
use brigade_core::options::Options;
use brigade_core::store::{Disposition, Settled, Settlement};

const SETTLE: Statement = Statement::write(
    "settle jobs",
    "select brigade.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
);
const FAILED: Statement = Statement::read(
    "look up jobs",
    "select id, failed, crashed, options from brigade.jobs where id = any($1)",
);

/// What a settlement costs besides its texts, in bytes of arguments that are read in that time.
const SETTLEMENT_WEIGHT: usize = 500;

/// For how much of a call these settlements are.
pub(super) fn weight_of(settlements: &[Arc<Settlement>]) -> usize {
    let bytes = settlements.iter().map(|settlement| {
        let text = match &settlement.disposition {
            Disposition::Ack { result, .. } => result.as_ref().map_or(0, |result| result.len()),
            Disposition::Fail { reason, .. } | Disposition::GiveBack { reason, .. } => reason.len(),
            _ => 0,
        };
        text + SETTLEMENT_WEIGHT
    });
    bytes.sum()
}

/// The number of a job; one that no job has, if it is not a number.
pub(super) fn number_of(id: &JobId) -> i64 {
    id.as_str().parse().unwrap_or(-1)
}

/// Text as the server can store it: without the character NUL, which is shown instead.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{2400}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A job whose attempt failed.
#[derive(Default)]
struct ChargedJob {
    charged: Charged,
    options: Options,
}

impl ChargedJob {
    fn decide(&self, end: ChargedEnd, policy: RetryPolicy) -> RetryDecision {
        RetryRule::of_job(&self.options, policy).decide(self.charged, end, None, jitter(0.5))
    }
}

/// Settlements as `brigade.settle` takes them.
#[derive(Default)]
struct SettleColumns<'a> {
    ids: Vec<i64>,
    tokens: Vec<i64>,
    actions: Vec<&'static str>,
    kinds: Vec<&'static str>,
    reasons: SparseColumn<Cow<'a, str>>,
    records: SparseColumn<String>,
    results: SparseColumn<&'a str>,
    times: SparseColumn<i64>,
    costs: SparseColumn<String>,
    runs: SparseColumn<i64>,
}

/// One of them.
#[derive(Default)]
struct SettleRow<'a> {
    action: &'static str,
    kind: Option<JobEventKind>,
    reason: Option<&'a str>,
    record: Option<String>,
    result: Option<&'a str>,
    time: Option<Duration>,
    cost: Option<&'a Cost>,
}

impl<'a> SettleColumns<'a> {
    fn add(&mut self, settlement: &'a Settlement, failed: &ChargedJob) -> Result<(), Error> {
        let row = row_of(&settlement.disposition, failed)?;
        self.ids.push(number_of(&settlement.id));
        self.tokens.push(settlement.token);
        self.actions.push(row.action);
        self.kinds.push(row.kind.map_or("", JobEventKind::name));
        self.reasons.push(row.reason.map(storable));
        self.records.push(row.record);
        self.results.push(row.result);
        self.times.push(row.time.map(millis));
        let cost = row.cost.map(serde_json::to_string).transpose();
        self.costs.push(cost.map_err(unwritable)?);
        self.runs.push(row.cost.map(|cost| millis(cost.wall)));
        Ok(())
    }
}

fn row_of<'a>(disposition: &'a Disposition, charged: &ChargedJob) -> Result<SettleRow<'a>, Error> {
    Ok(match disposition {
        Disposition::Ack { result, report } => SettleRow {
            action: "done",
            kind: Some(JobEventKind::Done),
            result: result.as_deref(),
            record: Some(record_from_kind(
                AttemptKind::Done,
                "",
                report.as_deref(),
                None,
            )?),
            cost: report.as_deref().map(|report| &report.cost),
            ..SettleRow::default()
        },
        Disposition::Fail {
            kind,
            reason,
            report,
            advice,
            policy,
        } => {
            let decision = charged.decide(ChargedEnd::of(*kind, *advice), *policy);
            row_of_failure(*kind, reason, report.as_deref(), decision)?
        }
        Disposition::GiveBack {
            kind,
            reason,
            after,
        } => SettleRow {
            action: "back",
            kind: Some(JobEventKind::from(*kind)),
            reason: Some(reason),
            record: Some(record_from_kind(*kind, reason, None, None)?),
            time: Some(*after),
            ..SettleRow::default()
        },
        Disposition::DeadLetter(reason) => SettleRow {
            action: "dead",
            kind: Some(JobEventKind::Dead),
            reason: Some(reason),
            record: Some(record_from_kind(AttemptKind::SetAside, reason, None, None)?),
            ..SettleRow::default()
        },
        Disposition::Cancelled {
            reason,
            stop,
            report,
        } => SettleRow {
            action: "cancelled",
            kind: Some(JobEventKind::Cancelled),
            reason: Some(reason),
            record: Some(record_from_kind(
                AttemptKind::Cancelled,
                reason,
                report.as_deref(),
                stop.as_ref(),
            )?),
            cost: report.as_deref().map(|report| &report.cost),
            ..SettleRow::default()
        },
        Disposition::Extend(time) => SettleRow {
            action: "extend",
            time: Some(*time),
            ..SettleRow::default()
        },
    })
}

fn row_of_failure<'a>(
    kind: AttemptKind,
    reason: &'a str,
    report: Option<&'a AttemptReport>,
    decision: RetryDecision,
) -> Result<SettleRow<'a>, Error> {
    let (action, time) = match decision {
        RetryDecision::Retry(pause) => ("retry", Some(pause)),
        RetryDecision::Stop(_) => ("dead", None),
    };
    Ok(SettleRow {
        action,
        kind: Some(JobEventKind::from(kind)),
        reason: Some(reason),
        record: Some(record_from_kind(kind, reason, report, None)?),
        time,
        cost: report.map(|report| &report.cost),
        ..SettleRow::default()
    })
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Encode, "write a history").with_source(error)
}

fn settled(answer: &str) -> Option<Settled> {
    match answer {
        "stale" => Some(Settled::Stale),
        "accepted" => Some(Settled::Accepted(None)),
        other => {
            let reason = other.strip_prefix("cancel ")?;
            Some(Settled::Accepted(Some(reason.to_owned())))
        }
    }
}

impl Database {
    /// One call for all these settlements; to each its answer.
    pub(super) async fn settle_together(
        &self,
        settlements: &[Arc<Settlement>],
    ) -> Vec<Result<Settled, Error>> {
        let error = match self.settle_at_once(settlements).await {
            Ok(answers) => return answers.into_iter().map(Ok).collect(),
            Err(error) => error,
        };
        if settlements.len() == 1 || error.is_uncertain() || error.kind() == ErrorKind::Unreachable
        {
            return settlements.iter().map(|_| Err(error.copy())).collect();
        }
        // One of them is refused, or waits for another transaction.
        let until = Instant::now() + self.pool.connector.config.answer_timeout;
        let mut answers = Vec::with_capacity(settlements.len());
        for few in settlements.chunks(ALONE_AT_ONCE) {
            if error.kind() == ErrorKind::Timeout && Instant::now() >= until {
                answers.extend(few.iter().map(|_| Err(error.copy())));
            } else {
                answers.extend(join_all(few.iter().map(|one| self.settle_alone(one))).await);
            }
        }
        answers
    }

    async fn settle_alone(&self, settlement: &Arc<Settlement>) -> Result<Settled, Error> {
        let answers = self
            .settle_at_once(std::slice::from_ref(settlement))
            .await?;
        let answer = answers.into_iter().next();
        answer.ok_or_else(|| unreadable("settle a job").uncertain())
    }

    async fn settle_at_once(&self, settlements: &[Arc<Settlement>]) -> Result<Vec<Settled>, Error> {
        let failed = self.failed_jobs(settlements).await?;
        let (mut columns, none) = (SettleColumns::default(), ChargedJob::default());
        for settlement in settlements {
            let job = failed.get(&number_of(&settlement.id)).unwrap_or(&none);
            columns.add(settlement, job)?;
        }
        let SettleColumns {
            ids,
            tokens,
            actions,
            kinds,
            reasons,
            records,
            results,
            times,
            costs,
            runs,
        } = &columns;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            ids, tokens, actions, kinds, reasons, records, results, times, costs, runs,
        ];
        let row = self.row(SETTLE, &values).await?;
        let answers: Option<Vec<String>> = row.and_then(|row| row.try_get(0).ok());
        let answers = answers
            .and_then(|answers| answers.iter().map(|answer| settled(answer)).collect())
            .filter(|answers: &Vec<Settled>| answers.len() == settlements.len());
        answers.ok_or_else(|| unreadable("settle jobs").uncertain())
    }

    /// What is known of the jobs whose attempts failed.
    async fn failed_jobs(
        &self,
        settlements: &[Arc<Settlement>],
    ) -> Result<HashMap<i64, ChargedJob>, Error> {
        let is_failure = |settlement: &&Arc<Settlement>| {
            matches!(settlement.disposition, Disposition::Fail { .. })
        };
        let failed = settlements.iter().filter(is_failure);
        let ids: Vec<i64> = failed.map(|settlement| number_of(&settlement.id)).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.rows(FAILED, &[&ids]).await?;
        let read = |row: &tokio_postgres::Row| {
            let (failed, crashed): (i32, i32) = (row.try_get(1).ok()?, row.try_get(2).ok()?);
            let options: Option<&str> = row.try_get(3).ok()?;
            let job = ChargedJob {
                charged: Charged {
                    failed: failed.unsigned_abs(),
                    crashed: crashed.unsigned_abs(),
                },
                // They were read when the job was handed out.
                options: options
                    .and_then(|options| serde_json::from_str(options).ok())
                    .unwrap_or_default(),
            };
            Some((row.try_get(0).ok()?, job))
        };
        Ok(rows.iter().filter_map(read).collect())
    }
}

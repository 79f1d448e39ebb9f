//! A job as the API shows it.
//!
//! The names are those of `brigade jobs --json`; a new field is an addition. Moments are RFC 3339
//! in UTC, times are seconds, payloads and results are JSON as they are. Text of other programs
//! that is no JSON is shown as a string, so that one broken job does not hide the others.

use brigade::{AttemptRecord, JobInfo, JobState, StopReceipt};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::values::rfc3339;

/// A job as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobDocument {
    /// Its id.
    #[schema(example = "42")]
    pub(crate) id: String,
    /// Its queue.
    #[schema(example = "emails")]
    pub(crate) queue: String,
    /// The task, if it is a task's.
    pub(crate) task: Option<String>,
    /// Where it is in its life.
    #[schema(value_type = StateName)]
    pub(crate) state: JobState,
    /// Its payload; left out for a token without the role `read`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub(crate) payload: Option<Box<RawValue>>,
    /// Its priority.
    pub(crate) priority: i32,
    /// Its key.
    pub(crate) key: Option<String>,
    /// Its partition.
    pub(crate) partition: Option<String>,
    /// Its label.
    pub(crate) label: Option<String>,
    /// The tick it was pushed for, if a schedule did.
    pub(crate) tick: Option<TickDocument>,
    /// When it was pushed.
    #[schema(format = DateTime)]
    pub(crate) pushed_at: String,
    /// When it was handed out, if it is leased.
    #[schema(format = DateTime)]
    pub(crate) leased_at: Option<String>,
    /// When it ended, if it did and its broker kept that.
    #[schema(format = DateTime)]
    pub(crate) ended_at: Option<String>,
    /// When it is due, if it is scheduled or waits for a retry.
    #[schema(format = DateTime)]
    pub(crate) due_at: Option<String>,
    /// No attempt begins later than this.
    #[schema(format = DateTime)]
    pub(crate) begins_by: Option<String>,
    /// Attempts that its code ended with an error.
    pub(crate) failed: u32,
    /// Attempts that took their worker down.
    pub(crate) crashed: u32,
    /// Attempts that were cut short without fault of its own.
    pub(crate) interrupted: u32,
    /// Those of the interrupted whose holder died or hung.
    pub(crate) lost: u32,
    /// Who has it, if it is leased.
    pub(crate) holder: Option<String>,
    /// Why it is being cancelled, if its holder has been asked to stop it; null for a token without
    /// the role `read`.
    pub(crate) cancel: Option<String>,
    /// Its result, if it is done; null for a token without the role `read`.
    #[schema(value_type = Option<Value>)]
    pub(crate) result: Option<Box<RawValue>>,
    /// Why it ended, if it is dead or cancelled; null for a token without the role `read`.
    pub(crate) reason: Option<String>,
    /// The jobs of its flow that it waits for, or waited for.
    pub(crate) parents: Option<ParentsDocument>,
    /// The job of its flow that waits for it.
    pub(crate) dependent: Option<String>,
    /// Its attempts that did not end well: the newest 20.
    pub(crate) history: Vec<AttemptDocument>,
}

/// Where a job is in its life.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the schema of `JobState`")]
pub(crate) enum StateName {
    Scheduled,
    Ready,
    Blocked,
    Leased,
    Retrying,
    Done,
    Dead,
    Cancelled,
}

/// A tick of a schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TickDocument {
    /// The schedule.
    schedule: String,
    /// The moment.
    #[schema(format = DateTime)]
    at: String,
}

/// What a job of a flow waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ParentsDocument {
    /// How many jobs it waits for, from the beginning.
    total: u32,
    /// Those of them that are settled for good.
    settled: u32,
    /// Those that ended otherwise than done.
    missed: u32,
    /// Those that are not settled: the first 20.
    unsettled: Vec<String>,
}

/// An attempt that did not end well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptDocument {
    /// Its number, from 1.
    attempt: u32,
    /// When it ended.
    #[schema(format = DateTime)]
    at: String,
    /// How: failed, crashed, interrupted, passed, cancelled, set aside, unserved.
    #[schema(example = "failed")]
    kind: Value,
    /// Why, in words; left out for a token without the role `read`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What it cost and left behind, if it ran in a worker process; left out for a token without
    /// the role `read`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
    /// How it was stopped, if it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<StopDocument>,
}

/// How an attempt was stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StopDocument {
    /// By which step of the kill ladder.
    #[schema(example = "Killed")]
    step: Value,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// How many seconds it took.
    seconds: f64,
}

impl From<JobInfo> for JobDocument {
    fn from(job: JobInfo) -> Self {
        Self {
            id: job.id.as_str().to_owned(),
            queue: job.queue,
            task: job.task,
            state: job.state,
            payload: Some(raw(&job.payload)),
            priority: job.priority,
            key: job.key,
            partition: job.partition,
            label: job.label,
            tick: job.tick.map(|tick| TickDocument {
                schedule: tick.schedule,
                at: rfc3339(tick.at),
            }),
            pushed_at: rfc3339(job.pushed_at),
            leased_at: job.leased_at.map(rfc3339),
            ended_at: job.ended_at.map(rfc3339),
            due_at: job.due_at.map(rfc3339),
            begins_by: job.begins_by.map(rfc3339),
            failed: job.failed,
            crashed: job.crashed,
            interrupted: job.interrupted,
            lost: job.lost,
            holder: job.holder,
            cancel: job.cancel,
            result: job.result.as_deref().map(raw),
            reason: job.reason,
            parents: job.parents.map(|parents| ParentsDocument {
                total: parents.total,
                settled: parents.settled,
                missed: parents.missed,
                unsettled: parents
                    .unsettled
                    .iter()
                    .map(|id| id.as_str().to_owned())
                    .collect(),
            }),
            dependent: job.dependent.map(|id| id.as_str().to_owned()),
            history: job.history.into_iter().map(AttemptDocument::from).collect(),
        }
    }
}

impl JobDocument {
    /// For a token without the role `read`: what became of the job, and nothing that its pusher or
    /// its attempts wrote. Ids can be guessed.
    pub(crate) fn without_contents(mut self) -> Self {
        (self.payload, self.result) = (None, None);
        (self.reason, self.cancel) = (None, None);
        for attempt in &mut self.history {
            (attempt.reason, attempt.report) = (None, None);
        }
        self
    }
}

impl From<AttemptRecord> for AttemptDocument {
    fn from(record: AttemptRecord) -> Self {
        Self {
            attempt: record.attempt,
            at: rfc3339(record.at),
            kind: value(&record.kind),
            reason: Some(record.reason),
            report: record.report.as_ref().map(value),
            stop: record.stop.as_ref().map(StopDocument::from),
        }
    }
}

impl From<&StopReceipt> for StopDocument {
    fn from(receipt: &StopReceipt) -> Self {
        Self {
            step: value(&receipt.step),
            at: rfc3339(receipt.at),
            seconds: receipt.took.as_secs_f64(),
        }
    }
}

/// A value of the library in its own JSON form.
pub(crate) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

/// JSON text of a job: itself, or a string if another program stored what is none.
pub(crate) fn raw(text: &str) -> Box<RawValue> {
    let value = serde_json::from_str::<&RawValue>(text).map(ToOwned::to_owned);
    value
        .or_else(|_| serde_json::value::to_raw_value(text))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

//! [`NewJob`]: a job as a request describes it.
//!
//! The names are those of `brigade push` and of the files of `brigade cron set`. The ranges of the
//! options are the library's to check; here only their form is. Unknown fields are refused, so that
//! a payload without its envelope, or a mistyped option, is not pushed by mistake.

use axum::http::HeaderMap;
use brigade::{Job, Retry, TraceParent};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::values::{Moment, Seconds};

/// A job to push.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"payload": {"to": "ann@example.org"}, "retries": 3, "delay": "5s"}))]
pub(crate) struct NewJob {
    /// The payload, any JSON. For a task it is its argument, or an array of its arguments.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// The queue, where the path does not say it.
    queue: Option<String>,
    /// Task that a Rust consumer runs. Default: the task that serves the queue.
    task: Option<String>,
    /// Jobs of a higher priority are handed out first. Default: 0.
    priority: Option<i32>,
    /// Not before this much time has passed.
    delay: Option<Seconds>,
    /// Not before this moment.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Moment>,
    /// Jobs of one key run in order, one at a time.
    key: Option<String>,
    /// While a job with this unique key is not settled for good, a push gives its id instead.
    unique: Option<String>,
    /// The unique key also holds for this long after the push.
    unique_for: Option<Seconds>,
    /// Partition for the limits of the queue. Default: its key.
    partition: Option<String>,
    /// Attempts after the first, if it fails. Default: those of the task's registration, else 0.
    retries: Option<u32>,
    /// The pauses between attempts.
    backoff: Option<Backoff>,
    /// Begin no attempt later than this after the push; then the job is a dead letter.
    within: Option<Seconds>,
    /// Longest time that one attempt may run.
    timeout: Option<Seconds>,
    /// Bytes of memory that an attempt may use.
    memory: Option<u64>,
    /// Bytes of address space that each process of an attempt may add.
    address_space: Option<u64>,
    /// CPU time that an attempt may use, with all processes that it starts.
    cpu: Option<Seconds>,
    /// Files that each process of an attempt may have open.
    files: Option<u32>,
    /// Processes and threads that an attempt may have at once.
    processes: Option<u32>,
    /// Largest size in bytes to which an attempt may write a file.
    file_size: Option<u64>,
    /// Keep the job and its result for this long after it is done. Default: it is removed at once.
    keep: Option<Seconds>,
    /// A name for people.
    label: Option<String>,
    /// The trace that it belongs to (W3C). Default: the header `traceparent` of the request.
    traceparent: Option<String>,
}

/// The pauses between attempts: the first, doubled with each attempt up to the longest.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Backoff {
    /// The first pause.
    base: Seconds,
    /// The longest pause.
    cap: Seconds,
}

impl NewJob {
    /// The job, in the queue of the path if that names one.
    pub(crate) fn job(self, queue: Option<&str>, headers: &HeaderMap) -> Result<Job, Problem> {
        let queue = match (queue, self.queue.as_deref()) {
            (Some(queue), Some(other)) if queue != other => {
                let text = format!("the path says queue {queue:?} and the job says {other:?}");
                return Err(Problem::bad_request(text));
            }
            (Some(queue), _) | (None, Some(queue)) => queue.to_owned(),
            (None, None) => {
                return Err(Problem::bad_request("the job does not say its `queue`"));
            }
        };
        if self.unique_for.is_some() && self.unique.is_none() {
            return Err(Problem::bad_request("`unique_for` needs `unique`, the key"));
        }
        if self.at.is_some() && self.delay.is_some() {
            return Err(Problem::bad_request("`at` and `delay` exclude each other"));
        }
        let traceparent = trace_of(self.traceparent.as_deref(), headers)?;
        let retry = self.retry();
        let mut job = Job::new(queue, self.task.map(Into::into), self.payload.get());
        let options = &mut job.options;
        options.priority = self.priority;
        options.retries = self.retries;
        options.retry = retry;
        options.delay = self.delay.map(|time| time.0);
        options.at = self.at.map(|moment| moment.0);
        options.key = self.key.map(Into::into);
        options.unique = self.unique.map(Into::into);
        options.unique_for = self.unique_for.map(|time| time.0);
        options.partition = self.partition.map(Into::into);
        options.timeout = self.timeout.map(|time| time.0);
        options.memory = self.memory;
        options.address_space = self.address_space;
        options.cpu = self.cpu.map(|time| time.0);
        options.files = self.files;
        options.processes = self.processes;
        options.file_size = self.file_size;
        options.keep = self.keep.map(|time| time.0);
        options.label = self.label.map(Into::into);
        options.traceparent = traceparent;
        job.options = job.options.bounded();
        Ok(job)
    }

    fn retry(&self) -> Option<Retry> {
        let retry = match self.backoff {
            Some(backoff) => Retry::exponential(backoff.base.0, backoff.cap.0),
            None if self.within.is_none() => return None,
            None => Retry::default(),
        };
        Some(match self.within {
            Some(within) => retry.within(within.0),
            None => retry,
        })
    }
}

/// The trace of a request: what the document says, else the header. A header that is none is
/// ignored, as W3C has it.
pub(crate) fn trace_of(
    given: Option<&str>,
    headers: &HeaderMap,
) -> Result<Option<TraceParent>, Problem> {
    if let Some(text) = given {
        return Ok(Some(text.parse::<TraceParent>()?));
    }
    let header = headers
        .get("traceparent")
        .and_then(|header| header.to_str().ok());
    Ok(header.and_then(|text| text.parse().ok()))
}

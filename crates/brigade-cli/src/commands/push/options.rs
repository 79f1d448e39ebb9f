//! The options of a job, and jobs made of them.

use std::time::{Duration, SystemTime};

use brigade::{Job, Queue, Retry};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::exit::usage;
use crate::times;

/// Options of a job; with lines of input, of each job.
#[derive(clap::Args)]
pub(super) struct PushOptions {
    /// Not before this moment (18:30, 2026-11-22 18:30, 2026-11-22T18:30:00Z)
    #[arg(long, value_name = "MOMENT", value_parser = times::moment, conflicts_with = "delay")]
    at: Option<SystemTime>,

    #[command(flatten)]
    other: JobOptions,
}

/// Options of a job that is pushed by arguments or by a schedule's document, which has the same
/// names with `_` in place of `-`.
#[derive(Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::commands) struct JobOptions {
    /// Jobs of a higher priority are handed out first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,

    /// Not before this much time has passed (250ms, 5s, 2m, 1h30m, 3d)
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    #[serde(deserialize_with = "times::optional")]
    delay: Option<Duration>,

    /// Jobs of one key run in order, one at a time
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Push nothing while a job with this unique key has not ended, and print its id
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,

    /// The unique key also holds for this long after the push
    #[arg(long, value_name = "TIME", value_parser = times::duration, requires = "unique")]
    #[serde(deserialize_with = "times::optional")]
    unique_for: Option<Duration>,

    /// Partition for the limits of the queue [default: its key]
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,

    /// Attempts after the first, if it fails [default: that of the task's registration, else 0]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,

    /// Begin no attempt later than this after the push; then the job is a dead letter
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    #[serde(deserialize_with = "times::optional")]
    within: Option<Duration>,

    /// Longest time that one attempt may run [default: that of the task's registration, else no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    #[serde(deserialize_with = "times::optional")]
    timeout: Option<Duration>,

    /// Task that a Rust consumer runs [default: the task that serves the queue]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,

    /// Keep the job and its result for this long after it is done [default: it is removed at once]
    #[arg(long, value_name = "TIME", value_parser = times::duration)]
    #[serde(deserialize_with = "times::optional")]
    keep: Option<Duration>,

    /// A name for people
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

impl PushOptions {
    pub(super) fn set_on(&self, job: Job) -> Job {
        let job = self.other.set_on(job);
        if let Some(at) = self.at {
            job.at(at)
        } else {
            job
        }
    }
}

impl JobOptions {
    pub(in crate::commands) fn set_on(&self, mut job: Job) -> Job {
        if let Some(priority) = self.priority {
            job = job.priority(priority);
        }
        if let Some(delay) = self.delay {
            job = job.delay(delay);
        }
        if let Some(key) = &self.key {
            job = job.key(key.as_str());
        }
        if let Some(key) = &self.unique {
            job = match self.unique_for {
                Some(period) => job.unique_for(key.as_str(), period),
                None => job.unique(key.as_str()),
            };
        }
        if let Some(partition) = &self.partition {
            job = job.partition(partition.as_str());
        }
        if let Some(retries) = self.retries {
            job = job.retries(retries);
        }
        if let Some(within) = self.within {
            job = job.retry(Retry::default().within(within));
        }
        if let Some(timeout) = self.timeout {
            job = job.timeout(timeout);
        }
        if let Some(task) = &self.task {
            job = job.task(task.as_str());
        }
        if let Some(keep) = self.keep {
            job = job.keep(keep);
        }
        if let Some(label) = &self.label {
            job = job.label(label.as_str());
        }
        job
    }
}

/// A payload from the command line.
pub(in crate::commands) fn payload(text: &str) -> anyhow::Result<&RawValue> {
    serde_json::from_str(text).map_err(|e| {
        usage(format!(
            "the payload is not JSON: {e}; text has quotes of its own: '\"text\"'"
        ))
    })
}

pub(super) fn job_of(
    queue: &Queue,
    payload: &RawValue,
    options: &PushOptions,
) -> anyhow::Result<Job> {
    Ok(options.set_on(queue.job(payload)?))
}

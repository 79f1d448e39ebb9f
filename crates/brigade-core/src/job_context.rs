//! [`JobContext`]: the job that an attempt belongs to. It travels with a call, so it is not part of
//! `job`.

use serde::{Deserialize, Serialize};

use crate::traceparent::TraceParent;

/// The job that an attempt belongs to: see [`Context::job`](crate::Context::job).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobContext {
    /// Its id at its broker, the same for every attempt; also of the jobs that calls are at brokers
    /// which keep results as jobs.
    pub id: String,
    /// The queue that it was handed out from.
    pub queue: String,
    /// Its key, see `Job::key`.
    pub key: Option<String>,
    /// Its name for people.
    pub label: Option<String>,
    /// Number of this attempt, from 1; passes and interruptions do not count.
    pub attempt: u32,
    /// How many attempts before this one did not end well: those that failed or crashed, and those
    /// whose holder was lost without a word. Any of them may have done a part of the work.
    pub history: u32,
    /// The trace that it belongs to, see [`Context::traceparent`](crate::Context::traceparent).
    /// It travels once, with the call.
    #[serde(skip)]
    pub traceparent: Option<TraceParent>,
}

impl JobContext {
    /// Number of the attempt that is the given one of a call which was made for this job.
    #[doc(hidden)]
    pub fn nth(&self, of_call: u32) -> u32 {
        self.attempt.saturating_add(of_call.saturating_sub(1))
    }
}

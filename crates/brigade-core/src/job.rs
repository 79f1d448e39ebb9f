//! Jobs: durable requests in a queue. Values only, the same for every broker.
//!
//! [`Job`] is what a producer pushes, [`JobInfo`] what a broker shows of it, [`AttemptRecord`] what
//! its history keeps of an attempt. They are stored and sent to other programs: a change of a field
//! is an addition, with a default for what was stored before.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::options::{Options, option_setters};
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::tick::Tick;
use crate::traceparent::TraceParent;

/// Names a job within its broker, for good: it is never given to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(Box<str>);

impl JobId {
    /// An id as it was printed.
    pub fn new(id: impl Into<Box<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ids may come from other programs, and this is what logs and terminals are given.
        match self.0.contains(char::is_control) {
            false => f.pad(&self.0),
            true => f.pad(&self.0.escape_default().to_string()),
        }
    }
}

/// Where a job is in its life; `docs/job-lifecycle.md` shows every arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Not due yet.
    Scheduled,
    /// It may be handed out.
    Ready,
    /// An earlier job of its key is not settled, or one of its flow that it waits for.
    Blocked,
    /// A holder has it.
    Leased,
    /// It failed and waits for its next attempt.
    Retrying,
    /// It ended well.
    Done,
    /// Set aside for a person.
    Dead,
    /// Cancelled before it ended.
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Ready,
        Self::Blocked,
        Self::Leased,
        Self::Retrying,
        Self::Done,
        Self::Dead,
        Self::Cancelled,
    ];

    /// Whether nothing more happens to the job by itself.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Blocked => "blocked",
            Self::Leased => "leased",
            Self::Retrying => "retrying",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        })
    }
}

/// A job to push: a JSON payload for a queue, with options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[must_use = "a job does nothing until it is pushed"]
pub struct Job {
    /// Its queue.
    pub queue: Box<str>,
    /// The task to run; `None` for plain data.
    pub task: Option<Box<str>>,
    /// The payload, JSON text.
    pub payload: Box<str>,
    /// Its options.
    pub options: Options,
    /// Its place in a flow. Positions mean something within one push only, so it is never stored
    /// with the job.
    #[serde(skip)]
    pub link: Option<FlowLink>,
}

/// A job's relations in a flow, by positions within its push. A dependent comes after its parents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowLink {
    /// The job that waits for this one.
    pub dependent: Option<usize>,
    /// Set if this job waits for its parents: the jobs whose `dependent` it is, in their order.
    pub dependent_kind: Option<DependentKind>,
}

/// What a job that waits does with its parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependentKind {
    /// Runs when all are done.
    Then,
    /// Runs when all are done, with their results before its own arguments.
    Front,
    /// Runs when all are done, with one array of their results before its own arguments.
    Collect,
    /// Runs when all are settled for good, however they ended.
    Finally,
    /// Is never run: it is done with the array of their results when all are done.
    Barrier,
}

impl DependentKind {
    /// The name under which stores keep it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Then => "then",
            Self::Front => "front",
            Self::Collect => "collect",
            Self::Finally => "finally",
            Self::Barrier => "barrier",
        }
    }
}

impl Job {
    /// A job with this JSON text as its payload, for stores. Programs make jobs with `Queue::job`,
    /// which writes the JSON, or from a call of a task.
    pub fn new(
        queue: impl Into<Box<str>>,
        task: Option<Box<str>>,
        payload: impl Into<Box<str>>,
    ) -> Self {
        Self {
            queue: queue.into(),
            task,
            payload: payload.into(),
            options: Options::default(),
            link: None,
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self.options = self.options.bounded();
        self
    }

    /// Has this task run, by its name, whatever the queue: the payload is its argument, or an array
    /// of its arguments. Default: the task that serves the queue.
    pub fn task(mut self, name: impl Into<Box<str>>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Not before this moment of the wall clock. Default: at once.
    pub fn at(self, at: SystemTime) -> Self {
        self.set(|options| options.at = Some(at))
    }

    option_setters!();
}

/// How an attempt of a job ended, as its history keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: SystemTime,
    /// How, in one word.
    pub kind: AttemptKind,
    /// Why, in words; empty if it is done.
    pub reason: String,
    /// How it ended in detail, and what it cost, if its holder reported that.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::attempt_report::brief::serialize"
    )]
    pub report: Option<Box<AttemptReport>>,
    /// How it was stopped, if it was cancelled and its holder reported that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopReceipt>,
}

/// How an attempt of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AttemptKind {
    /// It returned a value, with which the job is done. Only jobs that are kept have such a record.
    Done,
    /// Its code said so.
    Failed,
    /// It took its worker down.
    Crashed,
    /// Our shutdown, a lost host, a lease that ran out: not charged.
    Interrupted,
    /// Given back untouched: not charged.
    Passed,
    /// Stopped, because the job was cancelled.
    Cancelled,
    /// Its holder made the job a dead letter, because it can never run.
    #[serde(rename = "set aside")]
    SetAside,
    /// Given back because its consumer cannot run it: it does not know the task, or the arguments
    /// do not fit. Not charged.
    Unserved,
}

/// How often a job was given back because its consumer could not run it, see
/// [`AttemptKind::Unserved`]. An attempt that fails or crashes ends the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// How often.
    pub times: u32,
    /// When it was given back first.
    pub since: SystemTime,
}

impl Unserved {
    /// The count after the job was given back once more.
    pub fn again(before: Option<Self>, now: SystemTime) -> Self {
        before.map_or(
            Self {
                times: 1,
                since: now,
            },
            |before| Self {
                times: before.times.saturating_add(1),
                ..before
            },
        )
    }

    /// The count after an attempt that ended so.
    pub fn after(before: Option<Self>, kind: AttemptKind, now: SystemTime) -> Option<Self> {
        match kind {
            AttemptKind::Unserved => Some(Self::again(before, now)),
            AttemptKind::Failed | AttemptKind::Crashed => None,
            _ => before,
        }
    }
}

/// What a job of a flow waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parents {
    /// How many jobs it waits for, from the beginning.
    pub total: u32,
    /// Those of them that are settled for good. When all are, it goes on.
    pub settled: u32,
    /// Those that ended otherwise than done.
    pub missed: u32,
    /// Those that are not settled: the first 20.
    pub unsettled: Vec<JobId>,
}

/// A job as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// The task, if it is a task's.
    pub task: Option<String>,
    /// Where it is in its life.
    pub state: JobState,
    /// Its payload, JSON text.
    pub payload: String,
    /// Its priority.
    pub priority: i32,
    /// Its key.
    pub key: Option<String>,
    /// Its partition, if it has one.
    pub partition: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Its options, as they were pushed.
    #[serde(default)]
    pub options: Options,
    /// The tick it was pushed for, if a schedule did.
    #[serde(default)]
    pub tick: Option<Tick>,
    /// When it was pushed.
    pub pushed_at: SystemTime,
    /// When it was handed out, if it is leased.
    #[serde(default)]
    pub leased_at: Option<SystemTime>,
    /// When it ended, if it has.
    #[serde(default)]
    pub ended_at: Option<SystemTime>,
    /// When it is due, if it is scheduled or waits for a retry.
    pub due_at: Option<SystemTime>,
    /// No attempt begins later than this, see [`Retry::within`].
    pub begins_by: Option<SystemTime>,
    /// Attempts that its code ended with an error.
    pub failed: u32,
    /// Attempts that took their worker down.
    pub crashed: u32,
    /// Attempts that were cut short without fault of its own.
    pub interrupted: u32,
    /// Those of the interrupted whose holder said no word: its process died, or it hung.
    #[serde(default)]
    pub lost: u32,
    /// How often it was given back because no consumer that got it could run it.
    #[serde(default)]
    pub unserved: Option<Unserved>,
    /// Who has it, if it is leased.
    pub holder: Option<String>,
    /// Why it is being cancelled, if it is leased and its holder has been asked to stop it.
    pub cancel: Option<String>,
    /// Its result, JSON text, if it is done.
    pub result: Option<String>,
    /// Why it ended, if it is dead or cancelled.
    pub reason: Option<String>,
    /// Its attempts: the newest 20. The one that is done is there if the job is kept.
    pub history: Vec<AttemptRecord>,
    /// The jobs of its flow that it waits for, or waited for.
    pub parents: Option<Parents>,
    /// The job of its flow that waits for it.
    pub dependent: Option<JobId>,
}

/// The name of a holder of leases for people: the number of the process and its host, of a name as
/// Brigade's processes have it (`brigade_runtime::owner`); any other name as it is.
pub fn holder_in_words(name: &str) -> String {
    let mut parts = name.splitn(6, '-');
    let pid = parts.next().filter(|pid| pid.parse::<u32>().is_ok());
    match (pid, parts.nth(4)) {
        (Some(pid), Some(host)) => format!("process {pid} on {}", host.trim_end_matches('+')),
        _ => format!("process {name}"),
    }
}

impl JobInfo {
    /// Who has it, for people: the number of the process and its host. `None` if it is not leased.
    pub fn holder_in_words(&self) -> Option<String> {
        self.holder.as_deref().map(holder_in_words)
    }

    /// How large it is: the bytes of its payload, its result and the reasons of its history, which
    /// are nearly all of it.
    pub fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let of_record = |record: &AttemptRecord| {
            record.reason.len()
                + record
                    .report
                    .as_ref()
                    .map_or(0, |report| report.stderr.len())
        };
        self.payload.len()
            + optional(&self.result)
            + optional(&self.reason)
            + self.history.iter().map(of_record).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_named_by_its_process_and_its_host() {
        let name = "4711-88812-4026531836-9f2c11aa-0-web-1";
        assert_eq!(holder_in_words(name), "process 4711 on web-1");
        assert_eq!(
            holder_in_words("4711-88812--9f2c11aa-0-a+"),
            "process 4711 on a"
        );
        for other in ["host7", "4711-88812", "a-b-c-d-e-f"] {
            assert_eq!(holder_in_words(other), format!("process {other}"));
        }
    }
}

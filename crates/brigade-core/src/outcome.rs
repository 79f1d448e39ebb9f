//! How a call ended when it did not end with a value, and what a task can say besides a value.
//!
//! These are values: a worker or a pool makes them, the caller owns them. Wherever a task's error
//! comes from, its texts are bounded, so that it fits into one frame. [`Pass`] and the notes of a
//! [`Failure`] are found below wrappers like `anyhow::Error` too, by their sources.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt_report::{AttemptOutcome, AttemptReport, Exit, WithoutEnding};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::printable::{one_line, shorten};

mod pass;
mod timed_out;

pub use pass::Pass;
use pass::{SOURCES_MAX, chain};
pub use timed_out::TimedOut;

/// How a call ended that gave no value.
///
/// # Rejected calls
///
/// A call that Brigade could not carry ends as [`Rejected`](Self::Rejected), with one of these
/// kinds; through a broker also with one of the errors of the broker. The methods that make calls
/// name only those special to them.
///
/// | kind | cause |
/// |---|---|
/// | `BadOption` | an option is out of its range, or no worker of the pool may ever have a label of the call |
/// | `Unsupported` | the options of the call do not exist in this place, for example a unique key in a pool |
/// | `UnknownTask`, `BadArguments` | the program that runs it does not have the task, or has it with other arguments |
/// | `OtherBuild` | a function without `#[task]` was called where another build of the program runs |
/// | `Encode`, `Decode` | arguments or result cannot be written or read in the format of the task |
/// | `TooLarge` | arguments or result are over `Builder::payload_max` |
/// | `Closed` | the pool was shut down |
/// | `CannotStart` | the pool cannot start workers |
/// | `NoRuntime` | the async runtime of the pool has ended, or is not driven |
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The task returned an error.
    Failed(Box<Failure>),
    /// The task panicked.
    Panicked(Box<AttemptReport>),
    /// The task took its worker down: signal, exit, stack overflow, out of memory.
    Crashed(Box<AttemptReport>),
    /// The call waited or ran for too long.
    TimedOut(TimedOut),
    /// The call was cancelled.
    Cancelled(Cancelled),
    /// Every worker passed the call on; their reasons, in order.
    Passed(Vec<String>),
    /// The worker ended for a reason that is not this call's own; the call may or may not have run.
    Lost(Box<AttemptReport>),
    /// The call never ran, or its arguments or its result could not be carried.
    Rejected(Error),
}

/// A call that was cancelled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cancelled {
    /// The reason that was given with the cancel.
    pub reason: String,
    /// How its attempt was stopped; `None` if it had not started.
    pub report: Option<Box<AttemptReport>>,
}

impl Cancelled {
    /// `report`: how its attempt was stopped, if it had started.
    #[doc(hidden)]
    pub fn new(reason: impl Into<String>, report: Option<Box<AttemptReport>>) -> Self {
        Self {
            reason: reason.into(),
            report,
        }
    }

    #[doc(hidden)]
    pub fn without_report(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            report: None,
        }
    }
}

/// An error that a task returned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The error's `Display`.
    pub message: String,
    /// The `Display` of each error below it, outermost first.
    pub sources: Vec<String>,
    /// Type name of the error, for people: it may change with the compiler.
    pub type_name: String,
    /// What the task adds for programs. A separate error, for the same reason as [`PassReason`].
    note: FailureNote,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct FailureNote {
    /// JSON given with [`Failure::with_details`].
    details: Option<String>,
    retry: RetryAdvice,
}

/// What a failed task says about a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RetryAdvice {
    /// Nothing: the call's own retry policy decides.
    #[default]
    Policy,
    /// Never: the same input fails again.
    Permanent,
    /// Not before this much time has passed.
    In(Duration),
}

impl Failure {
    /// An error with a message; return it from a task as `Err(Failure::new(..).into())`, or use any
    /// error type.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            sources: Vec::new(),
            type_name: std::any::type_name::<Self>().to_owned(),
            note: FailureNote::default(),
        }
    }

    /// An error that a retry cannot heal.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self::new(message).with_retry(RetryAdvice::Permanent)
    }

    #[doc(hidden)]
    pub fn with_retry(mut self, retry: RetryAdvice) -> Self {
        self.note.retry = retry;
        self
    }

    /// What the task says about a retry.
    pub fn retry(&self) -> RetryAdvice {
        self.note.retry
    }

    /// Adds data that the caller can read back with [`Failure::details`]: up to 24 KiB as JSON.
    /// Data that is larger, or is not JSON (NaN, a map whose keys are lists), is replaced by a text
    /// that says so.
    #[must_use]
    pub fn with_details(mut self, details: &impl Serialize) -> Self {
        let json = Codec::json_text(details)
            .or_else(|e| Codec::json_text(&format!("details are not JSON: {e}")));
        let fits = |json: String| {
            if json.len() > DETAILS_BYTES_MAX {
                "\"details are over 24 KiB\"".to_owned()
            } else {
                json
            }
        };
        self.note.details = json.ok().map(fits);
        self
    }

    /// The data given with [`Failure::with_details`].
    pub fn details(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.note.details.as_deref()?).ok()
    }

    /// Cuts what another host says to what a worker of ours could have said.
    #[doc(hidden)]
    pub fn bounded(mut self: Box<Self>) -> Box<Self> {
        let cut = |text: &mut String, bytes_max| text.truncate(text.floor_char_boundary(bytes_max));
        cut(&mut self.message, MESSAGE_BYTES_MAX);
        cut(&mut self.type_name, SOURCE_BYTES_MAX);
        self.sources.truncate(SOURCES_MAX);
        self.sources
            .iter_mut()
            .for_each(|source| cut(source, SOURCE_BYTES_MAX));
        self.note
            .details
            .take_if(|details| details.len() > DETAILS_BYTES_MAX);
        self
    }

    /// What the worker makes of any error that a task returned.
    #[doc(hidden)]
    pub fn from_error(error: &(dyn std::error::Error + 'static), type_name: &str) -> Self {
        let text =
            |e: &dyn std::error::Error, bytes_max| shorten(&e.to_string(), bytes_max).to_owned();
        Self {
            message: text(error, MESSAGE_BYTES_MAX),
            sources: chain(error)
                .skip(1)
                .filter(|e| !e.is::<FailureNote>())
                .map(|e| text(e, SOURCE_BYTES_MAX))
                .collect(),
            type_name: type_name.to_owned(),
            note: chain(error)
                .find_map(|e| e.downcast_ref::<FailureNote>())
                .cloned()
                .unwrap_or_default(),
        }
    }
}

/// An error travels as text: all of it stays below the 64 KiB that every frame has room for.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
const SOURCE_BYTES_MAX: usize = 1 << 10;
const DETAILS_BYTES_MAX: usize = 24 << 10;
/// Reasons of passes and stops.
pub const REASON_BYTES_MAX: usize = 8 << 10;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, for logs; the field has the original.
        f.write_str(&one_line(&self.message, MESSAGE_BYTES_MAX))
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.note)
    }
}

impl fmt::Display for FailureNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.details.as_deref().unwrap_or("no details"))
    }
}

impl std::error::Error for FailureNote {}

impl CallError {
    /// The report of the last attempt, if it has one.
    pub fn report(&self) -> Option<&AttemptReport> {
        match self {
            Self::Panicked(report) | Self::Crashed(report) | Self::Lost(report) => Some(report),
            Self::TimedOut(TimedOut::Run(report) | TimedOut::Cpu(report)) => Some(report),
            Self::Cancelled(cancelled) => cancelled.report.as_deref(),
            Self::Failed(_)
            | Self::Passed(_)
            | Self::Rejected(_)
            | Self::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) => None,
        }
    }

    /// As [`report`](Self::report), to be completed.
    #[doc(hidden)]
    pub fn report_mut(&mut self) -> Option<&mut AttemptReport> {
        match self {
            Self::Panicked(report) | Self::Crashed(report) | Self::Lost(report) => Some(report),
            Self::TimedOut(TimedOut::Run(report) | TimedOut::Cpu(report)) => Some(report),
            Self::Cancelled(cancelled) => cancelled.report.as_deref_mut(),
            Self::Failed(_)
            | Self::Passed(_)
            | Self::Rejected(_)
            | Self::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) => None,
        }
    }

    /// Its name for logs and metrics, as events have it: `failed`, `panicked`, `crashed`, `timed
    /// out`, `cancelled`, `passed`, `lost` or `rejected`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::Crashed(_) => "crashed",
            Self::TimedOut(_) => "timed out",
            Self::Cancelled(_) => "cancelled",
            Self::Passed(_) => "passed",
            Self::Lost(_) => "lost",
            Self::Rejected(_) => "rejected",
        }
    }

    /// What happened, in one line that is safe for strangers, as in the answer to an HTTP request.
    /// `Display` has more, for a log: this leaves out process ids, hosts, places in the source and
    /// what the program wrote.
    pub fn reason(&self) -> String {
        match self {
            Self::Failed(failure) => format!("the task failed: {failure}"),
            Self::Panicked(report) => match &report.ended {
                AttemptOutcome::Panicked { message, .. } => format!(
                    "the task panicked: {}",
                    one_line(message, MESSAGE_BYTES_MAX)
                ),
                _ => "the task panicked".to_owned(),
            },
            Self::Crashed(report) => match (&report.ended, report.exit) {
                (AttemptOutcome::Signalled, Some(exit @ Exit::Signal(_))) => format!(
                    "the task crashed: \
                    killed by {exit}"
                ),
                (AttemptOutcome::Exited, Some(exit @ Exit::Code(_))) => format!(
                    "the task crashed: it ended \
                    its process with {exit}"
                ),
                (AttemptOutcome::LinkBroken(_), _) => {
                    "the task crashed: its process closed or garbled its \
                    connection"
                        .to_owned()
                }
                (ended, _) => match &report.limit {
                    Some(limit) => format!("the task crashed: {ended}, {limit}"),
                    None => format!("the task crashed: {ended}"),
                },
            },
            Self::TimedOut(TimedOut::Cpu(report)) => match &report.limit {
                Some(limit) => format!("the task timed out: {limit}"),
                None => "the task timed out: it used too much CPU time".to_owned(),
            },
            Self::TimedOut(TimedOut::Run(report)) => {
                format!("the task timed out after {:.1?}", report.cost.wall)
            }
            Self::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) | Self::Passed(_) => {
                self.to_string()
            }
            Self::Cancelled(Cancelled { reason, .. }) => format!(
                "the call was cancelled: {}",
                one_line(reason, REASON_BYTES_MAX)
            ),
            Self::Lost(_) => {
                "the call was lost with its worker, for a reason that is not its own; \
                it may have run"
                    .to_owned()
            }
            // What keeps workers from starting is the program's own affair.
            Self::Rejected(error) if error.kind() == ErrorKind::CannotStart => "no worker can be \
                started"
                .to_owned(),
            Self::Rejected(error) => format!(
                "the call was rejected: {}",
                one_line(&error.to_string(), MESSAGE_BYTES_MAX)
            ),
        }
    }

    /// The signal that ended the worker, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.report()?.exit? {
            Exit::Signal(signal) => Some(signal),
            Exit::Code(_) | Exit::Unknown | Exit::Alive => None,
        }
    }

    /// Kind of the error if Brigade could not carry the call.
    pub fn rejected(&self) -> Option<ErrorKind> {
        match self {
            Self::Rejected(error) => Some(error.kind()),
            Self::Failed(_)
            | Self::Panicked(_)
            | Self::Crashed(_)
            | Self::TimedOut(_)
            | Self::Cancelled(_)
            | Self::Passed(_)
            | Self::Lost(_) => None,
        }
    }

    /// What to say of an attempt that ended in this way on its own account.
    #[doc(hidden)]
    pub fn from_report(report: Box<AttemptReport>) -> Self {
        match report.ended {
            AttemptOutcome::Panicked { .. } => Self::Panicked(report),
            AttemptOutcome::Neighbour | AttemptOutcome::HostLost(_) => Self::Lost(report),
            _ => Self::Crashed(report),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "the task failed: {failure}"),
            Self::Panicked(report) => write!(f, "the task panicked: {}", WithoutEnding(report)),
            Self::Crashed(report) => write!(f, "the task crashed: {report}"),
            Self::TimedOut(TimedOut::Queue(after)) => {
                write!(f, "the call waited for {after:?} without a free worker")
            }
            Self::TimedOut(TimedOut::NoWorker(after)) => {
                write!(f, "the call waited for {after:?}, and no worker serves it")
            }
            Self::TimedOut(TimedOut::Run(report) | TimedOut::Cpu(report)) => {
                write!(f, "the task timed out: {}", WithoutEnding(report))
            }
            Self::Cancelled(Cancelled {
                reason,
                report: Some(report),
            }) => {
                write!(
                    f,
                    "the call was cancelled ({}): {}",
                    one_line(reason, REASON_BYTES_MAX),
                    WithoutEnding(report)
                )
            }
            Self::Cancelled(Cancelled {
                reason,
                report: None,
            }) => {
                write!(
                    f,
                    "the call was cancelled ({}) before it ran",
                    one_line(reason, REASON_BYTES_MAX)
                )
            }
            Self::Passed(reasons) => write!(
                f,
                "every worker passed: {}",
                one_line(&reasons.join("; "), MESSAGE_BYTES_MAX)
            ),
            Self::Lost(report) => {
                write!(f, "the call was lost with its worker: {report}")
            }
            Self::Rejected(_) => f.write_str("the call was rejected"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(failure) => Some(&**failure),
            Self::Rejected(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Rejected(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_found_through_wrappers() {
        #[derive(Debug)]
        struct Wrapper(Pass);
        impl fmt::Display for Wrapper {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("wrapped")
            }
        }
        impl std::error::Error for Wrapper {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.0.source()
            }
        }
        assert_eq!(
            Pass::find(&Wrapper(Pass::new("busy"))).as_deref(),
            Some("busy")
        );
        assert_eq!(Pass::find(&Failure::new("no")), None);
    }

    #[test]
    fn details_come_back_and_unfit_ones_are_told() {
        let failure = Failure::new("no").with_details(&serde_json::json!({"value": 42}));
        assert_eq!(failure.details().unwrap()["value"], 42);
        let unfit = std::collections::HashMap::from([((1, 2), 3)]);
        let told = Failure::new("no").with_details(&unfit).details().unwrap();
        assert!(
            told.as_str().unwrap().starts_with("details are not JSON"),
            "{told}"
        );
    }
}

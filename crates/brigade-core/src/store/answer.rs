//! [`Answer`]: the end of a call without a value, as JSON that any program can read and write.
//!
//! `kind` and `message` are always there; the rest is optional, and an answer of another program
//! may leave it out. On a change: add fields, and never change the meaning of one; a reader takes
//! an unknown kind for `failed`.

use serde::{Deserialize, Serialize};

use crate::attempt_report::AttemptReport;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled, Failure, TimedOut};
use crate::printable::shorten;

/// Of the message of an answer that is shortened.
const SHORT_BYTES: usize = 512;

/// How a call ended without a value, for its caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// As [`CallError::outcome`] has it, with hyphens.
    pub kind: String,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Box<Failure>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    report: Option<Box<AttemptReport>>,
    /// Of those that passed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    /// Which error rejected it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Answer {
    /// An answer with nothing but a kind and a message.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.replace(' ', "-"),
            message: message.into(),
            failure: None,
            report: None,
            reasons: Vec::new(),
            error: None,
        }
    }

    /// The answer for this error.
    pub fn of(error: &CallError) -> Self {
        let answer = Self::new(error.outcome(), error.to_string());
        let report = || error.report().cloned().map(Box::new);
        match error {
            CallError::Failed(failure) => Self {
                message: failure.message.clone(),
                failure: Some(failure.clone()),
                ..answer
            },
            CallError::Passed(reasons) => Self {
                reasons: reasons.clone(),
                ..answer
            },
            CallError::Rejected(error) => Self {
                message: error.to_string(),
                error: Some(name_of(error.kind()).to_owned()),
                ..answer
            },
            CallError::Cancelled(cancelled) => Self {
                message: cancelled.reason.clone(),
                report: report(),
                ..answer
            },
            _ => Self {
                report: report(),
                ..answer
            },
        }
    }

    /// The same without its large parts, for a broker that refused the whole as too large.
    pub fn shortened(self) -> Self {
        let message = shorten(&self.message, SHORT_BYTES).to_owned();
        Self {
            message,
            failure: None,
            report: None,
            reasons: Vec::new(),
            ..self
        }
    }

    /// The task failed.
    pub fn failed(message: &str) -> Self {
        Self::of(&CallError::Failed(Box::new(Failure::new(message))))
    }

    /// The call was refused.
    pub fn rejected(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self::of(&CallError::Rejected(Error::new(kind, message)))
    }

    /// The error that the caller gets.
    pub fn into_error(self) -> CallError {
        let (message, report) = (self.message, self.report);
        match (self.kind.as_str(), report) {
            ("panicked", Some(report)) => CallError::Panicked(report),
            ("crashed", Some(report)) => CallError::Crashed(report),
            ("lost", Some(report)) => CallError::Lost(report),
            ("timed-out", Some(report)) => CallError::TimedOut(TimedOut::of_report(report)),
            ("cancelled", report) => CallError::Cancelled(Cancelled {
                reason: message,
                report,
            }),
            ("passed", _) if self.reasons.is_empty() => CallError::Passed(vec![message]),
            ("passed", _) => CallError::Passed(self.reasons),
            ("rejected", _) => {
                CallError::Rejected(Error::new(kind_of(self.error.as_deref()), message))
            }
            _ => CallError::Failed(
                self.failure
                    .unwrap_or_else(|| Box::new(Failure::new(message))),
            ),
        }
    }
}

/// The kinds by which a worker rejects a call.
const KINDS: [(ErrorKind, &str); 8] = [
    (ErrorKind::UnknownTask, "unknown-task"),
    (ErrorKind::BadArguments, "bad-arguments"),
    (ErrorKind::Encode, "encode"),
    (ErrorKind::Decode, "decode"),
    (ErrorKind::TooLarge, "too-large"),
    (ErrorKind::OtherBuild, "other-build"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::BadOption, "bad-option"),
];

fn name_of(kind: ErrorKind) -> &'static str {
    KINDS
        .iter()
        .find(|(known, _)| *known == kind)
        .map_or("protocol", |(_, name)| name)
}

fn kind_of(name: Option<&str>) -> ErrorKind {
    KINDS
        .iter()
        .find(|(_, known)| Some(*known) == name)
        .map_or(ErrorKind::Protocol, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(error: &CallError) -> CallError {
        let json = serde_json::to_string(&Answer::of(error)).unwrap();
        serde_json::from_str::<Answer>(&json).unwrap().into_error()
    }

    #[test]
    fn errors_come_back_as_they_were() {
        let failure = Failure::permanent("no").with_details(&vec![1, 2]);
        let CallError::Failed(back) = there_and_back(&CallError::Failed(Box::new(failure.clone())))
        else {
            panic!("failed")
        };
        assert_eq!(*back, failure);
        let passed = CallError::Passed(vec!["one".into(), "two".into()]);
        assert!(
            matches!(there_and_back(&passed), CallError::Passed(reasons) if reasons == ["one", "two"])
        );
        for (kind, _) in KINDS {
            let back = there_and_back(&Error::new(kind, "not that").into());
            assert!(
                back.rejected() == Some(kind)
                    && std::error::Error::source(&back).unwrap().to_string() == "not that"
            );
        }
        let cancelled = CallError::Cancelled(Cancelled::without_report("enough"));
        assert!(
            matches!(there_and_back(&cancelled), CallError::Cancelled(cancelled) if cancelled.reason == "enough")
        );
    }

    #[test]
    fn an_answer_of_another_program_is_read_as_far_as_it_goes() {
        let read = |json: &str| serde_json::from_str::<Answer>(json).unwrap().into_error();
        assert!(
            matches!(read(r#"{"kind": "failed", "message": "no", "x": 1}"#), CallError::Failed(f) if f.message == "no")
        );
        assert!(
            matches!(read(r#"{"kind": "crashed", "message": "boom"}"#), CallError::Failed(f) if f.message == "boom")
        );
        assert!(matches!(
            read(r#"{"kind": "of-later"}"#),
            CallError::Failed(_)
        ));
        assert!(
            matches!(read(r#"{"kind": "passed", "message": "busy"}"#), CallError::Passed(reasons) if reasons == ["busy"])
        );
    }
}

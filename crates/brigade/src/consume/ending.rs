//! What becomes of a job when its attempt has ended. Nothing else decides over a job.

use std::time::Duration;

use serde_json::value::RawValue;

use super::PAUSE;
use crate::broker::Ending;
use crate::certificate::{Certificate, Receipt};
use crate::error::ErrorKind;
use crate::job::AttemptKind;
use crate::outcome::{CallError, RetryAdvice, TimedOut};

/// How an attempt ended.
pub(super) struct Ended {
    pub(super) outcome: Result<Box<RawValue>, CallError>,
    /// How it was stopped, if it was.
    pub(super) receipt: Option<Receipt>,
}

/// Why an attempt is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody asked for it.
    No,
    /// Somebody cancelled the job.
    Cancel(String),
    /// The lease is lost: what comes out does not count.
    Lost,
    /// This worker is ending.
    Shutdown,
}

impl Why {
    /// For the attempt.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Cancel(reason) => reason,
            Self::Lost => "its lease was lost".to_owned(),
            Self::No | Self::Shutdown => "its worker is ending".to_owned(),
        }
    }
}

/// What to tell the broker; `None` if the lease is lost and there is nothing to say.
pub(super) fn ending_of(ended: Ended, why: Why, pass_pause: Duration) -> Option<Ending> {
    let fail = |kind, reason: String, certificate: Option<Box<Certificate>>| Ending::Fail {
        kind,
        reason,
        certificate,
        retry_in: None,
        permanent: false,
    };
    let give_back = |kind, reason: String, after| Ending::GiveBack { kind, reason, after };
    let error = match (ended.outcome, why) {
        (_, Why::Lost) => return None,
        (Ok(result), _) => return Some(Ending::Ack(Some(result.get().into()))),
        (Err(CallError::Cancelled(cancelled)), Why::Cancel(reason)) => {
            return Some(Ending::Cancelled { reason, stop: ended.receipt, certificate: cancelled.certificate });
        }
        (Err(error), _) => error,
    };
    let text = error.to_string();
    Some(match error {
        CallError::Failed(failure) => Ending::Fail {
            kind: AttemptKind::Failed,
            reason: failure.message.clone(),
            certificate: None,
            retry_in: if let RetryAdvice::In(pause) = failure.retry() { Some(pause) } else { None },
            permanent: failure.retry() == RetryAdvice::Permanent,
        },
        CallError::Panicked(certificate) | CallError::TimedOut(TimedOut::Run(certificate)) => {
            fail(AttemptKind::Failed, text, Some(certificate))
        }
        CallError::Crashed(certificate) => fail(AttemptKind::Crashed, text, Some(certificate)),
        CallError::Passed(reasons) => give_back(AttemptKind::Passed, reasons.join("; "), pass_pause),
        CallError::Cancelled(_) | CallError::Lost(_) | CallError::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) => {
            give_back(AttemptKind::Interrupted, text, Duration::ZERO)
        }
        CallError::Rejected(error) if matches!(error.kind(), ErrorKind::Closed | ErrorKind::CannotStart | ErrorKind::QueueFull) => {
            give_back(AttemptKind::Interrupted, error.to_string(), PAUSE)
        }
        CallError::Rejected(error) => Ending::DeadLetter(error.to_string()),
    })
}

//! [`Settlement`]: what the holder of a lease says about it, and what the store answers.

use std::time::Duration;

use super::answer::Answer;
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::clock::FAR;
use crate::job::{AttemptKind, JobId};
use crate::outcome::RetryAdvice;
use crate::policy::RetryPolicy;

/// What the holder of a lease says about it.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The job.
    pub id: JobId,
    /// The token of the lease.
    pub token: i64,
    /// What becomes of the job.
    pub disposition: Disposition,
    /// For the caller of a call, if this ends the call without a value.
    pub answer: Option<Box<Answer>>,
}

/// What becomes of a leased job.
#[derive(Clone, Debug)]
pub enum Disposition {
    /// Done.
    Ack {
        /// The result as JSON text.
        result: Option<Box<str>>,
        /// What the attempt cost, if the holder knows.
        report: Option<Box<AttemptReport>>,
    },
    /// The attempt did not end well.
    Fail {
        /// How it ended: [`Failed`](AttemptKind::Failed) or [`Crashed`](AttemptKind::Crashed).
        kind: AttemptKind,
        /// Why, for people.
        reason: String,
        /// What the attempt cost and left behind, if the holder knows.
        report: Option<Box<AttemptReport>>,
        /// What the attempt says about a retry.
        advice: RetryAdvice,
        /// For what the job does not say itself.
        policy: RetryPolicy,
    },
    /// Given back without charge.
    GiveBack {
        /// Why: [`Passed`](AttemptKind::Passed), [`Interrupted`](AttemptKind::Interrupted) or
        /// [`Unserved`](AttemptKind::Unserved).
        kind: AttemptKind,
        /// Why, for people.
        reason: String,
        /// The job is due again after this time.
        after: Duration,
    },
    /// A dead letter, with the reason.
    DeadLetter(String),
    /// Cancelled, as was asked.
    Cancelled {
        /// Why, for people.
        reason: String,
        /// How the attempt was stopped, as far as the holder knows.
        stop: Option<StopReceipt>,
        /// What the attempt cost and left behind, if it ran in a pool.
        report: Option<Box<AttemptReport>>,
    },
    /// Held for this long from now on.
    Extend(Duration),
}

impl Disposition {
    /// Done with this result, without a report.
    pub fn ack(result: Option<Box<str>>) -> Self {
        Self::Ack {
            result,
            report: None,
        }
    }

    /// The same with no pause and no lease longer than [`FAR`].
    #[doc(hidden)]
    pub fn bounded(self) -> Self {
        match self {
            Self::Fail {
                kind,
                reason,
                report,
                advice,
                policy,
            } => Self::Fail {
                kind,
                reason,
                report,
                advice: match advice {
                    RetryAdvice::In(pause) => RetryAdvice::In(pause.min(FAR)),
                    other => other,
                },
                policy,
            },
            Self::GiveBack {
                kind,
                reason,
                after,
            } => Self::GiveBack {
                kind,
                reason,
                after: after.min(FAR),
            },
            Self::Extend(time) => Self::Extend(time.min(FAR)),
            other => other,
        }
    }
}

/// The result of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is stored. For an extension: the reason of a cancel, if one was asked for.
    Accepted(Option<String>),
    /// The token does not hold the job: another consumer has it, or it has ended. Nothing was
    /// changed.
    Stale,
}

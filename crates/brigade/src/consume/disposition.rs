//! What becomes of a job when its attempt has ended. Nothing else decides over a job.
//!
//! [`disposition_of`] turns the end of an attempt into one settlement. A failure carries what the
//! registration of its task says of retries; the store applies that where the job says nothing
//! itself. Only the time within which attempts have to begin is applied here for that job, as no
//! store knows it ([`Policy::begins_by`]).

use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use super::held::Why;
use super::pause::pause;
use crate::attempt_report::{AttemptOutcome, AttemptReport, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, Unserved};
use crate::outcome::{CallError, Cancelled, RetryAdvice, TimedOut};
use crate::policy::NEXT_TOO_LATE;
use crate::retry::{Retry, jitter};
use crate::store::{Disposition, Leased};
use brigade_core::policy::RetryPolicy;
use brigade_core::span::AttemptEnd;

/// Shortest and longest pause of a job that no consumer could run so far: other consumers get it
/// meanwhile, and none spins.
const UNSERVED_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Pause of a job that has to run alone while another does.
const NOT_NOW_PAUSE: Duration = Duration::from_secs(2);

/// How an attempt ended.
pub(super) struct EndedAttempt {
    pub(super) outcome: Result<Box<RawValue>, CallError>,
    /// How it was stopped, if it was.
    receipt: Option<StopReceipt>,
    /// The report of an attempt that returned or failed; other errors carry their own.
    report: Option<Box<AttemptReport>>,
    how: How,
}

/// How an attempt ended, beyond its outcome.
enum How {
    ByItself,
    /// The consumer's own code panicked, with this message.
    Panicked(String),
    /// It was not run, for this reason, and will not be.
    SetAside(String),
    /// It was not run, and will be a little later.
    NotNow,
    /// Given back, due again after this time.
    GivenBack(AttemptKind, String, Duration),
    /// It still runs, and the consumer no longer waits for it.
    Abandoned,
}

impl EndedAttempt {
    pub(super) fn of(outcome: Result<Box<RawValue>, CallError>) -> Self {
        Self {
            outcome,
            receipt: None,
            report: None,
            how: How::ByItself,
        }
    }

    /// With the report of its attempt, if that is known.
    pub(super) fn reported(self, report: Option<Box<AttemptReport>>) -> Self {
        Self { report, ..self }
    }

    /// The attempt ran in this process, for this long.
    pub(super) fn ran_here(self, task: &str, attempt: u32, wall: Duration) -> Self {
        let ended = match &self.outcome {
            Ok(_) => AttemptOutcome::Returned,
            Err(CallError::Failed(_)) => AttemptOutcome::Failed,
            Err(_) => return self,
        };
        let mut report = AttemptReport::new(task, attempt, ended);
        report.pid = std::process::id();
        report.cost.wall = wall;
        self.reported(Some(Box::new(report)))
    }

    /// It was stopped, and how.
    pub(super) fn stopped(
        outcome: Result<Box<RawValue>, CallError>,
        receipt: Option<StopReceipt>,
    ) -> Self {
        Self {
            receipt,
            ..Self::of(outcome)
        }
    }

    pub(super) fn cancelled(reason: &str) -> Self {
        Self::of(Err(CallError::Cancelled(Cancelled::without_report(reason))))
    }

    pub(super) fn panicked(text: String) -> Self {
        tracing::error!(
            text,
            "the consumer's own code panicked for one job; please report this"
        );
        Self {
            how: How::Panicked(text),
            ..Self::rejected("run a job: the consumer's own code panicked")
        }
    }

    pub(super) fn set_aside(reason: String) -> Self {
        Self {
            how: How::SetAside(reason),
            ..Self::rejected("run a job that took its consumers down")
        }
    }

    pub(super) fn given_back(kind: AttemptKind, reason: String, after: Duration) -> Self {
        Self {
            how: How::GivenBack(kind, reason, after),
            ..Self::cancelled("given back")
        }
    }

    /// For its span.
    pub(super) fn for_span(&self) -> AttemptEnd {
        match &self.how {
            How::GivenBack(..) | How::NotNow => AttemptEnd::given_back("given back"),
            _ => AttemptEnd::of(self.outcome.as_ref().err(), self.report.as_deref()),
        }
    }

    /// Whether there is more to it than its outcome.
    pub(super) fn says_more(&self) -> bool {
        self.receipt.is_some() || !matches!(self.how, How::ByItself | How::Panicked(_))
    }

    pub(super) fn not_now() -> Self {
        Self {
            how: How::NotNow,
            ..Self::rejected("run a job beside another that has to be alone")
        }
    }

    pub(super) fn abandoned() -> Self {
        Self {
            how: How::Abandoned,
            ..Self::cancelled("it does not end")
        }
    }

    fn rejected(text: &str) -> Self {
        Self::of(Err(CallError::Rejected(Error::new(
            ErrorKind::Unsupported,
            text,
        ))))
    }
}

/// What decides in addition to the end of the attempt.
pub(super) struct Policy<'a> {
    pub(super) leased: &'a Leased,
    /// The retry policy of its task's registration.
    pub(super) retries: RetryPolicy,
    /// Until when an attempt has to begin, where the store does not know it.
    pub(super) begins_by: Option<SystemTime>,
    /// The broker itself gives a passed call to another consumer.
    pub(super) passes: bool,
    pub(super) unserved_timeout: Duration,
    /// By the broker's clock.
    pub(super) now: SystemTime,
}

impl Policy<'_> {
    /// Why the job is not run any more, if it is too late for that.
    pub(super) fn too_late(&self) -> Option<String> {
        let by = self.begins_by.filter(|by| *by < self.now)?;
        let late = self.now.duration_since(by).unwrap_or_default();
        Some(format!(
            "no attempt may begin any more: its task's retry_within is over for {late:.0?}"
        ))
    }

    /// A failure whose next attempt would begin too late is the last one.
    fn in_time(&self, disposition: Disposition) -> Disposition {
        let Some(by) = self.begins_by else {
            return disposition;
        };
        let Disposition::Fail {
            kind,
            reason,
            report,
            advice,
            policy,
        } = disposition
        else {
            return disposition;
        };
        let failures = self.leased.attempt.saturating_sub(self.leased.crashed);
        let pause = match (advice, kind) {
            (RetryAdvice::In(pause), _) => pause,
            (_, AttemptKind::Crashed) => Duration::ZERO,
            _ => policy.retry.unwrap_or_default().pause_after(failures),
        };
        let begins = self.now.checked_add(pause);
        let (reason, advice) = match advice {
            RetryAdvice::Permanent => (reason, advice),
            _ if begins.is_some_and(|begins| begins <= by) => (reason, RetryAdvice::In(pause)),
            _ => (format!("{reason}{NEXT_TOO_LATE}"), RetryAdvice::Permanent),
        };
        Disposition::Fail {
            kind,
            reason,
            report,
            advice,
            policy,
        }
    }
}

/// The settlement; `None` if the lease is lost and there is nothing to settle.
pub(super) fn disposition_of(
    ended: EndedAttempt,
    why: Why,
    policy: &Policy<'_>,
) -> Option<Disposition> {
    decide(ended, why, policy).map(|disposition| policy.in_time(disposition))
}

fn decide(ended: EndedAttempt, why: Why, policy: &Policy<'_>) -> Option<Disposition> {
    let error = match (ended.outcome, why, ended.how) {
        (_, Why::Lost, _) | (_, _, How::Abandoned) => return None,
        (_, _, How::Panicked(text)) => {
            return Some(fail(
                AttemptKind::Crashed,
                format!("the consumer's own code panicked: {text}"),
                None,
                policy.retries,
            ));
        }
        (_, _, How::NotNow) => {
            let reason = "its holders fell silent before, so it runs alone, and another such job \
                does just now"
                .to_owned();
            return Some(give_back(
                AttemptKind::Interrupted,
                reason,
                NOT_NOW_PAUSE.mul_f64(jitter(0.5)),
            ));
        }
        (_, _, How::GivenBack(kind, reason, after)) => {
            return Some(give_back(kind, reason, after));
        }
        (_, _, How::SetAside(reason)) => return Some(Disposition::DeadLetter(reason)),
        (Ok(result), ..) => {
            return Some(Disposition::Ack {
                result: Some(result.get().into()),
                report: ended.report,
            });
        }
        (Err(CallError::Cancelled(cancelled)), Why::Cancel(reason), _) => {
            return Some(Disposition::Cancelled {
                reason,
                stop: ended.receipt,
                report: cancelled.report,
            });
        }
        (Err(error), ..) => error,
    };
    Some(after_error(error, ended.report, policy))
}

/// What becomes of a job whose attempt gave no value.
fn after_error(
    error: CallError,
    report: Option<Box<AttemptReport>>,
    policy: &Policy<'_>,
) -> Disposition {
    let text = error.to_string();
    match error {
        CallError::Failed(failure) => Disposition::Fail {
            kind: AttemptKind::Failed,
            reason: failure.message.clone(),
            report,
            advice: failure.retry(),
            policy: policy.retries,
        },
        CallError::Panicked(report)
        | CallError::TimedOut(TimedOut::Run(report) | TimedOut::Cpu(report)) => {
            fail(AttemptKind::Failed, text, Some(report), policy.retries)
        }
        CallError::Crashed(report) => {
            fail(AttemptKind::Crashed, text, Some(report), policy.retries)
        }
        CallError::Passed(reasons) => {
            // A consumer that passes everything must not spin.
            let after = if policy.passes {
                Duration::ZERO
            } else {
                pause()
            };
            give_back(AttemptKind::Passed, reasons.join("; "), after)
        }
        CallError::Rejected(error) => match error.kind() {
            ErrorKind::Closed | ErrorKind::CannotStart | ErrorKind::QueueFull => {
                give_back(AttemptKind::Interrupted, error.to_string(), pause())
            }
            ErrorKind::UnknownTask | ErrorKind::BadArguments => unserved(&error, policy),
            _ => Disposition::DeadLetter(error.to_string()),
        },
        _ => give_back(AttemptKind::Interrupted, text, Duration::ZERO),
    }
}

fn give_back(kind: AttemptKind, reason: String, after: Duration) -> Disposition {
    Disposition::GiveBack {
        kind,
        reason,
        after,
    }
}

fn fail(
    kind: AttemptKind,
    reason: String,
    report: Option<Box<AttemptReport>>,
    policy: RetryPolicy,
) -> Disposition {
    Disposition::Fail {
        kind,
        reason,
        report,
        advice: RetryAdvice::Policy,
        policy,
    }
}

/// This program cannot run the job; another may, as during a deploy there are old ones and new
/// ones.
fn unserved(error: &Error, policy: &Policy<'_>) -> Disposition {
    let (leased, now) = (policy.leased, policy.now);
    let what = match (error.kind(), &leased.job.task) {
        (ErrorKind::UnknownTask, Some(task)) => {
            format!("no consumer that asked knows task {task:?}")
        }
        (ErrorKind::UnknownTask, None) => format!(
            "no consumer that asked has a task for queue {:?}",
            leased.job.queue
        ),
        _ => format!("no consumer that asked takes its arguments: {error}"),
    };
    let before = leased.unserved;
    let waited = before.map_or(Duration::ZERO, |before| {
        now.duration_since(before.since).unwrap_or_default()
    });
    if waited >= policy.unserved_timeout && !(leased.is_call && policy.passes) {
        let told = before.map_or(String::new(), |before| format!("; {before}"));
        return Disposition::DeadLetter(format!("{what}{told}"));
    }
    let after = Unserved::again(before, now);
    // The caller of a call waits: the next consumer gets it at once, and when all have passed it,
    // the call ends.
    let pause = if leased.is_call {
        Duration::ZERO
    } else {
        Retry::exponential(UNSERVED_PAUSES.0, UNSERVED_PAUSES.1).pause_after(after.times)
    };
    Disposition::GiveBack {
        kind: AttemptKind::Unserved,
        reason: format!("{what}; {after}"),
        after: pause,
    }
}

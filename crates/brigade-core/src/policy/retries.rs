//! [`RetryRule`]: whether an attempt that did not end well is repeated, and when.
//!
//! Failures are charged to `retries`. A crash is not: its job runs once more, alone in a fresh
//! worker, and the second crash ends it. So one job that kills its workers can never use up a queue
//! or a pool, and a worker that happened to die costs no retry.

use std::time::Duration;

use crate::job::AttemptKind;
use crate::options::Options;
use crate::outcome::RetryAdvice;
use crate::retry::Retry;

/// The second crash of a job ends it.
const CRASHES_MAX: u32 = 2;

/// When a job is retried, as far as its task's registration says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: Option<u32>,
    /// The pauses between attempts.
    pub retry: Option<Retry>,
}

/// When the attempts of a job or a call are repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RetryRule {
    /// Attempts after the first that failures may cost.
    pub retries: u32,
    /// The pauses after failures.
    pub retry: Retry,
    /// Whether a crash may be repeated. That of a job always may, because a job may start more than
    /// once anyway; that of a call only if its caller asked for retries.
    pub repeats_crashes: bool,
}

/// What earlier attempts were charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charged {
    /// Attempts that failed.
    pub failed: u32,
    /// Attempts that crashed.
    pub crashed: u32,
}

/// How an attempt ended that is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargedEnd {
    /// It failed, and this is its advice.
    Failed(RetryAdvice),
    /// It took its worker down.
    Crashed,
}

/// What follows an attempt that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt after this pause.
    Retry(Duration),
    /// No further attempt.
    Stop(NoRetry),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// It would fail again in the same way.
    Permanent,
    /// Its retries are used up.
    Spent,
    /// It crashed twice, or may not be repeated after a crash.
    Crashed,
    /// The next one would begin too late.
    TooLate,
}

impl ChargedEnd {
    /// The end of an attempt of this kind.
    pub fn of(kind: AttemptKind, advice: RetryAdvice) -> Self {
        match kind {
            AttemptKind::Crashed => Self::Crashed,
            _ => Self::Failed(advice),
        }
    }
}

impl RetryRule {
    /// The rule of a job: what it says itself, and else what its task's registration says.
    pub fn of_job(options: &Options, task: RetryPolicy) -> Self {
        Self {
            retries: options.retries.or(task.retries).unwrap_or(0),
            retry: options.retry.or(task.retry).unwrap_or_default(),
            repeats_crashes: true,
        }
    }

    /// The rule of a call, which nothing repeats unless its caller asked for that.
    pub fn of_call(retries: u32, retry: Retry) -> Self {
        Self {
            retries,
            retry,
            repeats_crashes: retries > 0,
        }
    }

    /// What follows an attempt. `before` is what earlier attempts were charged; `left` the time in
    /// which a further attempt may begin, `None` without a bound, zero once it is over; `jitter` a
    /// factor from 0.5 to 1 for the pause.
    pub fn decide(
        &self,
        before: Charged,
        end: ChargedEnd,
        left: Option<Duration>,
        jitter: f64,
    ) -> RetryDecision {
        let pause = match end {
            ChargedEnd::Failed(RetryAdvice::Permanent) => {
                return RetryDecision::Stop(NoRetry::Permanent);
            }
            ChargedEnd::Failed(_) if before.failed >= self.retries => {
                return RetryDecision::Stop(NoRetry::Spent);
            }
            ChargedEnd::Failed(RetryAdvice::In(pause)) => pause,
            ChargedEnd::Failed(RetryAdvice::Policy) => self
                .retry
                .pause_with(before.failed.saturating_add(1), jitter),
            ChargedEnd::Crashed
                if !self.repeats_crashes || before.crashed.saturating_add(1) >= CRASHES_MAX =>
            {
                return RetryDecision::Stop(NoRetry::Crashed);
            }
            ChargedEnd::Crashed => Duration::ZERO,
        };
        match left {
            Some(left) if left.is_zero() || pause > left => RetryDecision::Stop(NoRetry::TooLate),
            _ => RetryDecision::Retry(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: ChargedEnd = ChargedEnd::Failed(RetryAdvice::Policy);

    fn charged(failed: u32, crashed: u32) -> Charged {
        Charged { failed, crashed }
    }

    fn job(retries: u32) -> RetryRule {
        RetryRule {
            retries,
            retry: pauses(),
            repeats_crashes: true,
        }
    }

    fn pauses() -> Retry {
        Retry::exponential(Duration::from_secs(1), Duration::from_secs(60))
    }

    #[test]
    fn failures_use_up_the_retries_and_pauses_grow() {
        let rule = job(2);
        let decide = |failed| rule.decide(charged(failed, 0), POLICY, None, 0.5);
        assert_eq!(decide(0), RetryDecision::Retry(Duration::from_millis(500)));
        assert_eq!(decide(1), RetryDecision::Retry(Duration::from_secs(1)));
        assert_eq!(decide(2), RetryDecision::Stop(NoRetry::Spent));
        assert_eq!(decide(u32::MAX), RetryDecision::Stop(NoRetry::Spent));
    }

    #[test]
    fn a_crash_costs_no_retry_and_the_second_one_ends_the_job() {
        let never = job(0);
        let decide = |rule: &RetryRule, crashed| {
            rule.decide(charged(0, crashed), ChargedEnd::Crashed, None, 1.0)
        };
        assert_eq!(decide(&never, 0), RetryDecision::Retry(Duration::ZERO));
        assert_eq!(decide(&never, 1), RetryDecision::Stop(NoRetry::Crashed));
        let failed = job(1).decide(charged(0, 1), POLICY, None, 1.0);
        assert_eq!(failed, RetryDecision::Retry(Duration::from_secs(1)));
    }

    #[test]
    fn a_call_that_nothing_may_repeat_is_not_repeated_after_a_crash() {
        let decide = |retries| {
            RetryRule::of_call(retries, pauses()).decide(
                charged(0, 0),
                ChargedEnd::Crashed,
                None,
                1.0,
            )
        };
        assert_eq!(decide(0), RetryDecision::Stop(NoRetry::Crashed));
        assert_eq!(decide(1), RetryDecision::Retry(Duration::ZERO));
    }

    #[test]
    fn the_advice_of_the_attempt_comes_before_the_policy() {
        let rule = job(5);
        let decide = |advice| rule.decide(charged(0, 0), ChargedEnd::Failed(advice), None, 1.0);
        assert_eq!(
            decide(RetryAdvice::Permanent),
            RetryDecision::Stop(NoRetry::Permanent)
        );
        let wanted = Duration::from_secs(7);
        assert_eq!(
            decide(RetryAdvice::In(wanted)),
            RetryDecision::Retry(wanted)
        );
    }

    #[test]
    fn an_attempt_that_would_begin_too_late_is_not_made() {
        let rule = job(5);
        let decide = |left| rule.decide(charged(0, 0), POLICY, Some(left), 1.0);
        assert_eq!(
            decide(Duration::from_secs(1)),
            RetryDecision::Retry(Duration::from_secs(1))
        );
        assert_eq!(
            decide(Duration::from_millis(999)),
            RetryDecision::Stop(NoRetry::TooLate)
        );
    }

    #[test]
    fn no_attempt_begins_once_the_time_for_it_is_over_even_without_a_pause() {
        let rule = RetryRule {
            retry: Retry::exponential(Duration::ZERO, Duration::ZERO),
            ..job(5)
        };
        let ends = [
            POLICY,
            ChargedEnd::Failed(RetryAdvice::In(Duration::ZERO)),
            ChargedEnd::Crashed,
        ];
        for end in ends {
            let decide = |left| rule.decide(charged(0, 0), end, Some(left), 1.0);
            let too_late = RetryDecision::Stop(NoRetry::TooLate);
            assert_eq!(decide(Duration::ZERO), too_late, "{end:?}");
            let at_once = RetryDecision::Retry(Duration::ZERO);
            assert_eq!(decide(Duration::from_nanos(1)), at_once, "{end:?}");
        }
    }
}

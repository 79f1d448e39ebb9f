//! Why a job is not running. The facts come from the code that hands out jobs, the words from here.
//!
//! A store makes an [`Explanation`] from its data and the caller owns it; it is true for that
//! moment only. It serializes, for programs that read JSON.
//!
//! Invariants: every reason that holds is listed, not only the first. A job without a reason is
//! given to the next consumer that asks for jobs of its queue.
//!
//! Nothing here asks a broker or decides which job is next.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::job::{JobId, JobState, Unserved, holder_in_words};
use crate::limits::Rate;

/// The answer of `Broker::why`: what stands between a job and its next
/// attempt, now. `Display` says it in words, a sentence per reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// Its queue.
    pub queue: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Every reason; none if the next consumer that asks gets it.
    pub reasons: Vec<Blocker>,
}

impl Explanation {
    /// An explanation, from a store.
    pub fn new(job: JobId, queue: String, state: JobState, reasons: Vec<Blocker>) -> Self {
        Self {
            job,
            queue,
            state,
            reasons,
        }
    }

    /// Whether the reason of the last attempt, which is printed with the due time, has this text.
    fn ended_with(&self, text: &str) -> bool {
        self.reasons.iter().any(|reason| {
            matches!(reason, Blocker::NotDue { last: Some(last), .. } if last.contains(text))
        })
    }
}

/// One reason why a job is not running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Blocker {
    /// It runs: a holder has it.
    Running {
        /// The holder.
        holder: String,
        /// How long the lease still holds unless it is extended.
        #[serde(with = "crate::codec::seconds")]
        lease_left: Duration,
        /// Why it is to be cancelled, if it is.
        cancel: Option<String>,
    },
    /// It is settled for good.
    Ended {
        /// Why, if that is known.
        reason: Option<String>,
    },
    /// Its time has not come.
    NotDue {
        /// When it does; RFC 3339 where this is JSON.
        #[serde(with = "crate::schedule::rfc3339")]
        due: SystemTime,
        /// What its last attempt ended with, if it waits for the next.
        last: Option<String>,
    },
    /// An earlier job of its key is not settled.
    Key {
        /// The key.
        key: String,
        /// The job that holds it.
        job: JobId,
        /// Where that one is in its life.
        state: JobState,
    },
    /// It comes after other jobs of its chain or group.
    Flow {
        /// How many of them are not settled.
        unsettled: u64,
        /// The first of them, at most ten.
        jobs: Vec<JobId>,
    },
    /// Its queue is paused.
    Paused,
    /// As many jobs of its queue, or of its partition of it, run as may.
    RunningLimit {
        /// The partition, if the limit is one for each.
        partition: Option<String>,
        /// The limit.
        limit: u32,
        /// How many run.
        running: u64,
    },
    /// As many jobs of its queue, or of its partition, were handed out as may be in that time.
    RateLimit {
        /// The partition, if the limit is one for each.
        partition: Option<String>,
        /// The limit.
        rate: Rate,
        /// In how long the next may start.
        #[serde(with = "crate::codec::seconds")]
        free_in: Duration,
    },
    /// Other ready jobs are handed out before it.
    Behind {
        /// How many of higher priority, or of the same and pushed before it.
        jobs: u64,
    },
    /// No consumer that got it could run it, so far: they did not know its task, or its arguments
    /// did not fit. It is offered again until a consumer can, or until its time for that is over
    /// (`Consumer::unserved_timeout`).
    Unserved {
        /// How often it was given back, since when.
        #[serde(flatten)]
        given_back: Unserved,
    },
    /// No consumer has asked for jobs of its queue for this long.
    NoConsumer {
        /// How long it is looked back.
        #[serde(with = "crate::codec::seconds")]
        since: Duration,
    },
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "job {} of queue {} is {}",
            self.job, self.queue, self.state
        )?;
        if self.reasons.is_empty() {
            return f.write_str(": the next consumer that asks for jobs of its queue gets it");
        }
        let mut before = ": ";
        let is_printed = |reason: &Blocker| match reason {
            Blocker::Unserved { given_back } => self.ended_with(&given_back.to_string()),
            _ => false,
        };
        for reason in self.reasons.iter().filter(|reason| !is_printed(reason)) {
            write!(f, "{before}{reason}")?;
            before = "; ";
        }
        Ok(())
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |partition: &Option<String>| match partition.as_deref() {
            None => "of its queue".to_owned(),
            Some("") => "of its queue without a partition".to_owned(),
            Some(partition) => format!("of its partition {partition}"),
        };
        match self {
            Self::Running {
                holder,
                lease_left,
                cancel,
            } => write_running(f, holder, *lease_left, cancel.as_deref()),
            Self::Ended {
                reason: Some(reason),
            } => f.write_str(reason),
            Self::Ended { reason: None } => f.write_str("nothing more happens to it"),
            Self::NotDue { due, last } => {
                let left = due.duration_since(SystemTime::now()).unwrap_or_default();
                write!(f, "it is due in {}", short(left))?;
                last.as_ref().map_or(Ok(()), |reason| {
                    write!(f, ", after its last attempt ended with: {reason}")
                })
            }
            Self::Key { key, job, state } => write!(
                f,
                "job {job}, which is {state}, comes before it in its key {key}"
            ),
            Self::Flow { unsettled, jobs } => write_flow(f, *unsettled, jobs),
            Self::Paused => f.write_str("its queue is paused"),
            Self::RunningLimit {
                partition,
                limit,
                running,
            } => write!(
                f,
                "the limit of running jobs {} is used up: {running} of {limit}",
                of(partition)
            ),
            Self::RateLimit {
                partition,
                rate,
                free_in,
            } => {
                let (starts, per) = (rate.starts, short(rate.per));
                write!(
                    f,
                    "{starts} jobs {} were started within {per}, which is its limit; the next may \
                        in {}",
                    of(partition),
                    short(*free_in)
                )
            }
            Self::Behind { jobs: 1 } => f.write_str("1 ready job comes before it"),
            Self::Behind { jobs } => write!(f, "{jobs} ready jobs come before it"),
            Self::Unserved { given_back } => {
                write!(f, "no consumer that got it could run it: {given_back}")
            }
            Self::NoConsumer { since } => write!(
                f,
                "no consumer has asked for jobs of its queue in the last {}",
                short(*since)
            ),
        }
    }
}

fn write_running(
    f: &mut fmt::Formatter<'_>,
    holder: &str,
    lease_left: Duration,
    cancel: Option<&str>,
) -> fmt::Result {
    write!(
        f,
        "{} has it, on a lease that holds for another {}",
        holder_in_words(holder),
        short(lease_left)
    )?;
    cancel.map_or(Ok(()), |reason| {
        write!(f, ", and was asked to cancel it: {reason}")
    })
}

fn write_flow(f: &mut fmt::Formatter<'_>, unsettled: u64, jobs: &[JobId]) -> fmt::Result {
    let names: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
    let more = if unsettled > jobs.len() as u64 {
        ", .."
    } else {
        ""
    };
    write!(
        f,
        "it comes after {unsettled} unsettled of its flow ({}{more})",
        names.join(", ")
    )
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = if self.times == 1 {
            "once".to_owned()
        } else {
            format!("{} times", self.times)
        };
        write!(f, "given back {times} since {}", moment(self.since))
    }
}

/// A moment as people and programs read it, to the second.
pub fn moment(time: SystemTime) -> String {
    let second = Duration::from_secs(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    );
    let time = SystemTime::UNIX_EPOCH
        .checked_add(second)
        .and_then(|time| jiff::Timestamp::try_from(time).ok());
    time.map_or_else(
        || "a time that no calendar has".to_owned(),
        |time| time.to_string(),
    )
}

/// A duration to the digit that matters.
pub fn short(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_last_attempt_says_of_consumers_is_not_repeated() {
        let given_back = Unserved::again(None, SystemTime::UNIX_EPOCH);
        let last = format!("no consumer that asked knows task \"x\"; {given_back}");
        let explain = |last: &str| {
            let due = SystemTime::UNIX_EPOCH;
            let reasons = vec![
                Blocker::NotDue {
                    due,
                    last: Some(last.to_owned()),
                },
                Blocker::Unserved { given_back },
            ];
            let job = JobId::new("7");
            Explanation::new(job, "q".to_owned(), JobState::Scheduled, reasons).to_string()
        };
        assert_eq!(explain(&last).matches("given back once").count(), 1);
        assert!(explain("exit code 3").contains("; no consumer that got it could run it"));
    }
}

//! How much of a queue may run, and start, at once. Values only, the same for every broker.
//!
//! The broker stores the limits of a queue and applies them to the consumers of all hosts when it
//! hands out jobs. A limit that is not set does not limit; a stored form without a field reads as
//! not set.
//!
//! Invariants: [`Limits::check`] refuses limits that no job could pass, and rates whose memory at
//! the broker would have no bound, since it remembers each start for the time of the rate.
//!
//! Nothing here counts jobs or waits.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// What a queue is limited to, for all its workers on all hosts together; see
/// `Queue::limit`.
///
/// A *partition* is what jobs share a part of the limits with: a tenant, a customer, a remote API.
/// A job's is what [`Job::partition`](crate::Job::partition) says, else its key; jobs with neither
/// are one partition together.
///
/// ```
/// # use std::time::Duration;
/// use brigade::Limits;
///
/// let limits = Limits::new()
///     .running(20)                                    // at most 20 at once,
///     .running_per_partition(2)                       // of these 2 of one tenant,
///     .starts_per_partition(60, Duration::from_secs(60)) // each of which starts at most 60 in any minute,
///     .turns();                                       // and they take turns
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "limits do nothing until they are given to a queue"]
#[serde(default)]
pub struct Limits {
    /// Jobs of the queue that are leased at the same time, at most.
    pub running: Option<u32>,
    /// Attempts that begin in any stretch of time, at most.
    pub starts: Option<Rate>,
    /// As `running`, for each partition.
    pub running_per_partition: Option<u32>,
    /// As `starts`, for each partition.
    pub starts_per_partition: Option<Rate>,
    /// Whether partitions take turns.
    pub turns: bool,
}

/// At most so many hand-outs in any stretch of time of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub starts: u32,
    /// In what time.
    #[serde(with = "crate::codec::seconds")]
    pub per: Duration,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = |limit: Option<u32>| limit.map(|limit| format!("{limit} running"));
        let starts = |rate: Option<Rate>| {
            rate.map(|rate| format!("{} started within {:?}", rate.starts, rate.per))
        };
        let per_partition = |text: String| format!("{text} per partition");
        let parts = [
            running(self.running),
            starts(self.starts),
            running(self.running_per_partition).map(per_partition),
            starts(self.starts_per_partition).map(per_partition),
            self.turns.then(|| "partitions take turns".to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            f.write_str("no limits")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

/// The broker remembers each start for its stretch of time.
const STARTS_MAX: u32 = 100_000;
const PER_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

impl Limits {
    /// No limits yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many jobs leased at once; from 1.
    pub fn running(mut self, jobs: u32) -> Self {
        self.running = Some(jobs);
        self
    }

    /// At most so many jobs handed out in any stretch of time of this length; 1 to 100,000, in 1 ms
    /// to 31 days. A job that is handed out again counts again.
    pub fn starts(mut self, starts: u32, per: Duration) -> Self {
        self.starts = Some(Rate { starts, per });
        self
    }

    /// As [`running`](Limits::running), for each partition.
    pub fn running_per_partition(mut self, jobs: u32) -> Self {
        self.running_per_partition = Some(jobs);
        self
    }

    /// As [`starts`](Limits::starts), for each partition.
    pub fn starts_per_partition(mut self, starts: u32, per: Duration) -> Self {
        self.starts_per_partition = Some(Rate { starts, per });
        self
    }

    /// Partitions that have jobs take turns, one job each, so that one with many cannot starve the
    /// rest. Within a partition, priority and order of the pushes hold; between them only the turn
    /// does.
    pub fn turns(mut self) -> Self {
        self.turns = true;
        self
    }

    /// Whether it matters of which partition a job is.
    pub fn is_by_partition(&self) -> bool {
        self.turns || self.running_per_partition.is_some() || self.starts_per_partition.is_some()
    }

    /// Both rates that there are.
    pub fn rates(&self) -> impl Iterator<Item = Rate> {
        [self.starts, self.starts_per_partition]
            .into_iter()
            .flatten()
    }

    /// Refuses limits that no job could ever pass.
    ///
    /// # Errors
    ///
    /// `BadOption`.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| {
            Err(Error::new(
                ErrorKind::BadOption,
                format!("limit a queue: {text}"),
            ))
        };
        if self.running == Some(0) || self.running_per_partition == Some(0) {
            return refuse("0 running jobs would stop it for good; pause it instead");
        }
        if self
            .rates()
            .any(|rate| rate.starts == 0 || rate.starts > STARTS_MAX)
        {
            return refuse("a rate has 1 to 100,000 starts");
        }
        if self
            .rates()
            .any(|rate| rate.per < Duration::from_millis(1) || rate.per > PER_MAX)
        {
            return refuse("a rate is per 1 ms to 31 days");
        }
        Ok(())
    }
}

//! Why a job does not run.
//!
//! One script gives all that decides it at one moment ([`FoundReasons`]); the parents that a flow
//! waits for are looked up behind it. The order of the reasons is that in which they have to go:
//! its state first, then what keeps consumers from taking it.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use redis::Value;

use super::client::RedisClient;
use super::job_fields::{fields_of_hash, info, number_of, state_of};
use super::keys::{id_of, parts_of};
use super::reply::read;
use super::scripts;
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState};
use crate::limits::Rate;
use crate::why::{Blocker, Explanation};

/// A consumer that has not asked for this long is none.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(60);
/// Parents of a flow that are named.
const PARENTS_NAMED_MAX: usize = 10;

/// What `why.lua` says of a job.
struct FoundReasons {
    job: JobInfo,
    fields: HashMap<String, String>,
    is_paused: bool,
    /// Consumers that have asked for jobs of the queue lately.
    asked: u64,
    /// The earliest job of its key, and the state of that.
    before_in_key: Option<String>,
    state_of_that: Option<String>,
    /// The limits that hold it back, of its queue and of its partition.
    queue_closed: Value,
    partition_closed: Value,
    /// Ready jobs that come first.
    before: u64,
    /// By the server's clock, in milliseconds.
    now: u64,
}

impl FoundReasons {
    fn read(queue: &str, number: &str, values: Vec<Value>) -> Result<Self, Error> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let fields = fields_of_hash(next())?;
        let history: Vec<String> = read(next())?;
        Ok(Self {
            job: info(queue, number, &fields, &history),
            fields,
            is_paused: read(next())?,
            asked: read(next())?,
            before_in_key: read(next())?,
            state_of_that: read(next())?,
            queue_closed: next(),
            partition_closed: next(),
            before: read(next())?,
            now: read::<String>(next())?.parse().unwrap_or(0),
        })
    }

    fn parents_left(&self) -> u64 {
        number_of(&self.fields, "parents_left")
    }

    /// The reasons that its state has.
    fn add_state(&self, queue: &str, reasons: &mut Vec<Blocker>) -> Result<(), Error> {
        let job = &self.job;
        match job.state {
            JobState::Leased => reasons.push(Blocker::Running {
                holder: job.holder.clone().unwrap_or_default(),
                lease_left: Duration::from_millis(
                    number_of(&self.fields, "lease_until").saturating_sub(self.now),
                ),
                cancel: self.fields.get("cancel").cloned(),
            }),
            JobState::Done | JobState::Dead | JobState::Cancelled => reasons.push(Blocker::Ended {
                reason: job.reason.clone(),
            }),
            JobState::Scheduled | JobState::Retrying => {
                let last = job.history.last().map(|record| record.reason.clone());
                reasons.push(Blocker::NotDue {
                    due: job.due_at.unwrap_or(UNIX_EPOCH),
                    last,
                });
            }
            JobState::Blocked if self.parents_left() > 0 => {}
            JobState::Blocked => {
                if let (Some(key), Some(first)) = (job.key.clone(), &self.before_in_key) {
                    let state = state_of(self.state_of_that.as_deref());
                    reasons.push(Blocker::Key {
                        key,
                        job: id_of(queue, first),
                        state,
                    });
                }
            }
            JobState::Ready => {
                let partition = self.fields.get("partition").cloned().unwrap_or_default();
                reasons.extend(closed(&self.queue_closed, None)?);
                reasons.extend(closed(&self.partition_closed, Some(partition))?);
                reasons.extend((self.before > 0).then_some(Blocker::Behind { jobs: self.before }));
            }
        }
        Ok(())
    }

    /// Whether consumers take it, if it is to run at all.
    fn add_consumers(&self, reasons: &mut Vec<Blocker>) {
        let job = &self.job;
        if job.state == JobState::Leased || job.state.is_terminal() {
            return;
        }
        reasons.extend(
            job.unserved
                .map(|given_back| Blocker::Unserved { given_back }),
        );
        reasons.extend(self.is_paused.then_some(Blocker::Paused));
        reasons.extend((self.asked == 0).then_some(Blocker::NoConsumer {
            since: ASKED_WITHIN,
        }));
    }
}

impl RedisClient {
    pub(super) async fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(None);
        };
        self.merge_if_needed(queue).await?;
        let answer: Value = self.run("ask why", scripts::why(), queue, &number).await?;
        let Value::Array(values) = answer else {
            return Ok(None);
        };
        let found = FoundReasons::read(queue, &number, values)?;
        let job = &found.job;
        let mut reasons = Vec::new();
        if job.state == JobState::Blocked && found.parents_left() > 0 {
            reasons.push(self.waits_for_parents(id, found.parents_left()).await?);
        }
        found.add_state(queue, &mut reasons)?;
        found.add_consumers(&mut reasons);
        Ok(Some(Explanation::new(
            id.clone(),
            queue.to_owned(),
            found.job.state,
            reasons,
        )))
    }

    async fn waits_for_parents(&self, id: &JobId, unsettled: u64) -> Result<Blocker, Error> {
        let parents = self.job(id, false).await?.and_then(|job| job.parents);
        let jobs = parents.map(|parents| parents.unsettled).unwrap_or_default();
        let jobs = jobs.into_iter().take(PARENTS_NAMED_MAX).collect();
        Ok(Blocker::Flow { unsettled, jobs })
    }
}

/// What `closed` of `common.lua` said.
fn closed(value: &Value, partition: Option<String>) -> Result<Option<Blocker>, Error> {
    let Value::Array(values) = value else {
        return Ok(None);
    };
    let mut values = values.iter().cloned();
    let mut next = || values.next().unwrap_or(Value::Nil);
    let what: String = read(next())?;
    Ok(Some(if what == "running" {
        Blocker::RunningLimit {
            partition,
            limit: read(next())?,
            running: read(next())?,
        }
    } else {
        let rate = Rate {
            starts: read(next())?,
            per: Duration::from_millis(read(next())?),
        };
        Blocker::RateLimit {
            partition,
            rate,
            free_in: Duration::from_millis(read(next())?),
        }
    }))
}

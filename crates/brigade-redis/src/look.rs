//! Looking at jobs and queues: lists, counts, one job with its history, and why a job waits.
//!
//! Every view first lets happen what is due (`look_at`), so that all views agree. What other
//! programs stored may be no text, or lack fields: it is read with defaults and never an error.
//! Large queues are read in pages, so that no command holds the server up.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::{join, join_all};
use redis::{Value, cmd, pipe};

use super::keys::{QUEUES, check_name, id_of, key, no_such, parts_of};
use super::link::Link;
use super::reply::read;
use super::scripts;
use crate::error::Error;
use crate::job::{AttemptRecord, JobId, JobInfo, JobOptions, JobState, Parents, Unserved};
use crate::limits::{Limits, Rate};
use crate::store::{JobFilter, QueueCounts};
use crate::why::{Blocker, Explanation};

/// Jobs that are looked at in one round trip.
const PAGE: isize = 500;
/// A worker that has not asked for this long is none.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(60);

impl Link {
    pub(super) async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobInfo>, Error> {
        let after = filter
            .after
            .as_ref()
            .map(|id| parts_of(id).ok_or_else(|| no_such(id)))
            .transpose()?;
        let queues = match &filter.queue {
            Some(queue) => vec![queue.to_string()],
            None => self.queues().await?,
        };
        let mut jobs = Vec::new();
        for queue in queues
            .iter()
            .filter(|queue| after.as_ref().is_none_or(|(of, _)| queue.as_str() >= *of))
        {
            let from = after
                .as_ref()
                .filter(|(of, _)| queue == of)
                .map_or("-".to_owned(), |(_, number)| format!("({number}"));
            self.jobs_of(queue, filter.state, from, filter.limit, &mut jobs)
                .await?;
        }
        Ok(jobs)
    }

    /// Looks at queues as they are now: first everything happens whose time has come. What all
    /// views do, so that they tell the same. All of it goes to the server together, in this order.
    async fn look_at<T>(
        &self,
        queues: &[&str],
        look: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let ticks = queues.iter().map(|queue| {
            self.run::<i64>(
                "bring a queue up to date",
                scripts::tick(),
                queue,
                Vec::<String>::new(),
            )
        });
        let (ticked, looked) = join(join_all(ticks), look).await;
        for (queue, ticked) in queues.iter().zip(ticked) {
            if let Err(error) = ticked {
                // There is something to see all the same.
                tracing::debug!(%error, queue, "looked at a queue that could not be brought up to \
                    date");
            }
        }
        looked
    }

    pub(super) async fn job(&self, id: &JobId, is_now: bool) -> Result<Option<JobInfo>, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(None);
        };
        let mut pipeline = pipe();
        pipeline
            .cmd("HGETALL")
            .arg(key(queue, &format!("job:{number}")));
        pipeline
            .cmd("LRANGE")
            .arg(key(queue, &format!("history:{number}")))
            .arg(0)
            .arg(-1);
        pipeline
            .cmd("LRANGE")
            .arg(key(queue, &format!("parents:{number}")))
            .arg(0)
            .arg(PARENTS_MAX);
        pipeline.cmd("EXISTS").arg(key(queue, "incoming"));
        let look = self.ask_all("look up a job", &pipeline);
        let mut looked: (Value, Vec<String>, Vec<String>, u64) = if is_now {
            self.look_at(&[queue], look).await?
        } else {
            look.await?
        };
        if looked.3 > 0 {
            self.merge(queue).await?;
            looked = self.ask_all("look up a job", &pipeline).await?;
        }
        let (fields, history, parents, _) = looked;
        let fields = fields_of_hash(fields)?;
        if fields.is_empty() {
            return Ok(None);
        }
        let mut job = info(queue, &number, &fields, &history);
        if let Some(flow) = &mut job.parents
            && flow.settled < flow.total
        {
            flow.unsettled = self.unsettled(&parents).await?;
        }
        Ok(Some(job))
    }

    /// Those of a job's parents that are not settled, the first of them.
    async fn unsettled(&self, parents: &[String]) -> Result<Vec<JobId>, Error> {
        let mut unsettled = Vec::new();
        for page in parents.chunks(PARENTS_PAGE) {
            let parents: Vec<_> = page.iter().filter_map(|member| parent_of(member)).collect();
            let mut pipeline = pipe();
            for (queue, number) in &parents {
                pipeline
                    .cmd("HGET")
                    .arg(key(queue, &format!("job:{number}")))
                    .arg("state");
            }
            let states: Vec<Option<String>> = self.ask_all("look up jobs", &pipeline).await?;
            let is_open = |state: &Option<String>| {
                state
                    .as_deref()
                    .is_some_and(|state| !state_of(Some(state)).is_terminal())
            };
            unsettled.extend(
                parents
                    .iter()
                    .zip(&states)
                    .filter(|(_, state)| is_open(state))
                    .map(|((queue, number), _)| id_of(queue, number)),
            );
            if unsettled.len() >= UNSETTLED_MAX {
                unsettled.truncate(UNSETTLED_MAX);
                break;
            }
        }
        Ok(unsettled)
    }

    async fn queues(&self) -> Result<Vec<String>, Error> {
        let mut queues: Vec<String> = self.ask("list queues", cmd("SMEMBERS").arg(QUEUES)).await?;
        queues.sort();
        Ok(queues)
    }

    /// Page after page, until there are enough.
    async fn jobs_of(
        &self,
        queue: &str,
        state: Option<JobState>,
        mut from: String,
        limit: usize,
        jobs: &mut Vec<JobInfo>,
    ) -> Result<(), Error> {
        check_name(queue)?;
        self.merge_if_needed(queue).await?;
        while jobs.len() < limit {
            let mut page = cmd("ZRANGEBYLEX");
            page.arg(key(queue, "jobs"))
                .arg(&from)
                .arg("+")
                .arg("LIMIT")
                .arg(0)
                .arg(PAGE);
            let numbers: Vec<String> = self.look_at(&[queue], self.ask("list jobs", &page)).await?;
            let Some(last) = numbers.last() else {
                return Ok(());
            };
            from = format!("({last}");
            let mut pipeline = pipe();
            for number in &numbers {
                pipeline
                    .cmd("HGETALL")
                    .arg(key(queue, &format!("job:{number}")));
                pipeline
                    .cmd("LRANGE")
                    .arg(key(queue, &format!("history:{number}")))
                    .arg(0)
                    .arg(-1);
            }
            let values: Vec<Value> = self.ask_all("list jobs", &pipeline).await?;
            let mut values = values.into_iter();
            for number in &numbers {
                let fields = fields_of_hash(values.next().unwrap_or(Value::Nil))?;
                let history: Vec<String> = read(values.next().unwrap_or(Value::Nil))?;
                let fits = state.is_none_or(|state| {
                    fields
                        .get("state")
                        .is_some_and(|known| *known == state.to_string())
                });
                if !fields.is_empty() && fits && jobs.len() < limit {
                    let mut job = info(queue, number, &fields, &history);
                    if let Some(flow) = &mut job.parents
                        && flow.settled < flow.total
                    {
                        let parents = cmd("LRANGE")
                            .arg(key(queue, &format!("parents:{number}")))
                            .arg(0)
                            .arg(-1)
                            .clone();
                        flow.unsettled = self
                            .unsettled(&self.ask::<Vec<String>>("look up parents", &parents).await?)
                            .await?;
                    }
                    jobs.push(job);
                }
            }
        }
        Ok(())
    }

    /// Those on the list, and these: any client may push to the inbox of a queue that is on none.
    pub(super) async fn counts(&self, others: &[Box<str>]) -> Result<Vec<QueueCounts>, Error> {
        let mut counts = Vec::new();
        let mut queues = self.queues().await?;
        queues.extend(others.iter().map(ToString::to_string));
        queues.sort();
        queues.dedup();
        for page in queues.chunks(QUEUES_PAGE) {
            let names: Vec<&str> = page.iter().map(String::as_str).collect();
            let mut values = self
                .look_at(&names, self.count_page(page))
                .await?
                .into_iter();
            for queue in page {
                let values: Vec<Value> = values.by_ref().take(COUNTS).collect();
                let is_incoming = values.last() == Some(&Value::Int(1));
                let values = if is_incoming {
                    self.merge(queue).await?;
                    self.count_page(std::slice::from_ref(queue)).await?
                } else {
                    values
                };
                let found = counts_of(queue, values)?;
                if found.paused || found.limits.is_some() || !found.jobs.is_empty() {
                    counts.push(found);
                } else if !others.contains(&queue.as_str().into()) {
                    self.unlist_queue(queue).await;
                }
            }
        }
        Ok(counts)
    }

    async fn count_page(&self, queues: &[String]) -> Result<Vec<Value>, Error> {
        let mut pipeline = pipe();
        for queue in queues {
            pipeline.cmd("EXISTS").arg(key(queue, "paused"));
            pipeline.cmd("HGET").arg(key(queue, "limits")).arg("json");
            pipeline.cmd("LLEN").arg(key(queue, "inbox"));
            for state in JobState::ALL {
                pipeline.cmd("ZCARD").arg(key(queue, &state.to_string()));
            }
            pipeline.cmd("EXISTS").arg(key(queue, "incoming"));
        }
        self.ask_all("count jobs", &pipeline).await
    }

    pub(super) async fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(None);
        };
        self.merge_if_needed(queue).await?;
        let answer: Value = self.run("ask why", scripts::why(), queue, &number).await?;
        let Value::Array(values) = answer else {
            return Ok(None);
        };
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let fields = fields_of_hash(next())?;
        let history: Vec<String> = read(next())?;
        let (paused, asked): (bool, u64) = (read(next())?, read(next())?);
        let (before_in_key, state_of_that): (Option<String>, Option<String>) =
            (read(next())?, read(next())?);
        let (queue_closed, partition_closed) = (next(), next());
        let before: u64 = read(next())?;
        let now: String = read(next())?;
        let job = info(queue, &number, &fields, &history);
        let partition = fields.get("partition").cloned().unwrap_or_default();

        let mut reasons = Vec::new();
        match job.state {
            JobState::Leased => reasons.push(Blocker::Running {
                holder: job.holder.clone().unwrap_or_default(),
                lease_left: Duration::from_millis(
                    number_of(&fields, "lease_until").saturating_sub(now.parse().unwrap_or(0)),
                ),
                cancel: fields.get("cancel").cloned(),
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
            JobState::Blocked if number_of(&fields, "parents_left") > 0 => {
                let jobs = self
                    .job(id, false)
                    .await?
                    .and_then(|job| job.parents)
                    .map(|parents| parents.unsettled)
                    .unwrap_or_default();
                let jobs = jobs.into_iter().take(10).collect();
                reasons.push(Blocker::Flow {
                    unsettled: number_of(&fields, "parents_left"),
                    jobs,
                });
            }
            JobState::Blocked => {
                if let (Some(key), Some(first)) = (job.key.clone(), before_in_key) {
                    let state = state_of(state_of_that.as_deref());
                    reasons.push(Blocker::Key {
                        key,
                        job: id_of(queue, &first),
                        state,
                    });
                }
            }
            JobState::Ready => {
                reasons.extend(closed(queue_closed, None)?);
                reasons.extend(closed(partition_closed, Some(partition))?);
                reasons.extend((before > 0).then_some(Blocker::Behind { jobs: before }));
            }
        }
        if job.state != JobState::Leased && !job.state.is_terminal() {
            reasons.extend(
                job.unserved
                    .map(|given_back| Blocker::Unserved { given_back }),
            );
            reasons.extend(paused.then_some(Blocker::Paused));
            reasons.extend((asked == 0).then_some(Blocker::NoWorker {
                since: ASKED_WITHIN,
            }));
        }
        Ok(Some(Explanation::new(
            id.clone(),
            queue.to_owned(),
            job.state,
            reasons,
        )))
    }
}

/// Queues that are counted in one round trip.
const QUEUES_PAGE: usize = 200;
/// Values of each.
const COUNTS: usize = JobState::ALL.len() + 4;

fn counts_of(queue: &str, values: Vec<Value>) -> Result<QueueCounts, Error> {
    let mut values = values.into_iter();
    let mut next = || values.next().unwrap_or(Value::Nil);
    let (paused, limits, inbox): (bool, Option<String>, u64) =
        (read(next())?, read(next())?, read(next())?);
    let mut jobs = Vec::new();
    for state in JobState::ALL {
        let count: u64 = read(next())?;
        let count = count + if state == JobState::Ready { inbox } else { 0 };
        if count > 0 {
            jobs.push((state, count));
        }
    }
    let limits = limits.and_then(|text| serde_json::from_str::<Limits>(&text).ok());
    Ok(QueueCounts {
        queue: queue.to_owned(),
        paused,
        limits,
        jobs,
    })
}

/// Parents of a flow that are looked at for those that are not settled, so many at once.
const PARENTS_MAX: isize = 100_000;
const PARENTS_PAGE: usize = 500;
/// Parents of a flow that are named.
const UNSETTLED_MAX: usize = 20;

/// Queue and number of a member, as a script keeps it: the beginning of its queue's keys, and its
/// number.
fn parent_of(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("brigade:{")?.rsplit_once("}:")
}

/// What `closed` of `common.lua` said.
fn closed(value: Value, partition: Option<String>) -> Result<Option<Blocker>, Error> {
    let Value::Array(values) = value else {
        return Ok(None);
    };
    let mut values = values.into_iter();
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

fn state_of(text: Option<&str>) -> JobState {
    JobState::ALL
        .into_iter()
        .find(|state| text == Some(state.to_string().as_str()))
        .unwrap_or(JobState::Ready)
}

fn number_of(fields: &HashMap<String, String>, name: &str) -> u64 {
    fields
        .get(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn parents(fields: &HashMap<String, String>) -> Option<Parents> {
    let count = |name: &str| u32::try_from(number_of(fields, name)).unwrap_or(u32::MAX);
    let (parents, left, missed) = (count("parents"), count("parents_left"), count("missed"));
    (parents > 0).then(|| Parents {
        total: parents,
        settled: parents.saturating_sub(left),
        missed,
        unsettled: Vec::new(),
    })
}

fn dependent_of(fields: &HashMap<String, String>) -> Option<JobId> {
    let queue = fields
        .get("dependent_queue")?
        .strip_prefix("brigade:{")?
        .strip_suffix("}:")?;
    Some(id_of(queue, fields.get("dependent")?))
}

/// What other programs have pushed may be no text.
fn fields_of_hash(value: Value) -> Result<HashMap<String, String>, Error> {
    let fields: HashMap<String, Vec<u8>> = read(value)?;
    Ok(fields
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect())
}

fn info(
    queue: &str,
    number: &str,
    fields: &HashMap<String, String>,
    history: &[String],
) -> JobInfo {
    let text = |name: &str| fields.get(name).cloned();
    let count = |name: &str| u32::try_from(number_of(fields, name)).unwrap_or(u32::MAX);
    let options: JobOptions = fields
        .get("options")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let due = number_of(fields, "due");
    JobInfo {
        id: id_of(queue, number),
        queue: queue.to_owned(),
        task: text("task"),
        state: state_of(fields.get("state").map(String::as_str)),
        payload: text("payload").unwrap_or_default(),
        priority: options.priority,
        key: text("key"),
        partition: text("partition").filter(|partition| !partition.is_empty()),
        label: options.label.map(Into::into),
        tick: options.tick,
        pushed_at: UNIX_EPOCH + Duration::from_millis(number_of(fields, "pushed_at")),
        due_at: (due > 0).then(|| UNIX_EPOCH + Duration::from_millis(due)),
        failed: count("failed"),
        crashed: count("crashed"),
        interrupted: count("interrupted"),
        lost: count("lost"),
        unserved: (count("unserved") > 0).then(|| Unserved {
            times: count("unserved"),
            since: UNIX_EPOCH + Duration::from_millis(number_of(fields, "unserved_at")),
        }),
        holder: text("holder"),
        begins_by: (number_of(fields, "begins_by") > 0)
            .then(|| UNIX_EPOCH + Duration::from_millis(number_of(fields, "begins_by"))),
        cancel: text("cancel"),
        parents: parents(fields),
        dependent: dependent_of(fields),
        result: text("result"),
        reason: text("reason"),
        history: history
            .iter()
            .filter_map(|text| serde_json::from_str::<AttemptRecord>(text).ok())
            .collect(),
    }
}

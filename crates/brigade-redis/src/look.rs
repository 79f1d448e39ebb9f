//! Lists of jobs, and one job with its history.
//!
//! Every view first lets happen what is due (`look_at`), so that all views agree. What other
//! programs stored may be no text, or lack fields: it is read with defaults and never an error.
//! Large queues are read in pages, so that no command holds the server up.

use std::future::Future;

use futures_util::future::{join, join_all};
use redis::{Value, cmd, pipe};

use super::client::RedisClient;
use super::job_fields::{fields_of_hash, info, state_of};
use super::keys::{QUEUES, check_name, id_of, key, no_such, parts_of};
use super::reply::read;
use super::scripts;
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState};
use crate::store::{JobFilter, JobPage};

/// Jobs that are looked at in one round trip.
const PAGE: isize = 500;
impl RedisClient {
    pub(super) async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
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
        Ok(JobPage { jobs, next: None })
    }

    /// Looks at queues as they are now: first everything happens whose time has come. What all
    /// views do, so that they tell the same. All of it goes to the server together, in this order.
    pub(super) async fn look_at<T>(
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

    pub(super) async fn queues(&self) -> Result<Vec<String>, Error> {
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

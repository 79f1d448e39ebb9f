//! One job with its history, and what all views begin with.
//!
//! Every view first lets happen what is due (`look_at`, `bring_up_to_date`), so that all views
//! agree. What other programs stored may be no text, or lack fields: it is read with defaults and
//! never an error.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{join, try_join, try_join_all};
use redis::{Value, cmd, pipe};

use super::arguments::Arguments;
use super::client::RedisClient;
use super::job_fields::{fields_of_hash, info, state_of};
use super::keys::{QUEUES, id_of, key, parts_of};
use super::reply::convert;
use super::scripts;
use crate::error::Error;
use crate::job::{JobId, JobInfo, JobState};

/// Queues that one script brings up to date.
const QUEUES_AT_ONCE: usize = 100;

impl RedisClient {
    /// Looks at a queue as it is now: first everything happens whose time has come. What all views
    /// do, so that they agree. All of it goes to the server together, in this order.
    pub(super) async fn look_at<T>(
        &self,
        queue: &str,
        look: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let script = self.run::<Vec<Value>>(
            "bring a queue up to date",
            scripts::look(),
            queue,
            ("", key(queue, "")),
        );
        let (ticked, looked) = join(script, look).await;
        if let Err(error) = ticked {
            // There is something to see all the same.
            tracing::debug!(%error, queue, "looked at a queue that could not be brought up to date");
        }
        looked
    }

    /// Has everything happen in these queues whose time has come; what came in as large requests
    /// is moved into them.
    pub(super) async fn bring_up_to_date(&self, queues: &[String]) -> Result<(), Error> {
        let mut pipeline = pipe();
        for queue in queues {
            pipeline
                .cmd("EXISTS")
                .arg(key(queue, "incoming"))
                .arg(key(queue, "doomed"));
        }
        if queues.is_empty() {
            return Ok(());
        }
        let (_, large) = try_join(
            self.look_at_many(queues, false),
            self.ask_all::<Vec<u64>>("look at queues", &pipeline),
        )
        .await?;
        for (queue, _) in queues.iter().zip(large).filter(|(_, large)| *large > 0) {
            self.merge(queue).await?;
        }
        Ok(())
    }

    /// Runs `look.lua` on these queues; its answer for each.
    pub(super) async fn look_at_many(
        &self,
        queues: &[String],
        is_counted: bool,
    ) -> Result<Vec<Vec<Value>>, Error> {
        let piece = if self.is_cluster() { 1 } else { QUEUES_AT_ONCE };
        let pieces = queues
            .chunks(piece)
            .map(|queues| self.look_at_piece(queues, is_counted));
        Ok(try_join_all(pieces).await?.into_iter().flatten().collect())
    }

    async fn look_at_piece(
        &self,
        queues: &[String],
        is_counted: bool,
    ) -> Result<Vec<Vec<Value>>, Error> {
        let mut answers: Vec<Vec<Value>> = Vec::with_capacity(queues.len());
        // One script does only so much.
        while let Some(queue) = queues.get(answers.len()) {
            let mut arguments = Arguments::default();
            arguments.push(if is_counted { "1" } else { "" });
            queues[answers.len()..]
                .iter()
                .for_each(|queue| arguments.push(&key(queue, "")));
            let what = "look at queues";
            let more: Vec<Value> = self.run(what, scripts::look(), queue, arguments).await?;
            for answer in more {
                answers.push(convert(what, answer, false)?);
            }
        }
        Ok(answers)
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
            self.look_at(queue, look).await?
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
        job.leased_at = self.leased_at(queue, &fields).await;
        if let Some(flow) = &mut job.parents
            && flow.settled < flow.total
        {
            flow.unsettled = self.unsettled(&parents).await?;
        }
        Ok(Some(job))
    }

    /// Names the parents of a job that are not settled, the first of them.
    pub(super) async fn name_unsettled(
        &self,
        job: &mut JobInfo,
        number: &str,
    ) -> Result<(), Error> {
        if let Some(flow) = &mut job.parents
            && flow.settled < flow.total
        {
            let mut parents = cmd("LRANGE");
            parents
                .arg(key(&job.queue, &format!("parents:{number}")))
                .arg(0)
                .arg(PARENTS_MAX);
            let parents: Vec<String> = self.ask("look up parents", &parents).await?;
            flow.unsettled = self.unsettled(&parents).await?;
        }
        Ok(())
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

    /// When a job was handed out, by the wall clock as it is now: that is about its token.
    pub(super) async fn leased_at(
        &self,
        queue: &str,
        fields: &HashMap<String, String>,
    ) -> Option<SystemTime> {
        if state_of(fields.get("state").map(String::as_str)) != JobState::Leased {
            return None;
        }
        let token: i64 = fields.get("token")?.parse().ok()?;
        let correction = self.times.correction_at(key(queue, "").as_bytes()).await;
        let (_, set) = self.clock_moved();
        let leased = u64::try_from(token.saturating_sub(correction).saturating_add(set)).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_millis(leased))
    }

    pub(super) async fn queues(&self) -> Result<Vec<String>, Error> {
        let mut queues: Vec<String> = self.ask("list queues", cmd("SMEMBERS").arg(QUEUES)).await?;
        queues.sort();
        Ok(queues)
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

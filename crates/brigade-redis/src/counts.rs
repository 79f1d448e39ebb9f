//! How many jobs of each state every queue has.

use redis::{Value, pipe};

use super::client::RedisClient;
use super::keys::key;
use super::reply::read;
use crate::error::Error;
use crate::job::JobState;
use crate::limits::Limits;
use crate::store::QueueCounts;

impl RedisClient {
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
        waits_since: None,
    })
}

//! How many jobs of each state every queue has.
//!
//! On one server one script counts [`QUEUES_PAGE`] queues; in a cluster each queue has a script of
//! its own, and those of a page go to the nodes together.

use std::time::{Duration, UNIX_EPOCH};

use redis::Value;

use super::client::RedisClient;
use super::reply::read;
use crate::error::Error;
use crate::job::JobState;
use crate::limits::Limits;
use crate::store::QueueCounts;

/// Queues that are counted in one round trip.
const QUEUES_PAGE: usize = 200;

impl RedisClient {
    /// Those on the list, and these: any client may push to the inbox of a queue that is on none.
    pub(super) async fn counts(&self, others: &[Box<str>]) -> Result<Vec<QueueCounts>, Error> {
        let mut counts = Vec::new();
        let mut queues = self.queues().await?;
        queues.extend(others.iter().map(ToString::to_string));
        queues.sort();
        queues.dedup();
        for page in queues.chunks(QUEUES_PAGE) {
            for (queue, values) in page.iter().zip(self.look_at_many(page, true).await?) {
                let mut found = FoundCounts::read(queue, values)?;
                if found.is_incoming {
                    self.merge(queue).await?;
                    let again = self.look_at_many(std::slice::from_ref(queue), true).await?;
                    if let Some(values) = again.into_iter().next() {
                        found = FoundCounts::read(queue, values)?;
                    }
                }
                let found = found.counts;
                if found.paused || found.limits.is_some() || !found.jobs.is_empty() {
                    counts.push(found);
                } else if !others.contains(&queue.as_str().into()) {
                    self.unlist_queue(queue).await;
                }
            }
        }
        Ok(counts)
    }
}

/// What `look.lua` says of a queue.
struct FoundCounts {
    counts: QueueCounts,
    is_incoming: bool,
}

impl FoundCounts {
    fn read(queue: &str, values: Vec<Value>) -> Result<Self, Error> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        let (paused, limits, inbox): (bool, String, u64) =
            (read(next())?, read(next())?, read(next())?);
        let mut jobs = Vec::new();
        for state in JobState::ALL {
            let count: u64 = read(next())?;
            let count = count + if state == JobState::Ready { inbox } else { 0 };
            if count > 0 {
                jobs.push((state, count));
            }
        }
        let is_incoming = read(next())?;
        let since = read::<String>(next())?.parse().map(Duration::from_millis);
        let mut counts = QueueCounts::new(queue);
        counts.paused = paused;
        counts.limits = serde_json::from_str::<Limits>(&limits).ok();
        counts.jobs = jobs;
        counts.waits_since = since.ok().and_then(|since| UNIX_EPOCH.checked_add(since));
        Ok(Self {
            counts,
            is_incoming,
        })
    }
}

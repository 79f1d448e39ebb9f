//! Jobs of processes of this host that are gone.
//!
//! A lease names its holder's process as [`own_name`] does, so another consumer on the same host,
//! boot and PID namespace can see with certainty that neither it nor one of its workers runs any
//! more. Then nothing can be running twice, and its jobs go on at once, those that it had only
//! prefetched too. Processes of other hosts are gone when they have had no connection for longer
//! than they may hold jobs without one ([`presence`](super::presence)). Leases of processes that
//! could not announce themselves end by their time.

use redis::pipe;

use super::client::RedisClient;
use super::keys::key;
use super::presence::{channel, read_name};
use super::scripts;
use crate::error::Error;
use brigade_runtime::owner::own_name;

/// Holders of a queue that are looked at.
const HOLDERS_MAX: isize = 200;

impl RedisClient {
    /// Gives back what processes held that are gone; the queues in which there was anything.
    pub(super) async fn take_over(&self, queues: &[Box<str>]) -> Result<Vec<Box<str>>, Error> {
        let mut changed: Vec<Box<str>> = Vec::new();
        let due = self.holder_checks.due(queues);
        if due.is_empty() {
            return Ok(changed);
        }
        let mut pipeline = pipe();
        for queue in &due {
            pipeline
                .cmd("ZRANGE")
                .arg(key(queue, "holders"))
                .arg(0)
                .arg(HOLDERS_MAX);
        }
        let holders: Vec<Vec<String>> = self
            .ask_all("look for holders that are gone", &pipeline)
            .await?;
        let mut others = Vec::new();
        for (queue, holders) in due.into_iter().zip(holders) {
            for holder in holders {
                let (name, is_announced) = read_name(&holder);
                if name == own_name() {
                    continue;
                }
                if self.holder_checks.is_gone(&holder) {
                    let reason = "the process that held it is gone";
                    if self.take_from(queue, &holder, "", reason).await? {
                        changed.push(queue.into());
                    }
                } else if is_announced {
                    others.push((Box::from(queue), holder.into_boxed_str()));
                }
            }
        }
        let absent = match self.presence.absent(self.nodes(), &others).await {
            Ok(absent) => absent,
            // Its user may not ask.
            Err(fault) => {
                tracing::debug!(error = %fault.source, "could not ask which holders are connected");
                Vec::new()
            }
        };
        for (queue, holder) in absent {
            let listens = channel(read_name(&holder).0);
            let reason = "the process that held it has no connection to the server any more";
            if self.take_from(&queue, &holder, &listens, reason).await? {
                changed.push(queue);
            }
        }
        changed.dedup();
        Ok(changed)
    }

    /// Gives back what a holder had in a queue, unless something listens to this channel by now;
    /// whether there was anything.
    async fn take_from(
        &self,
        queue: &str,
        holder: &str,
        channel: &str,
        reason: &str,
    ) -> Result<bool, Error> {
        let record = format!(r#""kind":"interrupted","reason":"{reason}"}}"#);
        let (mut from, mut all) = (0_i64, 0);
        while from >= 0 {
            let count: u64;
            (from, count) = self
                .run(
                    "take over jobs",
                    scripts::takeover(),
                    queue,
                    (holder, &record, from, channel),
                )
                .await?;
            all += count;
        }
        if all > 0 {
            tracing::info!(queue, holder, jobs = all, "jobs go on: {reason}");
        }
        Ok(all > 0)
    }
}

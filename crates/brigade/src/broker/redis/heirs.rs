//! Jobs of processes of this host that are gone.
//!
//! A lease names its holder's process as [`own_name`] does, so another consumer on the same host,
//! boot and PID namespace can see with certainty that neither it nor one of its workers runs any
//! more. Then nothing can be running twice, and its jobs go on at once, those that it had only
//! prefetched too. Of other hosts' processes nothing is certain; their leases end by their time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::pipe;

use super::link::{Link, key, scripts};
use crate::error::Error;
use crate::process::{Descendants, Left, own_name};
use crate::sync::lock;

/// So often the holders of a queue are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Queues of which it is remembered when.
const QUEUES_MAX: usize = 10_000;
/// Holders of a queue that are looked at.
const HOLDERS_MAX: isize = 200;

#[derive(Default)]
pub(super) struct Holders {
    heirs: Mutex<Descendants>,
    looked: Mutex<HashMap<Box<str>, Instant>>,
}

impl Holders {
    /// Those of these queues that have not been looked at for a while; they are now.
    fn due<'a>(&self, queues: &'a [Box<str>]) -> Vec<&'a str> {
        let mut looked = lock(&self.looked);
        if looked.len() > QUEUES_MAX {
            looked.clear();
        }
        let is_due = |queue: &&str| {
            looked
                .get(*queue)
                .is_none_or(|when| when.elapsed() >= LOOK_EVERY)
        };
        let due: Vec<&str> = queues.iter().map(|queue| &**queue).filter(is_due).collect();
        looked.extend(due.iter().map(|queue| (Box::from(*queue), Instant::now())));
        due
    }

    fn is_gone(&self, holder: &str) -> bool {
        holder != own_name() && lock(&self.heirs).left(holder) == Left::Nothing
    }
}

impl Link {
    /// Gives back what processes held that are gone; the queues in which there was anything.
    pub(super) async fn take_over(&self, queues: &[Box<str>]) -> Result<Vec<Box<str>>, Error> {
        let mut changed: Vec<Box<str>> = Vec::new();
        let due = self.holders.due(queues);
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
        for (queue, holders) in due.into_iter().zip(holders) {
            for holder in holders.iter().filter(|holder| self.holders.is_gone(holder)) {
                let record = r#""kind":"interrupted","reason":"the process that held it is gone"}"#;
                let mut from = 0_i64;
                while from >= 0 {
                    let count: u64;
                    (from, count) = self
                        .run(
                            "take over jobs",
                            scripts::takeover(),
                            queue,
                            (holder, record, from),
                        )
                        .await?;
                    if count > 0 && changed.last().map(AsRef::as_ref) != Some(queue) {
                        changed.push(queue.into());
                    }
                }
                tracing::info!(
                    queue,
                    holder,
                    "a process that held jobs is gone; they go on"
                );
            }
        }
        Ok(changed)
    }
}

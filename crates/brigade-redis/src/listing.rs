//! The list of queues, `brigade:queues`, and what moves pieces of large requests into a queue.
//!
//! On one server the scripts keep the list: a queue is on it from its first job to its last. In a
//! cluster it may be on another node than a queue, so there it is a hint: a producer or consumer
//! puts a queue on it from time to time, and a look at all queues takes the empty ones off. If its
//! node is away, queues of other nodes do not wait for that.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{cmd, pipe};

use super::arguments::Arguments;
use super::client::RedisClient;
use super::cluster_events::RECORDED;
use super::keys::{COUNTED, QUEUES, key};
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::Job;

impl RedisClient {
    /// Sees to it that a queue is on the list; says whether it was put there now.
    ///
    /// # Errors
    ///
    /// What will not go by itself: a key of another program, a missing right.
    pub(super) async fn list_queue(&self, queue: &str) -> Result<bool, Error> {
        if !self.is_cluster()
            || self.listed.is_listed(queue)
            || self.nodes().is_away(QUEUES.as_bytes()).await
        {
            return Ok(false);
        }
        let minute = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs() / 60);
        let mut pipeline = pipe();
        pipeline
            .sadd(QUEUES, queue)
            .zadd(COUNTED, queue, minute)
            .exists(RECORDED);
        match self
            .ask_all::<(u64, u64, bool)>("list a queue", &pipeline)
            .await
        {
            Ok((_, _, is_recorded)) => {
                self.listed.note(queue);
                if is_recorded && let Err(error) = self.record_events(queue).await {
                    tracing::debug!(%error, queue, "could not have events be recorded");
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Refused) => {
                Err(error)
            }
            Err(error) => {
                tracing::debug!(%error, queue, "could not list a queue; trying again when it is \
                    used next");
                Ok(false)
            }
        }
    }

    /// As [`list_queue`](RedisClient::list_queue), for what must not fail because of it.
    pub(super) async fn list_queue_if_possible(&self, queue: &str) {
        if let Err(error) = self.list_queue(queue).await {
            tracing::warn!(%error, queue, "could not list a queue");
        }
    }

    /// Takes a queue that was seen empty off the list. One that was filled meanwhile is put there
    /// again by the next who uses it.
    pub(super) async fn unlist_queue(&self, queue: &str) {
        if self.is_cluster() {
            self.ask::<u64>(
                "take a queue off the list",
                cmd("SREM").arg(QUEUES).arg(queue),
            )
            .await
            .ok();
        } else {
            // On one server a script looks at the queue once more.
            self.run::<u64>(
                "take a queue off the list",
                scripts::merge(),
                queue,
                Arguments::default(),
            )
            .await
            .ok();
        }
    }

    /// Moves all that came in as large requests into the queue, piece by piece.
    pub(super) async fn merge(&self, queue: &str) -> Result<(), Error> {
        while self
            .run::<u64>(
                "move a large push into its queue",
                scripts::merge(),
                queue,
                Arguments::default(),
            )
            .await?
            > 0
        {}
        Ok(())
    }

    /// Does so for all queues of these jobs.
    pub(super) async fn merge_all(&self, jobs: &[Job]) -> Result<(), Error> {
        let queues: BTreeSet<&str> = jobs.iter().map(|job| &*job.queue).collect();
        for queue in queues {
            self.merge(queue).await?;
        }
        Ok(())
    }

    /// As [`merge`](RedisClient::merge), if there is any.
    pub(super) async fn merge_if_needed(&self, queue: &str) -> Result<(), Error> {
        let mut command = cmd("EXISTS");
        command
            .arg(key(queue, "incoming"))
            .arg(key(queue, "doomed"));
        if self.ask::<u64>("look at a queue", &command).await? > 0 {
            self.merge(queue).await
        } else {
            Ok(())
        }
    }
}

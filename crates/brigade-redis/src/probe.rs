//! Consumers of many queues: which of the open queues have anything.
//!
//! If many queues are open, one script per [`PROBE`] queues says first which of them have jobs, or
//! in how long something of them falls due. All queues are probed every [`SWEEP_EVERY`].

use std::time::Duration;

use futures_util::future::join_all;

use super::arguments::Arguments;
use super::client::RedisClient;
use super::keys::key;
use super::open_queues::FEW;
use super::presence::holder;
use super::scripts;
use crate::error::Error;
use crate::store::Queues;

/// Queues that one script looks at.
const PROBE: usize = 250;
/// The same where each queue may be on another node, and has a script of its own.
const PROBE_IN_CLUSTER: usize = 100;
const SWEEP_EVERY: Duration = Duration::from_millis(1500);
const SWEEP_EVERY_IN_CLUSTER: Duration = Duration::from_secs(10);

impl RedisClient {
    /// Of many queues those that are worth asking, in their order; and in how long there may be
    /// others.
    pub(super) async fn worth_asking(
        &self,
        queues: &Queues,
        max: usize,
    ) -> Result<(Vec<Box<str>>, Duration), Error> {
        let sweep_every = if self.is_cluster() {
            SWEEP_EVERY_IN_CLUSTER
        } else {
            SWEEP_EVERY
        };
        let suspects = self.open.suspects(queues, self.clock_moved(), sweep_every);
        if suspects.len() <= FEW {
            self.open.ring(suspects.iter().map(|queue| &**queue));
        } else {
            let piece = if self.is_cluster() {
                PROBE_IN_CLUSTER
            } else {
                PROBE
            };
            for page in suspects.chunks(piece) {
                page.iter().for_each(|queue| self.open.begin(queue));
                let dues = match self.probe(page).await {
                    Ok(dues) => dues,
                    Err(error) => {
                        self.open.ring_all();
                        return Err(error);
                    }
                };
                self.open.probed(page, dues);
            }
        }
        let found = self.open.hot(queues, max.max(FEW));
        Ok((found, self.open.next(sweep_every)))
    }

    /// In how many milliseconds each of these queues may have something to do; -1: not by time.
    pub(super) async fn probe(&self, queues: &[Box<str>]) -> Result<Vec<i64>, Error> {
        if !self.is_cluster() {
            let mut arguments = Arguments::default();
            arguments.push(holder());
            queues
                .iter()
                .for_each(|queue| arguments.push(&key(queue, "")));
            return self
                .run("look for jobs", scripts::probe(), &queues[0], arguments)
                .await;
        }
        // At the same time, so that they share their way to each node.
        let probes = queues.iter().map(async |queue| {
            // A node that is away has nothing to give.
            if self.nodes().is_away(key(queue, "").as_bytes()).await {
                return -1;
            }
            let answer: Result<Vec<i64>, Error> = self
                .run(
                    "look for jobs",
                    scripts::probe(),
                    queue,
                    (holder(), key(queue, "")),
                )
                .await;
            answer
                .ok()
                .and_then(|due| due.first().copied())
                .unwrap_or(-1)
        });
        Ok(join_all(probes).await)
    }
}

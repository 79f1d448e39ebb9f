//! The task that announces the consumers of this server to the broker.
//!
//! It begins with the first consumer and ends with the last one, or with the server, when it takes
//! them all off the list. A consumer is announced at a steady pace and soon after its jobs have
//! changed; many are announced together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brigade::RunningJob;
use brigade::store::LiveConsumer;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{Book, ConsumerName, Entry, HttpConsumers};

/// How often a consumer is announced.
const EVERY: Duration = Duration::from_secs(20);
/// The shortest pause between two rounds of announcements.
const CHANGED_EVERY: Duration = Duration::from_secs(1);
/// The longest one: what has run out is noticed this late.
const ROUND: Duration = Duration::from_secs(5);
/// How long an announcement lasts: two may be lost on their way.
const LASTS: Duration = Duration::from_secs(60);
/// Announcements that are sent together.
const TOGETHER: usize = 50;
/// The longest wait of a server that ends for its broker to take its consumers off the list.
const RETIRED_WITHIN: Duration = Duration::from_secs(1);
/// What these consumers come through.
const VIA: &str = "HTTP";

/// What one round sends.
#[derive(Default)]
struct Round {
    announced: Vec<LiveConsumer>,
    retired: Vec<LiveConsumer>,
    /// No consumer is left.
    is_last: bool,
}

impl HttpConsumers {
    /// Starts the task if it does not run.
    pub(super) fn stay_announced(self: &Arc<Self>, book: &mut Book) {
        if book.is_announcing || !self.broker.capabilities().consumers {
            return;
        }
        book.is_announcing = true;
        let own = Arc::clone(self);
        self.tasks.spawn(async move { own.announce().await });
    }

    fn round(&self, now: Instant) -> Round {
        let mut book = self.lock();
        let gone = book.expire(now);
        let mut round = Round {
            retired: gone
                .iter()
                .map(|(name, entry)| live(&self.server, name, entry))
                .collect(),
            is_last: book.consumers.is_empty(),
            ..Round::default()
        };
        book.is_announcing = !round.is_last;
        let Book {
            consumers, leases, ..
        } = &mut *book;
        let mut held: HashMap<&ConsumerName, Vec<&RunningJob>> = HashMap::new();
        for lease in leases.values() {
            held.entry(&lease.by).or_default().push(&lease.running);
        }
        for (name, entry) in consumers {
            let is_due = entry
                .announced
                .is_none_or(|at| now.saturating_duration_since(at) >= EVERY);
            if !entry.is_changed && !is_due {
                continue;
            }
            (entry.is_changed, entry.announced) = (false, Some(now));
            let mut running = held.remove(name).unwrap_or_default();
            running.sort_unstable_by_key(|running| running.since);
            running.truncate(LiveConsumer::RUNNING_NAMED_MAX);
            let mut consumer = live(&self.server, name, entry);
            consumer.running = running.into_iter().cloned().collect();
            round.announced.push(consumer);
        }
        // If the broker bounds its list, who holds most is on it.
        round
            .announced
            .sort_by_key(|consumer| Reverse(consumer.held));
        round
    }

    fn all(&self) -> Vec<LiveConsumer> {
        let mut book = self.lock();
        book.is_announcing = false;
        let consumers = book.consumers.drain();
        consumers
            .map(|(name, entry)| live(&self.server, &name, &entry))
            .collect()
    }

    async fn announce(&self) {
        loop {
            let round = self.round(Instant::now());
            for together in round.announced.chunks(TOGETHER) {
                let announcing = together
                    .iter()
                    .map(|consumer| self.broker.announce_consumer(consumer, LASTS));
                join_all(announcing).await.into_iter().for_each(note);
            }
            self.retire(&round.retired).await;
            if round.is_last {
                return;
            }
            let pause = async {
                sleep(CHANGED_EVERY).await;
                timeout(ROUND, self.changed.notified()).await.ok();
            };
            tokio::select! {
                () = pause => {}
                () = self.stop.cancelled() => {
                    let all = self.all();
                    timeout(RETIRED_WITHIN, self.retire(&all)).await.ok();
                    return;
                }
            }
        }
    }

    async fn retire(&self, consumers: &[LiveConsumer]) {
        for together in consumers.chunks(TOGETHER) {
            let retiring = together
                .iter()
                .map(|consumer| self.broker.retire_consumer(consumer));
            join_all(retiring).await.into_iter().for_each(note);
        }
    }
}

fn note(outcome: Result<(), brigade::Error>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "could not list a consumer; trying again");
    }
}

/// A consumer without its jobs.
fn live(server: &str, name: &ConsumerName, entry: &Entry) -> LiveConsumer {
    let id = format!("http/{server}/{}", entry.number);
    let mut consumer = LiveConsumer::new(id, &*name.host, &entry.queues);
    consumer.pid = name.pid;
    consumer.via = Some(VIA.to_owned());
    consumer.version = name.version.as_deref().map(ToOwned::to_owned);
    consumer.since = entry.since;
    consumer.prefetch = entry.slots;
    consumer.held = entry.holds;
    consumer
}

//! Announcements: how a consumer shows that it is alive, where its broker keeps a list.
//!
//! It announces itself when it starts, a moment after the jobs that it holds have changed, and
//! otherwise at a steady pace. A consumer that ends in good order retires; one that is killed drops
//! off the list when its last announcement runs out. No job depends on any of this.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::consumer::RunningConsumer;
use crate::retry::jitter;
use crate::store::LiveConsumer;
use crate::sync::lock;

/// How often a consumer announces itself.
const EVERY: Duration = Duration::from_secs(20);
/// The shortest pause between two announcements of one that holds other jobs than before.
const CHANGED_EVERY: Duration = Duration::from_secs(1);
/// How long an announcement lasts: two may be lost on their way.
const LASTS: Duration = Duration::from_secs(60);
/// The longest wait of a consumer that ends for its broker to take it off the list.
const RETIRED_WITHIN: Duration = Duration::from_secs(1);

impl RunningConsumer {
    /// Announces the consumer again and again.
    pub(super) async fn stay_announced(self: Arc<Self>) -> Infallible {
        if !self.store.capabilities().consumers {
            return pending().await;
        }
        loop {
            let announced = self.announced();
            if let Err(error) = self.store.announce_consumer(&announced, LASTS).await {
                tracing::debug!(%error, "could not announce a consumer; trying again");
            }
            let pause = EVERY.mul_f64(jitter(0.1));
            sleep(CHANGED_EVERY).await;
            timeout(pause, self.held_changed.notified()).await.ok();
        }
    }

    /// The consumer with the jobs that it holds now.
    fn announced(&self) -> LiveConsumer {
        let held = lock(&self.held);
        let mut numbers: Vec<u64> = held.keys().copied().collect();
        numbers.sort_unstable();
        let named = numbers.iter().take(LiveConsumer::RUNNING_NAMED_MAX);
        let mut consumer = self.announcement.clone();
        consumer.held = held.len();
        consumer.running = named.map(|number| held[number].running()).collect();
        consumer
    }

    /// The consumer has ended.
    pub(super) async fn retire(&self) {
        if !self.store.capabilities().consumers {
            return;
        }
        let retiring = self.store.retire_consumer(&self.announcement);
        if let Ok(Err(error)) = timeout(RETIRED_WITHIN, retiring).await {
            tracing::debug!(%error, "could not take a consumer off the list");
        }
    }
}

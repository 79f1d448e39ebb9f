//! The end of leases whose time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::intake::Intake;
use super::settle::EndingLease;
use crate::job::AttemptKind;
use brigade_core::store::{Disposition, Settlement};

/// Leases are looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl Intake {
    /// Returns when a lease may be over, or near the time for which the broker lets its delivery
    /// be held.
    pub(super) async fn until_leases_are_old(&self) {
        let next = self.leases.table().next_end();
        let Some(end) = next else {
            return self.leases.until_added().await;
        };
        let left = end.saturating_duration_since(self.now_after(Instant::now()));
        let look = left.min(LOOK_EVERY).min(self.consumer_timeout() / 20);
        // One that could not be ended is tried again, but not at once.
        sleep(look.max(LOOK_PAUSE)).await;
    }

    /// Gives back the jobs of leases that are over. Once begun, it goes on if the future is
    /// dropped.
    pub(super) async fn end_expired(self: &Arc<Self>) {
        let now = self.now_after(Instant::now());
        let expired = self.leases.table().expired(now);
        let ending = expired.into_iter().map(|(token, mut held)| {
            let envelope = Arc::make_mut(&mut held.envelope);
            envelope.lost = envelope.lost.saturating_add(1);
            let disposition = Disposition::GiveBack {
                kind: AttemptKind::Interrupted,
                reason: "its lease ran out".to_owned(),
                after: Duration::ZERO,
            };
            let settlement = Arc::new(Settlement {
                id: held.envelope.id.clone(),
                token,
                disposition,
                answer: None,
            });
            self.end(EndingLease { held, settlement })
        });
        join_all(ending).await;
    }
}

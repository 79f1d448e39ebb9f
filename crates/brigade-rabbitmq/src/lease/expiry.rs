//! The end of leases whose time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::RabbitMqCore;
use super::super::lease_table::HeldDelivery;
use crate::job::AttemptKind;
use brigade_core::store::{Disposition, Settlement};

/// Leases are looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl RabbitMqCore {
    /// Ends leases when their time is over, for ever.
    pub(in super::super) async fn watch_leases(self: Arc<Self>) {
        loop {
            let next = self.leases.table().next_end();
            match next {
                None => self.leases.until_added().await,
                Some(end) => {
                    let left = end.saturating_duration_since(self.now_after(Instant::now()));
                    // One that could not be ended is tried again, but not at once.
                    sleep(
                        left.min(LOOK_EVERY)
                            .min(self.consumer_timeout() / 20)
                            .max(LOOK_PAUSE),
                    )
                    .await;
                    self.end_expired().await;
                    self.refresh_old_deliveries();
                }
            }
        }
    }

    /// Gives back what was held for too long. What has been begun is done even if the future is
    /// dropped.
    pub(super) async fn end_expired(self: &Arc<Self>) {
        let now = self.now_after(Instant::now());
        let expired = self.leases.table().expired(now);
        let disposition = || Disposition::GiveBack {
            kind: AttemptKind::Interrupted,
            reason: "its lease ran out".to_owned(),
            after: Duration::ZERO,
        };
        let lost = |(token, mut held): (i64, HeldDelivery)| {
            let envelope = Arc::make_mut(&mut held.envelope);
            envelope.lost = envelope.lost.saturating_add(1);
            let settlement = Settlement {
                id: held.envelope.id.clone(),
                token,
                disposition: disposition(),
                answer: None,
            };
            (held, Arc::new(settlement))
        };
        let expired: Vec<_> = expired.into_iter().map(lost).collect();
        if expired.is_empty() {
            return;
        }
        let (tell, told) = oneshot::channel::<()>();
        let core = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            core.end_all(expired).await;
            drop(tell);
        });
        told.await.ok();
    }
}

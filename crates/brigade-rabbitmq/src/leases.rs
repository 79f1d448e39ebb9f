//! The leases of this process: the table, and notifications of new and lost leases.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::lease_table::{HeldDelivery, LeaseTable};
use super::message::Envelope;
use crate::sync::lock;

pub(super) struct Leases {
    table: Mutex<LeaseTable>,
    /// A lease was added.
    added: Notify,
    /// A lease was lost, or its call cancelled.
    lost: Notify,
    /// A settlement has ended.
    finished: Notify,
    tokens: AtomicI64,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            table: Mutex::new(LeaseTable::new()),
            added: Notify::new(),
            lost: Notify::new(),
            finished: Notify::new(),
            tokens: AtomicI64::new(0),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, LeaseTable> {
        lock(&self.table)
    }

    /// A token that no other lease has.
    pub(super) fn next_token(&self) -> i64 {
        self.tokens.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn hold(&self, token: i64, held: HeldDelivery) {
        self.table().hold(token, held);
        self.added.notify_one();
    }

    /// Returns when a lease was added since the last call.
    pub(super) async fn until_added(&self) {
        self.added.notified().await;
    }

    /// From the call on, not from the first poll.
    pub(super) fn until_lost(&self) -> Notified<'_> {
        self.lost.notified()
    }

    /// The settlement of this message has ended.
    pub(super) fn finish(&self, envelope: &Envelope) {
        self.table().finish(envelope);
        self.finished.notify_waiters();
    }

    /// Returns when no holder is settling this message. Cancel safe.
    pub(super) async fn until_finished(&self, envelope: &Envelope) {
        loop {
            // From here on, not from the first poll.
            let finished = self.finished.notified();
            if !self.table().is_being_settled(envelope) {
                return;
            }
            finished.await;
        }
    }

    /// The leases of the channel of this number are lost; or those of one queue of it.
    pub(super) fn lose(&self, number: u64, queue: Option<&str>) {
        let count = self.table().lose(number, queue);
        if count > 0 {
            tracing::warn!(
                count,
                "leases were lost with a channel; the broker gives their jobs to others"
            );
            self.lost.notify_waiters();
        }
    }

    /// A caller cancelled a call that this process may hold.
    pub(super) fn cancel_call(&self, correlation_id: &str, reason: String) {
        if self.table().cancel_call(correlation_id, reason) {
            self.lost.notify_waiters();
        }
    }
}

//! The AMQP consumers of one queue (*subscriptions*), and the room (prefetch) that each has.
//!
//! A delivery takes up the room of its subscription until it is acked. The deliveries of a queue
//! hold this part, so it knows neither them nor the queue consumer. Each change wakes the task of
//! that queue ([`Subscriptions::changed`]).

use std::sync::Mutex;

use lapin::types::ShortString;
use tokio::sync::Notify;

use crate::sync::lock;

#[derive(Default)]
pub(super) struct Subscriptions {
    table: Mutex<SubscriptionTable>,
    changed: Notify,
}

#[derive(Default)]
struct SubscriptionTable {
    all: Vec<Subscription>,
    /// Deliveries that were acked or given back.
    releases: u64,
}

struct Subscription {
    number: u64,
    tag: ShortString,
    /// As many the broker sends at once.
    room: usize,
    /// Deliveries that are neither acked nor given back.
    taken: usize,
    /// Deliveries may still come.
    is_open: bool,
    /// Whatever the queue had is here, as long as there is room left.
    is_fenced: bool,
}

impl Subscription {
    fn free(&self) -> usize {
        if self.is_open {
            self.room.saturating_sub(self.taken)
        } else {
            0
        }
    }
}

impl Subscriptions {
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Returns when something has changed since the last call. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn add(&self, number: u64, tag: ShortString, room: u16) {
        lock(&self.table).all.push(Subscription {
            number,
            tag,
            room: room.into(),
            taken: 0,
            is_open: true,
            is_fenced: false,
        });
    }

    /// All of them are over, with their channel or their queue.
    pub(super) fn clear(&self) {
        lock(&self.table).all.clear();
    }

    /// A delivery came by this one.
    pub(super) fn take_room(&self, number: u64) {
        if let Some(one) = lock(&self.table).of(number) {
            one.taken += 1;
        }
    }

    /// A delivery of this one was acked or given back.
    pub(super) fn release(&self, number: u64) {
        let mut table = lock(&self.table);
        table.releases += 1;
        if let Some(one) = table.of(number) {
            one.taken = one.taken.saturating_sub(1);
            // The broker may be sending the next one.
            one.is_fenced = false;
        }
        drop(table);
        self.wake();
    }

    /// No more deliveries are wanted; its tag if any were.
    pub(super) fn close(&self, number: u64) -> Option<ShortString> {
        lock(&self.table).of(number).and_then(Subscription::close)
    }

    pub(super) fn close_all(&self) -> Vec<ShortString> {
        let mut table = lock(&self.table);
        table
            .all
            .iter_mut()
            .filter_map(Subscription::close)
            .collect()
    }

    /// How many jobs the broker may send; those that are over and empty are forgotten.
    pub(super) fn free(&self) -> usize {
        let mut table = lock(&self.table);
        table.all.retain(|one| one.is_open || one.taken > 0);
        table.all.iter().map(Subscription::free).sum()
    }

    /// Whether there is one with room, of which it is known (or not) that nothing more comes.
    pub(super) fn has_room(&self, is_fenced: bool) -> bool {
        let table = lock(&self.table);
        let mut all = table.all.iter();
        all.any(|one| one.free() > 0 && one.is_fenced == is_fenced)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.table).all.is_empty()
    }

    pub(super) fn releases(&self) -> u64 {
        lock(&self.table).releases
    }

    /// The queue had nothing more while none was released after that count. Whether that is so
    /// still: then all are fenced.
    pub(super) fn fence(&self, releases: u64) -> bool {
        let mut table = lock(&self.table);
        let is_so = table.releases == releases;
        table.all.iter_mut().for_each(|one| one.is_fenced |= is_so);
        is_so
    }
}

impl Subscription {
    fn close(&mut self) -> Option<ShortString> {
        std::mem::take(&mut self.is_open).then(|| self.tag.clone())
    }
}

impl SubscriptionTable {
    fn of(&mut self, number: u64) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|one| one.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_holds_only_while_nothing_is_released() {
        let subscriptions = Subscriptions::default();
        subscriptions.add(1, "one".into(), 2);
        subscriptions.take_room(1);
        let before = subscriptions.releases();
        assert!(subscriptions.fence(before) && subscriptions.has_room(true));
        // The broker may be sending the next one.
        subscriptions.release(1);
        assert!(subscriptions.has_room(false) && !subscriptions.has_room(true));
        assert!(!subscriptions.fence(before) && !subscriptions.has_room(true));
        assert!(subscriptions.fence(subscriptions.releases()));
    }

    #[test]
    fn one_that_is_closed_has_no_room_and_stays_until_its_deliveries_are_acked() {
        let subscriptions = Subscriptions::default();
        subscriptions.add(1, "one".into(), 3);
        subscriptions.take_room(1);
        assert_eq!(subscriptions.free(), 2);
        assert_eq!(subscriptions.close(1), Some("one".into()));
        assert_eq!((subscriptions.close(1), subscriptions.free()), (None, 0));
        assert!(!subscriptions.is_empty());
        subscriptions.release(1);
        assert_eq!(subscriptions.free(), 0);
        assert!(subscriptions.is_empty());
    }
}

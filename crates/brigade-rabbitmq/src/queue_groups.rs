//! A group: the queues of one consumer of several queues, and which of them are asked.
//!
//! The broker sends jobs of each queue as long as there is room, and knows nothing of the order of
//! the queues. So a queue is asked only while the queues before it have no job. Most of the time
//! the group only *listens* to each queue: the broker may send one job.
//!
//! ```text
//!   unknown, has some --- asked; a fence says that nothing more is there ---> dry, listened to --- a job comes ---> has some
//! ```
//!
//! A group of up to [`FEW`] queues listens only while there is an ask, so that a consumer without
//! room attracts no jobs. In a larger group this would cost one AMQP consumer of each queue for
//! each ask. So it listens all the time, and an ask looks only at the queues that have some: a job
//! that comes while there is no ask goes back, and its queue is asked when its turn comes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::queue_consumer::{Places, QueueConsumer};
use crate::sync::lock;
use brigade_core::store::{QueueSet, Queues};

/// So many queues are listened to only while there is an ask.
const FEW: usize = 64;

/// The queues of one consumer.
pub(super) struct QueueGroup {
    pub(super) set: Arc<QueueSet>,
    /// As the names of the set.
    pub(super) consumers: Vec<Arc<QueueConsumer>>,
    /// Those that may have more than is here, by their places.
    some: Arc<Places>,
    /// Of many queues: they are listened to.
    is_armed: AtomicBool,
    /// Asks under way.
    active: AtomicUsize,
    used: Mutex<Instant>,
}

/// An ask, for as long as it lasts.
pub(super) struct Using<'a>(&'a QueueGroup);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        *lock(&self.0.used) = Instant::now();
        if self.0.active.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_small() {
            self.0
                .consumers
                .iter()
                .for_each(|source| source.listen(false));
        }
    }
}

impl QueueGroup {
    pub(super) fn new(set: &Arc<QueueSet>, consumers: Vec<Arc<QueueConsumer>>) -> Arc<Self> {
        let some = Arc::default();
        for (place, source) in consumers.iter().enumerate() {
            source.join(&some, place);
        }
        Arc::new(Self {
            set: Arc::clone(set),
            consumers,
            some,
            is_armed: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn is_unused_for(&self, time: Duration) -> bool {
        self.active.load(Ordering::Acquire) == 0 && lock(&self.used).elapsed() >= time
    }

    /// Other groups may have taken from its queues what it listened for.
    pub(super) fn disarm(&self) {
        self.is_armed.store(false, Ordering::Release);
    }

    fn is_small(&self) -> bool {
        self.consumers.len() <= FEW
    }

    pub(super) fn begin(&self) -> Using<'_> {
        self.active.fetch_add(1, Ordering::AcqRel);
        if self.is_small() || !self.is_armed.swap(true, Ordering::AcqRel) {
            let some = lock(&self.some).clone();
            let dry = self
                .consumers
                .iter()
                .enumerate()
                .filter(|(place, _)| !some.contains(place));
            dry.for_each(|(_, source)| source.listen(true));
        }
        Using(self)
    }

    /// Nothing more is wanted for now.
    pub(super) fn end(&self) {
        self.disarm();
        for source in &self.consumers {
            source.listen(false);
            source.hurry();
        }
    }

    /// Places in the order in which they are to be looked at.
    pub(super) fn places(&self, queues: &Queues) -> Vec<usize> {
        if self.is_small() {
            return (0..queues.len()).map(|rank| queues.place(rank)).collect();
        }
        let mut places: Vec<usize> = lock(&self.some).iter().copied().collect();
        places.sort_by_cached_key(|place| queues.rank(&self.set.names()[*place]));
        places
    }

    pub(super) fn is_dry(&self, place: usize) {
        lock(&self.some).remove(&place);
        self.consumers[place].listen(true);
    }
}

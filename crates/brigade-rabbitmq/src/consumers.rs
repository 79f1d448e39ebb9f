//! All that takes from queues in this process: consumers of queues, groups and channels of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::RabbitMqCore;
use super::channels::SharedChannels;
use super::queue_consumer::QueueConsumer;
use super::queue_groups::QueueGroups;
use super::topology::QueueKind;
use crate::sync::lock;

#[derive(Default)]
pub(super) struct Consumers {
    pub(super) queues: Mutex<HashMap<Box<str>, Arc<QueueConsumer>>>,
    pub(super) groups: QueueGroups,
    /// Channels that several queue consumers take by.
    pub(super) channels: SharedChannels,
    /// A queue consumer has something, or cannot have it.
    pub(super) news: Notify,
    numbers: AtomicU64,
}

impl Consumers {
    /// A number that no other channel and no other consumer has.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl RabbitMqCore {
    /// What takes from this queue.
    pub(super) fn consumer_of(self: &Arc<Self>, queue: &str) -> Arc<QueueConsumer> {
        let mut queues = lock(&self.consumers.queues);
        if let Some(source) = queues.get(queue) {
            return Arc::clone(source);
        }
        let source = QueueConsumer::new(queue);
        let name = self.storage.topology.name(&QueueKind::Jobs(queue.into()));
        self.served.add(&name);
        queues.insert(queue.into(), Arc::clone(&source));
        self.scope
            .spawn_until_closed(Arc::clone(&source).drive(Arc::clone(self)));
        source
    }
}

//! Which queues of which broker a consumer serves.

use std::sync::Arc;

use crate::broker::Broker;

/// What a consumer serves, for its handles.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) broker: Broker,
    /// Sorted: all consumers take turns in the same order, so none waits in a circle.
    pub(super) queues: Arc<[Box<str>]>,
}

impl Serving {
    pub(super) fn of(broker: &Broker, mut queues: Vec<Box<str>>) -> Self {
        queues.sort();
        queues.dedup();
        Self {
            broker: broker.clone(),
            queues: queues.into(),
        }
    }
}

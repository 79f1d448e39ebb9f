//! Who asks a queue consumer for jobs, and what was taken to be handed out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::lease_table::Delivery;
use super::super::message::Envelope;
use super::QueueConsumer;
use crate::sync::lock;

/// What was taken to be handed out; what is left of it when the future is dropped is here
/// again.
pub(in super::super) struct Taken {
    pub(super) source: Arc<QueueConsumer>,
    pub(super) left: VecDeque<(Delivery, Arc<Envelope>)>,
}

impl Taken {
    pub(in super::super) fn first(&self) -> Option<(Delivery, Arc<Envelope>)> {
        self.left.front().cloned()
    }

    /// It is another's to care for.
    pub(in super::super) fn drop_first(&mut self) {
        self.left.pop_front();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let mut state = lock(&self.source.state);
        for one in self.left.drain(..).rev() {
            // With its channel, it is another's by now.
            if one.0.opened.is_alive() {
                state.ready.push_front(one);
            }
        }
        drop(state);
        self.source.poke.notify_one();
    }
}

/// An ask, for as long as it lives.
pub(in super::super) struct Ask {
    pub(super) source: Arc<QueueConsumer>,
    pub(super) number: u64,
}

impl Drop for Ask {
    fn drop(&mut self) {
        lock(&self.source.state).asks.remove(&self.number);
        self.source.poke.notify_one();
    }
}

//! The channels of queue consumers. The broker allows each connection some thousand of them
//! (`channel_max`).
//!
//! The first queue consumers have a channel each, so that a fault of one queue touches no other.
//! All further ones share channels.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::consumer_channel::ConsumerChannel;
use super::fault::AmqpFault;
use super::link::LiveConnection;
use crate::shutdown::Scope;
use crate::sync::lock;

pub(super) struct SharedChannels {
    /// Own channels that were opened and may live.
    own: Mutex<Vec<Weak<ConsumerChannel>>>,
    several: AsyncMutex<VecDeque<Arc<ConsumerChannel>>>,
    /// A permit is held by each task that begins to consume from a queue.
    pub(super) opening: Semaphore,
}

/// Queue consumers with a channel of their own.
const OWN_MAX: usize = 256;
/// Channels that all others share.
const SHARED_MAX: usize = 64;
/// Queue consumers that begin at the same time.
const OPENING_MAX: usize = 32;

impl Default for SharedChannels {
    fn default() -> Self {
        Self {
            own: Mutex::default(),
            several: AsyncMutex::default(),
            opening: Semaphore::new(OPENING_MAX),
        }
    }
}

impl SharedChannels {
    /// A channel for one more queue consumer.
    pub(super) async fn open(
        &self,
        scope: &Scope,
        connection: LiveConnection,
        alone: bool,
    ) -> Result<Arc<ConsumerChannel>, AmqpFault> {
        let has_room = {
            let mut own = lock(&self.own);
            own.retain(|opened| opened.upgrade().is_some_and(|opened| opened.is_alive()));
            own.len() < OWN_MAX
        };
        if alone || has_room {
            let channel = connection.channel().await?;
            let opened = ConsumerChannel::start(connection, channel, false, scope);
            lock(&self.own).push(Arc::downgrade(&opened));
            return Ok(opened);
        }
        let mut several = self.several.lock().await;
        several.retain(|opened| opened.is_alive() && opened.connection.number == connection.number);
        if several.len() < SHARED_MAX {
            let channel = connection.channel().await?;
            let opened = ConsumerChannel::start(connection, channel, true, scope);
            several.push_back(opened);
        } else {
            several.rotate_left(1);
        }
        several.back().cloned().ok_or_else(AmqpFault::timeout)
    }
}

//! The channels that taps take by, of which the broker allows each connection some thousand
//! (`channel_max`).
//!
//! While there are few, each tap has one of its own, so that nothing of one queue touches another.
//! Beyond that they share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::RabbitMqCore;
use super::acks::Opened;
use super::fault::Fault;
use super::link::Line;
use crate::sync::lock;

pub(super) struct Shared {
    /// Own channels that were opened and may live.
    own: Mutex<Vec<Weak<Opened>>>,
    several: AsyncMutex<VecDeque<Arc<Opened>>>,
    /// Held by whoever begins to take from a queue.
    pub(super) opening: Semaphore,
}

/// Taps with a channel of their own.
const OWN_MAX: usize = 256;
/// Channels that all others share.
const SHARED_MAX: usize = 64;
/// Taps that begin at the same time.
const OPENING_MAX: usize = 32;

impl Default for Shared {
    fn default() -> Self {
        Self {
            own: Mutex::default(),
            several: AsyncMutex::default(),
            opening: Semaphore::new(OPENING_MAX),
        }
    }
}

impl Shared {
    /// A channel for one more tap.
    pub(super) async fn open(
        &self,
        core: &RabbitMqCore,
        line: Line,
        alone: bool,
    ) -> Result<Arc<Opened>, Fault> {
        let has_room = {
            let mut own = lock(&self.own);
            own.retain(|opened| opened.upgrade().is_some_and(|opened| opened.is_alive()));
            own.len() < OWN_MAX
        };
        if alone || has_room {
            let channel = line.channel().await?;
            let opened = Opened::start(core.next_number(), line, channel, false, &core.scope);
            lock(&self.own).push(Arc::downgrade(&opened));
            return Ok(opened);
        }
        let mut several = self.several.lock().await;
        several.retain(|opened| opened.is_alive() && opened.line.generation == line.generation);
        if several.len() < SHARED_MAX {
            let channel = line.channel().await?;
            several.push_back(Opened::start(
                core.next_number(),
                line,
                channel,
                true,
                &core.scope,
            ));
        } else {
            several.rotate_left(1);
        }
        several.back().cloned().ok_or_else(Fault::timeout)
    }
}

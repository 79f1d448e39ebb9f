//! What only RabbitMQ 3.10 needs. Delete this file with its support: `Storage::publish` then
//! publishes everything at once, `Storage::take_first_call` goes, and no policy takes requests
//! before they are sent.
//!
//! **The first message to a quorum queue on a connection goes alone.** For a moment after the start
//! of its server a quorum queue has no leader. A channel that publishes to it then may stand still
//! for more than a minute, with all else that it was given, although there is a leader a few
//! hundred milliseconds later: the broker's process of that channel waits for an answer that never
//! comes (seen with 3.10.8, which registers a channel at a queue with its first message). On any
//! other channel the queue can be used as soon as it has its leader. So a [`LeaderProbe`] publishes
//! the first message on a channel of its own, and after a while without a confirm on another; when
//! it is confirmed, the rest follows by the publishers. A queue that stands still holds up nothing
//! but itself. A confirm that is merely late leaves two messages of one id and number, as after a
//! connection that broke.
//!
//! **Nothing is put into a quorum queue that is less than a second old.** One that was declared
//! less than half a second before the broker is killed is there afterwards, but empty, with all
//! that was confirmed to be in it: the registry of quorum queues is written every 500 ms
//! (`names.dets`; seen with 3.10.8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::fault::AmqpFault;
use super::fit;
use super::link::{Link, LiveConnection};
use super::publisher::{Message, Published};
use crate::error::ErrorKind;
use crate::sync::lock;

/// For the first confirm; doubled each time. An election takes some hundred milliseconds.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After something failed.
const AGAIN: Duration = Duration::from_millis(200);
/// So old a quorum queue is before something is put into it.
const NEW_FOR: Duration = Duration::from_secs(1);
/// Queues that are remembered; beyond that all are forgotten.
const PROBED_MAX: usize = 16_384;

/// Returns when a queue that was declared just now survives a crash of the broker.
pub(super) async fn until_registered() {
    sleep(NEW_FOR).await;
}

/// Publishes the first message to each quorum queue on a connection.
pub(super) struct LeaderProbe {
    link: Link,
    probed: Mutex<HashMap<ShortString, Probed>>,
}

#[derive(Clone, Default)]
struct Probed {
    /// On which connection a message was confirmed to be in it, if on any.
    reached: u64,
    /// Held while the first message is on its way.
    probing: Arc<AsyncMutex<()>>,
}

impl LeaderProbe {
    pub(super) fn new(link: &Link) -> Self {
        Self {
            link: link.clone(),
            probed: Mutex::default(),
        }
    }

    /// Whether a quorum queue has taken a message on this connection, so that the next one may go
    /// together with others.
    pub(super) fn has_reached(&self, name: &ShortString) -> bool {
        let generation = self.link.generation();
        lock(&self.probed)
            .get(name)
            .is_some_and(|known| Some(known.reached) == generation)
    }

    fn probed(&self, name: &ShortString) -> Probed {
        let mut probed = lock(&self.probed);
        if probed.len() >= PROBED_MAX {
            probed.clear();
        }
        probed.entry(name.clone()).or_default().clone()
    }

    fn reached(&self, name: &ShortString, generation: u64) {
        if let Some(known) = lock(&self.probed).get_mut(name) {
            known.reached = generation;
        }
    }

    /// Publishes the first message to a queue, alone; `None` if it may go together with others.
    pub(super) async fn publish_first(
        &self,
        message: &Message,
        until: Instant,
    ) -> Option<Published> {
        let name = &message.queue;
        if self.has_reached(name) {
            return None;
        }
        let probing = self.probed(name).probing;
        let Ok(_alone) = timeout_at(until, probing.lock()).await else {
            return Some(Published::failed(&AmqpFault::timeout(), false));
        };
        if self.has_reached(name) {
            return None;
        }
        let (published, generation) = self.publish(message, until).await;
        if let (Published::Safe, Some(generation)) = (&published, generation) {
            self.reached(name, generation);
        }
        Some(published)
    }

    /// Publishes it; and on which connection that was, if it is safe.
    async fn publish(&self, message: &Message, until: Instant) -> (Published, Option<u64>) {
        let (mut patience, mut uncertain) = (PATIENCE, false);
        loop {
            let fault = match self.link.ready_channel(until).await {
                // Nothing was sent this time.
                Err(fault) => return (Published::Failed { fault, uncertain }, None),
                Ok((connection, channel)) => {
                    let confirmed_by = until.min(Instant::now() + patience);
                    match publish(&connection, &channel, message, confirmed_by).await {
                        // An earlier one may be there.
                        Ok(Published::Declined) if uncertain => AmqpFault::declined(),
                        Ok(published) => return (published, Some(connection.generation)),
                        Err(fault) => fault,
                    }
                }
            };
            uncertain |= fault.is_lost();
            let is_over = !uncertain || Instant::now() >= until;
            if is_over {
                return (Published::Failed { fault, uncertain }, None);
            }
            if !fault.is_lost() {
                sleep(AGAIN).await;
            }
            patience *= 2;
        }
    }
}

/// What became of it until then; uncertain if the fault is a lost one.
async fn publish(
    connection: &LiveConnection,
    channel: &Channel,
    message: &Message,
    until: Instant,
) -> Result<Published, AmqpFault> {
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    if !fit::fits(&message.properties, connection.frame_max) {
        let bytes = fit::frame_bytes(&message.properties);
        return Err(AmqpFault::over_frame(bytes, connection.frame_max));
    }
    let Message {
        queue,
        body,
        properties,
    } = message.clone();
    let publishing = async {
        channel
            .basic_publish("".into(), queue, options, &body, properties)
            .await?
            .await
    };
    let confirmation = match connection
        .down
        .run_until_cancelled(timeout_at(until, publishing))
        .await
    {
        Some(Ok(confirmation)) => confirmation?,
        Some(Err(_)) | None => return Err(AmqpFault::timeout()),
    };
    Ok(match confirmation {
        Confirmation::Ack(None) => Published::Safe,
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Published::Unroutable,
        Confirmation::Nack(None) => Published::Declined,
        Confirmation::NotRequested => {
            let hint = "the channel has no confirms";
            return Err(AmqpFault::new(ErrorKind::Protocol, hint));
        }
    })
}

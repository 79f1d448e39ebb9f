//! The first message to a quorum queue on a connection, which goes alone.
//!
//! For a moment after the start of its server such a queue has no leader. A channel that puts
//! something there then may stand still for more than a minute, with all else that it was given,
//! although there is a leader a few hundred milliseconds later: the broker's process of that
//! channel waits for an answer that nobody will give (seen with 3.10.8, which registers a channel
//! at a queue with its first message). On any other channel the queue can be used as soon as it has
//! its leader. So the first message goes on a channel of its own, and after a while without a
//! confirm on another; when it is confirmed, the rest follows by the lanes. A queue that stands
//! still holds up nothing but itself.
//!
//! What such a channel was given is declined in the end. A confirm that is merely late leaves two
//! messages of one id and number, as after a connection that broke.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use tokio::time::{Instant, sleep, timeout_at};

use super::RabbitMqCore;
use super::fault::Fault;
use super::fit;
use super::link::{Line, Link};
use super::message::has_caller;
use super::outbox::Parcel;
use super::publish::{Message, Published};
use super::topology::Spot;
use super::url::Queues;
use crate::error::ErrorKind;

/// For the first confirm; doubled each time. An election takes some hundred milliseconds.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After something failed.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Scout {
    link: Link,
}

impl Scout {
    pub(super) fn new(link: &Link) -> Self {
        Self { link: link.clone() }
    }

    /// Publishes it; and on which connection that was, if it is safe.
    pub(super) async fn publish(
        &self,
        message: &Message,
        until: Instant,
    ) -> (Published, Option<u64>) {
        let (mut patience, mut uncertain) = (PATIENCE, false);
        loop {
            let fault = match self.link.ready_channel(until).await {
                // Nothing was sent this time.
                Err(fault) => return (Published::Failed { fault, uncertain }, None),
                Ok((line, channel)) => match publish(
                    &line,
                    &channel,
                    message,
                    until.min(Instant::now() + patience),
                )
                .await
                {
                    // An earlier one may be there.
                    Ok(Published::Declined) if uncertain => Fault::declined(),
                    Ok(published) => return (published, Some(line.generation)),
                    Err(fault) => fault,
                },
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

impl RabbitMqCore {
    /// Sends a call on by way of `store` if its queue may stand still, and with it all that goes
    /// with it; gives it back if not.
    pub(super) fn detour(self: &Arc<Self>, mut parcel: Parcel) -> Option<Parcel> {
        if self.place.queues != Queues::Quorum || !has_caller(&parcel.properties) {
            return Some(parcel);
        }
        let spot = Spot::Jobs(self.place.queue_of(parcel.key.as_str()).into());
        if self.topology.is_reached(&spot) {
            return Some(parcel);
        }
        let core = Arc::clone(self);
        self.scope.spawn_until_closed(async move {
            parcel.expire();
            let stored = core
                .store(vec![(spot, parcel.message())])
                .await
                .pop()
                .map_or(Ok(()), |one| one.into_result("make a call"));
            let calls = core.calls.get().filter(|_| parcel.number != 0);
            match (stored, calls) {
                (Ok(()), Some(_)) => {}
                (Err(error), Some(calls)) => {
                    let error = if parcel.tries > 0 {
                        error.uncertain()
                    } else {
                        error
                    };
                    calls.end(parcel.number, Err(error.into()));
                }
                (Ok(()), None) => parcel.done(),
                // A call that is passed on has nobody else who cares for it.
                (Err(error), None) => {
                    tracing::warn!(%error, queue = parcel.key.as_str(), "a call could not go on; \
                        trying again");
                    sleep(AGAIN).await;
                    core.callers.outbox.send(parcel).await;
                }
            }
        });
        None
    }
}

/// What became of it until then; nobody knows if the fault is a lost one.
async fn publish(
    line: &Line,
    channel: &Channel,
    message: &Message,
    until: Instant,
) -> Result<Published, Fault> {
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    if !fit::fits(&message.properties, line.frame_max) {
        return Err(Fault::over_frame(
            fit::frame_bytes(&message.properties),
            line.frame_max,
        ));
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
    let confirmation = match line
        .down
        .run_until_cancelled(timeout_at(until, publishing))
        .await
    {
        Some(Ok(confirmation)) => confirmation?,
        Some(Err(_)) | None => return Err(Fault::timeout()),
    };
    Ok(match confirmation {
        Confirmation::Ack(None) => Published::Safe,
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Published::Unroutable,
        Confirmation::Nack(None) => Published::Declined,
        Confirmation::NotRequested => {
            return Err(Fault::new(
                ErrorKind::Protocol,
                "the channel has no confirms",
            ));
        }
    })
}

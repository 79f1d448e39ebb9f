//! The reload lock: a queue with a single active consumer.
//!
//! A process that wants the lock of a queue consumes from `{ns}.brigade-turn.{queue}` and puts a
//! message there. The broker sends messages to one consumer at a time, in the order in which the
//! consumers came. So the process that is sent a message has the lock until its consumer is gone:
//! because it releases the lock, or because it died. No process polls. Messages that stay in the
//! queue do no harm; the broker deletes the queue a minute after its last use.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fault::AmqpFault;
use super::intake::Intake;
use super::link::{Link, LiveConnection};
use super::values::{millis, table};
use crate::error::{Error, ErrorKind};
use brigade_core::store::ReloadGuard;

/// How long the queue is kept when no process wants the lock.
const UNUSED_FOR: Duration = Duration::from_secs(60);
/// After something failed.
const AGAIN: Duration = Duration::from_millis(200);

impl Intake {
    /// Waits for the lock of a queue. Dropping the future leaves the line.
    pub(super) async fn reload_lock(&self, queue: &str) -> Result<ReloadGuard, Error> {
        self.storage.topology.check_name(queue)?;
        let name = self.config.name_of(&format!("brigade-turn.{queue}")).into();
        let over = CancellationToken::new();
        let guard = ReloadGuard::new(over.clone());
        let (sender, outcome) = oneshot::channel();
        self.scope
            .spawn_until_closed(hold(self.link.clone(), name, over, sender));
        match outcome.await {
            Ok(Ok(())) => Ok(guard),
            Ok(Err(fault)) => Err(fault.into_error("wait for the lock of a reload")),
            Err(_) => Err(Error::new(
                ErrorKind::Closed,
                "wait for the lock of a reload: the broker was dropped",
            )),
        }
    }
}

/// Waits for the lock, reports that, and holds it until `over`, or until the connection breaks.
async fn hold(
    link: Link,
    name: ShortString,
    over: CancellationToken,
    sender: oneshot::Sender<Result<(), AmqpFault>>,
) {
    loop {
        let has = async {
            let connection = link.connection().await?;
            connection
                .down
                .run_until_cancelled(Box::pin(take(&connection, &name)))
                .await
                .unwrap_or_else(|| Err(AmqpFault::timeout()))
                .map(|lock| (connection, lock))
        };
        match over.run_until_cancelled(Box::pin(has)).await {
            None => return,
            Some(Ok((connection, (channel, _consumer)))) => {
                if sender.send(Ok(())).is_ok() {
                    tokio::select! {
                        () = over.cancelled() => {}
                        () = connection.down.cancelled() => {
                            let queue = name.as_str();
                            tracing::warn!(queue, "the lock of a reload was lost with the connection");
                            return;
                        }
                    }
                }
                // The consumer goes with it, and the next one in the row is sent what it held.
                channel.close(200, "over".into()).await.ok();
                return;
            }
            Some(Err(fault)) if !fault.is_lost() => return drop(sender.send(Err(fault))),
            Some(Err(fault)) => {
                tracing::debug!(%fault, queue = name.as_str(), "still waiting for the lock of a reload");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Waits until it is sent a message. The consumer has the lock for as long as it is not dropped.
async fn take(
    connection: &LiveConnection,
    name: &ShortString,
) -> Result<(Channel, Consumer), AmqpFault> {
    let channel = connection.confirming_channel().await?;
    let arguments = table([
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-expires", millis(UNUSED_FOR)),
    ]);
    connection
        .declare(&channel, name, QueueDeclareOptions::durable(), arguments)
        .await?;
    connection
        .answer(channel.basic_qos(1, BasicQosOptions::default()))
        .await?;
    let mut messages = connection
        .consume(&channel, name, FieldTable::default())
        .await?;
    connection.publish_note(&channel, name, b"turn").await?;
    match messages.next().await {
        Some(Ok(_)) => Ok((channel, messages)),
        Some(Err(error)) => Err(error.into()),
        None => Err(AmqpFault::new(
            ErrorKind::Unreachable,
            "the queue of the lock is gone",
        )),
    }
}

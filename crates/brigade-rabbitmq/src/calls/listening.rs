//! How answers come in, and how it is noticed that they cannot.
//!
//! The queue of answers is declared on each connection, and consumed from for as long as the broker
//! is there. A message that lies in a queue of ours (`alive`) distinguishes a restart of the broker
//! from a connection that broke: after a restart it is gone, and with it the calls that were sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::sleep;

use super::super::control;
use super::super::fault::AmqpFault;
use super::super::link::{Link, LiveConnection};
use super::super::url::RabbitMqConfig;
use super::super::values::{BEGUN, ERROR, PROGRESS, header, millis, read_text, table};
use super::open_calls::{OpenCall, OpenCalls};
use crate::codec::Codec;
use crate::error::ErrorKind;
use crate::outcome::CallError;
use crate::progress::Progress;
use brigade_core::store::Answer;

/// How long the queue of answers outlives its process, and may be without a connection.
const ANSWERS_EXPIRE: Duration = Duration::from_secs(300);
/// Answers that are acked together.
const ACK_MAX: usize = 256;

/// Receives the answers to the calls of this process.
pub(super) struct AnswerListener {
    open: Arc<OpenCalls>,
    config: Arc<RabbitMqConfig>,
    /// The connection that takes answers.
    pub(super) link: Link,
    /// Where answers go.
    pub(super) answers: ShortString,
    /// Where a message lies that a restart of the broker takes.
    alive: ShortString,
    /// It has been put there.
    is_marked: AtomicBool,
}

impl AnswerListener {
    pub(super) fn new(
        id: &str,
        open: &Arc<OpenCalls>,
        config: &Arc<RabbitMqConfig>,
        link: &Link,
    ) -> Self {
        Self {
            open: Arc::clone(open),
            config: Arc::clone(config),
            link: link.clone(),
            answers: config.name_of(&format!("brigade-answers.{id}")).into(),
            alive: config.name_of(&format!("brigade-alive.{id}")).into(),
            is_marked: AtomicBool::new(false),
        }
    }

    /// Receives answers for as long as the broker is there.
    pub(super) async fn listen(self: Arc<Self>) {
        let listen = async |connection: LiveConnection| self.listen_on(&connection).await;
        let fail = |fault: &AmqpFault| self.fail(fault, |_| true);
        self.link
            .on_each_connection("receive answers", listen, fail)
            .await;
    }

    /// Sees to it, on each connection that publishes, that there is a queue for answers, and ends
    /// the calls that a restart of the broker took.
    pub(super) async fn prepare(
        self: Arc<Self>,
        connection: LiveConnection,
    ) -> Result<(), AmqpFault> {
        let channel = connection.channel().await?;
        declare(&connection, &channel, &self.answers).await?;
        self.look_for_restart(&connection).await?;
        control::declare(&connection).await;
        Ok(())
    }

    async fn listen_on(&self, connection: &LiveConnection) -> Result<(), AmqpFault> {
        let channel = connection.channel().await?;
        declare(connection, &channel, &self.answers).await?;
        let mut answers = connection
            .consume(&channel, &self.answers, FieldTable::default())
            .await?;
        let mut keeping = std::pin::pin!(self.keep_mark(connection, &channel));
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.next() => answer,
                fault = &mut keeping => return Err(fault),
            };
            let Some(answer) = answer else {
                return Err(AmqpFault::new(
                    ErrorKind::Unreachable,
                    "the queue of answers is gone",
                ));
            };
            let mut last = answer?;
            self.receive(&mut last);
            let mut count = 1;
            while count < ACK_MAX
                && let Some(Some(answer)) = answers.next().now_or_never()
            {
                last = answer?;
                self.receive(&mut last);
                count += 1;
            }
            // This one and all before it. If the connection is gone, they come again, and are late.
            // By the channel itself: a delivery's own ack goes through a task, so that a later one
            // may overtake it.
            drop(
                channel
                    .basic_ack(last.delivery_tag, BasicAckOptions { multiple: true })
                    .now_or_never(),
            );
        }
    }

    /// Notices that the broker was restarted, and ends the calls that were lost with that.
    async fn look_for_restart(&self, connection: &LiveConnection) -> Result<(), AmqpFault> {
        if self.config.durable_calls {
            return Ok(());
        }
        let channel = connection.confirming_channel().await?;
        if declare(connection, &channel, &self.alive).await? > 0 {
            return Ok(());
        }
        if self.is_marked.load(Ordering::Relaxed) {
            let fault = AmqpFault::new(
                ErrorKind::Unreachable,
                "the broker was restarted, and the call may have been lost (calls=durable keeps \
                    them)",
            );
            self.fail(&fault, |open| open.is_sent);
        }
        connection
            .publish_note(&channel, &self.alive, b"alive")
            .await?;
        self.is_marked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the queue with the mark, which has no consumer.
    async fn keep_mark(&self, connection: &LiveConnection, channel: &Channel) -> AmqpFault {
        loop {
            sleep(ANSWERS_EXPIRE / 3).await;
            if let Err(fault) = declare(connection, channel, &self.alive).await {
                return fault;
            }
        }
    }

    fn receive(&self, delivery: &mut Delivery) {
        let properties = &delivery.properties;
        let Some(number) = self.open.number_of(properties) else {
            return;
        };
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let header = |name| header(properties, name);
        if header(BEGUN).is_some() {
            self.open.begun(number);
        } else if let Some(fraction) = header(PROGRESS) {
            let progress = Progress {
                fraction: read_fraction(fraction),
                codec: Codec::Json,
                payload: body,
            };
            self.open.report(number, progress);
        } else {
            let outcome = match header(ERROR) {
                None => Ok(body),
                Some(kind) => Err(read_error(kind, &body)),
            };
            self.open.end(number, outcome);
        }
    }

    /// Ends these calls as uncertain.
    fn fail(&self, fault: &AmqpFault, which: impl Fn(&OpenCall) -> bool) {
        let error = || {
            let error = fault.clone().into_error("wait for the answer of a call");
            error.uncertain()
        };
        self.open.fail(which, error);
    }
}

/// Declares a durable queue that expires when it is unused for long. How many messages are in it.
async fn declare(
    connection: &LiveConnection,
    channel: &Channel,
    queue: &ShortString,
) -> Result<u32, AmqpFault> {
    let arguments = table([("x-expires", millis(ANSWERS_EXPIRE))]);
    connection
        .declare(channel, queue, QueueDeclareOptions::durable(), arguments)
        .await
        .map(|queue| queue.message_count())
}

/// How far a call is: text from us, a number from other clients.
fn read_fraction(value: &AMQPValue) -> f64 {
    let fraction = match value {
        AMQPValue::LongString(_) | AMQPValue::ShortString(_) => {
            read_text(value).and_then(|text| text.trim().parse().ok())
        }
        AMQPValue::Double(fraction) => Some(*fraction),
        AMQPValue::Float(fraction) => Some(f64::from(*fraction)),
        AMQPValue::LongInt(whole) => Some(f64::from(*whole)),
        _ => None,
    };
    fraction
        .filter(|fraction| fraction.is_finite())
        .map_or(0.0, |fraction| fraction.clamp(0.0, 1.0))
}

fn read_error(kind: &AMQPValue, body: &[u8]) -> CallError {
    let answer = serde_json::from_slice::<Answer>(body);
    let kind = read_text(kind).unwrap_or("failed");
    answer
        .unwrap_or_else(|_| Answer::new(kind, String::from_utf8_lossy(body)))
        .into_error()
}

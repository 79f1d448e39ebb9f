//! The supervisor of one connection: makes it, watches over it, makes it again.
//!
//! ```text
//!   up --- it broke, no heartbeat, the broker closed it ---> down --- back-off ---> up, another one
//! ```
//!
//! Channels, consumers and delivery tags belong to one [`LiveConnection`] and end with it. Code
//! that needs them asks for the connection there is ([`Link::connection`]) and makes them again
//! ([`Link::on_each_connection`]); so nothing of one connection can be taken for something of the
//! next, and an ack can only mean the delivery that it was meant for. lapin's own recovery stays
//! off: it hides that other consumers have the deliveries.
//!
//! One task owns the connection and is the only one that changes the state; everybody else looks at
//! it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ChannelFlowOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer, Event, ExchangeKind, Queue,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::consume::begin_consuming;
use super::fault::AmqpFault;
use super::pause::Pauses;
use super::reach::{self, OpenedConnection};
use super::url::RabbitMqConfig;
use crate::error::{Error, ErrorKind};
use crate::retry::{Retry, jitter};
use crate::shutdown::Scope;

/// The last of the pauses between tries to connect, so that work goes on soon after the broker is
/// back.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// lapin reports each end of a connection; should it miss one, it is noticed then.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before the next try to connect where there are as many connections as there may be.
const LIMIT_PAUSE: Duration = Duration::from_secs(5);
/// The number of the next connection.
static NUMBERS: AtomicU64 = AtomicU64::new(1);
/// RabbitMQ's default.
const FRAME_MAX: usize = 128 << 10;

/// A connection that is made again when it broke. Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    config: Arc<RabbitMqConfig>,
    state: watch::Receiver<LinkState>,
}

#[derive(Clone)]
enum LinkState {
    Up(LiveConnection),
    /// With the reason why it is not there.
    Down(AmqpFault),
}

/// One connection, for as long as it lives. Cheap to clone.
#[derive(Clone)]
pub(super) struct LiveConnection {
    amqp: Arc<Connection>,
    /// From 1; no two connections of the process have the same.
    pub(super) number: u64,
    /// Of the broker, if it is RabbitMQ.
    pub(super) version: Option<Arc<str>>,
    /// Why the broker takes nothing now, if so.
    pub(super) blocked: watch::Receiver<Option<Arc<str>>>,
    /// Cancelled when it is over.
    pub(super) down: CancellationToken,
    answer_timeout: Duration,
    /// The most bytes of a frame, as was agreed.
    pub(super) frame_max: usize,
}

impl Link {
    /// Connects, and keeps connected until the scope closes.
    ///
    /// # Errors
    ///
    /// That of the first try: a wrong password is not tried again and again.
    pub(super) async fn connect(
        config: &Arc<RabbitMqConfig>,
        purpose: &'static str,
        scope: &Scope,
    ) -> Result<Self, Error> {
        let opened = reach::open(config, purpose, 0)
            .await
            .map_err(|fault| fault.into_error("connect to RabbitMQ"))?;
        let (first, blocked) = LiveConnection::new(&opened, config);
        let (state, seen) = watch::channel(LinkState::Up(first.clone()));
        let mut supervisor = Supervisor {
            config: Arc::clone(config),
            purpose,
            state,
            opened,
        };
        let until = scope.clone();
        scope.spawn(async move {
            tokio::select! {
                () = until.closed() => {}
                () = supervisor.run(first, blocked) => {}
            }
            supervisor.opened.close().await;
        });
        Ok(Self {
            config: Arc::clone(config),
            state: seen,
        })
    }

    /// The connection there is; waits for it as long as an answer may take. Cancel safe.
    pub(super) async fn connection(&self) -> Result<LiveConnection, AmqpFault> {
        let mut state = self.state.clone();
        // A connection may have broken and its supervisor not know yet.
        let waiting = state
            .wait_for(|state| matches!(state, LinkState::Up(connection) if connection.is_up()));
        match timeout(self.config.answer_timeout, waiting)
            .await
            .map(|state| state.map(|state| state.clone()))
        {
            Ok(Ok(LinkState::Up(connection))) => return Ok(connection),
            Ok(Err(_)) => return Err(AmqpFault::new(ErrorKind::Closed, "the broker was dropped")),
            Ok(Ok(LinkState::Down(_))) | Err(_) => {}
        }
        Err(self.fault().unwrap_or_else(AmqpFault::timeout))
    }

    /// Asks on the connection there is, and once more on the next one if it broke meanwhile: for
    /// what may be asked twice.
    pub(super) async fn ask<T, F: Future<Output = Result<T, AmqpFault>>>(
        &self,
        ask: impl Fn(LiveConnection) -> F,
    ) -> Result<T, AmqpFault> {
        let until = Instant::now() + self.config.answer_timeout;
        loop {
            let connection = self.connection().await?;
            match ask(connection.clone()).await {
                Err(fault) if fault.is_lost() && !connection.is_up() && Instant::now() < until => {}
                answered => return answered,
            }
        }
    }

    /// Of the connection there is now.
    pub(super) fn number(&self) -> Option<u64> {
        match &*self.state.borrow() {
            LinkState::Up(connection) => Some(connection.number),
            LinkState::Down(_) => None,
        }
    }

    /// The most bytes of a frame on the connection there is now; without one, on the last or the
    /// next.
    pub(super) fn frame_max(&self) -> usize {
        match &*self.state.borrow() {
            LinkState::Up(connection) => connection.frame_max,
            LinkState::Down(_) => FRAME_MAX,
        }
    }

    /// Why there is no connection, if there is none.
    pub(super) fn fault(&self) -> Option<AmqpFault> {
        match &*self.state.borrow() {
            LinkState::Up(_) => None,
            LinkState::Down(fault) => Some(fault.clone()),
        }
    }

    /// Has something run on each connection in turn, for ever: again after a pause when it failed,
    /// and again when there is a new connection. Where consumers are resumed. `on_away` runs
    /// whenever there is no connection for as long as an answer may take.
    pub(super) async fn on_each_connection<F: Future<Output = Result<(), AmqpFault>>>(
        &self,
        what: &str,
        run: impl Fn(LiveConnection) -> F,
        on_away: impl Fn(&AmqpFault),
    ) {
        let mut pauses = Pauses::default();
        loop {
            let connection = match self.connection().await {
                Ok(connection) => connection,
                Err(fault) if fault.kind() == ErrorKind::Closed => return,
                Err(fault) => {
                    on_away(&fault);
                    continue;
                }
            };
            let down = connection.down.clone();
            match down.run_until_cancelled(run(connection)).await {
                Some(Ok(())) => return,
                Some(Err(fault)) => {
                    tracing::warn!(%fault, what, "failed on this connection; trying again");
                    down.run_until_cancelled(sleep(pauses.after(&fault))).await;
                }
                None => pauses.reset(),
            }
        }
    }
}

impl LiveConnection {
    fn new(
        opened: &OpenedConnection,
        config: &RabbitMqConfig,
    ) -> (Self, watch::Sender<Option<Arc<str>>>) {
        let (tell, blocked) =
            watch::channel(opened.connection.status().blocked().then(|| "alarm".into()));
        let connection = Self {
            amqp: Arc::clone(&opened.connection),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            version: opened.version.as_deref().map(Into::into),
            blocked,
            down: CancellationToken::new(),
            answer_timeout: config.answer_timeout,
            frame_max: usize::try_from(opened.connection.configuration().frame_max())
                .unwrap_or(usize::MAX),
        };
        (connection, tell)
    }

    /// Whether the connection has not broken, as far as is known.
    fn is_up(&self) -> bool {
        !self.down.is_cancelled() && self.amqp.status().connected()
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, AmqpFault> {
        self.answer(self.amqp.create_channel()).await
    }

    /// Opens a channel with confirms.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, AmqpFault> {
        let channel = self.channel().await?;
        self.answer(channel.confirm_select(ConfirmSelectOptions::default()))
            .await?;
        Ok(channel)
    }

    /// Waits for an answer no longer than one may take, nor than the connection lives.
    pub(super) async fn answer<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, AmqpFault> {
        self.answer_within(self.answer_timeout, asking).await
    }

    /// The same for a shorter time: for what may be asked again on another channel.
    pub(super) async fn answer_within<T>(
        &self,
        time: Duration,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, AmqpFault> {
        match self
            .down
            .run_until_cancelled(timeout(time.min(self.answer_timeout), asking))
            .await
        {
            Some(Ok(answer)) => Ok(answer?),
            Some(Err(_)) | None => Err(AmqpFault::timeout()),
        }
    }

    /// Declares a queue.
    pub(super) async fn declare(
        &self,
        channel: &Channel,
        queue: &ShortString,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<Queue, AmqpFault> {
        self.answer(channel.queue_declare(queue.clone(), options, arguments))
            .await
    }

    /// How many consumers a queue has, of all processes.
    pub(super) async fn consumer_count(
        &self,
        channel: &Channel,
        queue: &ShortString,
    ) -> Result<u32, AmqpFault> {
        let options = QueueDeclareOptions::default().passive();
        self.declare(channel, queue, options, FieldTable::default())
            .await
            .map(|queue| queue.consumer_count())
    }

    /// Begins to consume from a queue. Deliveries are to be acked.
    pub(super) async fn consume(
        &self,
        channel: &Channel,
        queue: &ShortString,
        arguments: FieldTable,
    ) -> Result<Consumer, AmqpFault> {
        let options = BasicConsumeOptions::default();
        let consuming = begin_consuming(channel, queue, "".into(), options, arguments);
        self.answer(consuming).await
    }

    /// Declares a durable exchange.
    pub(super) async fn declare_exchange(
        &self,
        channel: &Channel,
        exchange: &str,
        kind: ExchangeKind,
    ) -> Result<(), AmqpFault> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let arguments = FieldTable::default();
        self.answer(channel.exchange_declare(exchange.into(), kind, options, arguments))
            .await
    }

    /// Declares a queue that belongs to this connection alone and goes with its consumer, and
    /// consumes from it. What comes need not be acked.
    pub(super) async fn own_queue(
        &self,
        channel: &Channel,
    ) -> Result<(ShortString, Consumer), AmqpFault> {
        let (unnamed, none) = (ShortString::default(), FieldTable::default());
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let declaring = self.declare(channel, &unnamed, options, none.clone());
        let queue = declaring.await?.name().clone();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consuming = begin_consuming(channel, &queue, "".into(), options, none);
        let consumer = self.answer(consuming).await?;
        Ok((queue, consumer))
    }

    /// Has an exchange put what is published with this key into a queue.
    pub(super) async fn bind(
        &self,
        channel: &Channel,
        queue: &ShortString,
        exchange: &str,
        key: ShortString,
    ) -> Result<(), AmqpFault> {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        self.answer(channel.queue_bind(queue.clone(), exchange.into(), key, options, none))
            .await
    }

    /// Ends a consumer. Deliveries that came before the answer have been read by then, or are read
    /// at once.
    pub(super) async fn cancel(
        &self,
        channel: &Channel,
        tag: ShortString,
    ) -> Result<(), AmqpFault> {
        self.answer(channel.basic_cancel(tag, BasicCancelOptions { nowait: false }))
            .await
    }

    /// Puts a note of ours into a queue, by a channel with confirms.
    pub(super) async fn publish_note(
        &self,
        channel: &Channel,
        queue: &ShortString,
        body: &[u8],
    ) -> Result<Confirmation, AmqpFault> {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let publishing = channel.basic_publish("".into(), queue.clone(), options, body, properties);
        self.answer(async { publishing.await?.await }).await
    }

    /// Returns when the broker has read all that was sent by this channel before, and this side
    /// all that the broker had sent by it. The request changes nothing: the broker only answers.
    pub(super) async fn round_trip(&self, channel: &Channel) -> Result<(), AmqpFault> {
        self.answer(channel.channel_flow(ChannelFlowOptions { active: true }))
            .await
            .map(drop)
    }
}

/// Who owns the connection.
struct Supervisor {
    config: Arc<RabbitMqConfig>,
    purpose: &'static str,
    state: watch::Sender<LinkState>,
    opened: OpenedConnection,
}

impl Supervisor {
    async fn run(
        &mut self,
        mut connection: LiveConnection,
        mut blocked: watch::Sender<Option<Arc<str>>>,
    ) {
        loop {
            let fault = watch_over(&self.opened, &blocked).await;
            tracing::warn!(%fault, purpose = self.purpose, "the connection to RabbitMQ is gone; \
                connecting again");
            self.state.send_replace(LinkState::Down(fault));
            connection.down.cancel();
            self.opened.end.now();
            self.opened = self.open_again().await;
            (connection, blocked) = LiveConnection::new(&self.opened, &self.config);
            tracing::info!(
                purpose = self.purpose,
                number = connection.number,
                "connected to RabbitMQ again"
            );
            self.state.send_replace(LinkState::Up(connection.clone()));
        }
    }

    async fn open_again(&self) -> OpenedConnection {
        let pauses = Retry::exponential(Duration::from_millis(50), PAUSE_MAX);
        for attempt in 1.. {
            sleep(pauses.pause_after(attempt)).await;
            match reach::open(
                &self.config,
                self.purpose,
                usize::try_from(attempt).unwrap_or(0),
            )
            .await
            {
                Ok(opened) => return opened,
                Err(fault) => {
                    tracing::debug!(%fault, attempt, "could not connect to RabbitMQ");
                    if fault.is_limit() {
                        // Each try takes one of what there is too little of.
                        sleep(LIMIT_PAUSE.mul_f64(jitter(0.5))).await;
                    }
                    self.state.send_replace(LinkState::Down(fault));
                }
            }
        }
        unreachable!("there is always a next try")
    }
}

/// Waits for the end of a connection and returns why; notes when the broker takes nothing.
async fn watch_over(
    opened: &OpenedConnection,
    blocked: &watch::Sender<Option<Arc<str>>>,
) -> AmqpFault {
    let connection = &opened.connection;
    let mut events = Box::pin(connection.events_listener());
    let mut why = None;
    while connection.status().connected() {
        match timeout(LOOK_EVERY, events.next()).await {
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                tracing::warn!(reason, "RabbitMQ takes nothing for now");
                blocked.send_replace(Some(reason.into()));
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                tracing::info!("RabbitMQ takes messages again");
                blocked.send_replace(None);
            }
            // Of a channel, or of the connection: the next look at its state shows which.
            Ok(Some(Event::Error(error))) => why = Some(error),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => break,
        }
    }
    why.map_or_else(
        || {
            AmqpFault::new(
                ErrorKind::Unreachable,
                "the connection to the broker is gone",
            )
        },
        AmqpFault::from,
    )
}

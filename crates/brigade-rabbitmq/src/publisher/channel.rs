//! What publishes requests: one channel of one connection after the other.
//!
//! ```text
//!   unsent --- sent ---> unconfirmed --- confirm, return, nack ---> its outcome is reported
//!     ^                       |
//!     +---- channel ended ----+
//! ```
//!
//! One task owns all of it. A request that has no outcome by its deadline fails, wherever it is; if
//! it was sent, its channel is given up, as a late confirm would be taken for that of another one.
//!
//! A channel that the broker closes with a reason, not with its connection, was closed because of
//! one of the requests that were unconfirmed. These are *suspects*: sent again one at a time, so
//! that the one at fault fails alone.
//!
//! The broker returns an unroutable message before it confirms it, and lapin hands the returned
//! message to the confirm that comes next: that of the same request, or of an earlier one. So the
//! request is found by its ids, marked, and handled when its own confirm comes.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, poll_fn};
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::fault::AmqpFault;
use super::super::fit;
use super::super::link::{Link, LiveConnection};
use super::super::pause::Pauses;
use super::super::url::{Blocked, RabbitMqConfig};
use super::request::{PublishRequest, Published};
use crate::error::ErrorKind;

/// Published together, before the confirms are looked at.
const BATCH_MAX: usize = 128;
/// Sent and not confirmed; beyond that nothing more is accepted.
const UNCONFIRMED_MAX: usize = 4096;
const UNCONFIRMED_BYTES_MAX: usize = 8 << 20;
/// Waiting for a connection; beyond that nothing more is accepted.
const UNSENT_MAX: usize = 8192;
/// The longest pause before another channel is opened.
const CHANNEL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What has to be done on each connection before anything is published by it.
pub(in super::super) type ConnectionSetup =
    dyn Fn(LiveConnection) -> BoxFuture<'static, Result<(), AmqpFault>> + Send + Sync;

pub(super) struct ChannelPublisher {
    /// With this, a channel is opened on each connection, also if there is nothing to publish.
    setup: Option<Box<ConnectionSetup>>,
    link: Link,
    config: Arc<RabbitMqConfig>,
    inbox: mpsc::Receiver<Vec<PublishRequest>>,
    /// In the order in which they are to be sent.
    unsent: VecDeque<PublishRequest>,
    /// Being sent.
    batch: Vec<PublishRequest>,
    /// In the order in which they were sent.
    unconfirmed: VecDeque<(PublishRequest, PublisherConfirm)>,
    /// Of the bodies of those.
    unconfirmed_bytes: usize,
    /// So many of `unsent` go one at a time.
    suspects: usize,
    /// What was sent last was a suspect, so nothing else is unconfirmed.
    is_alone: bool,
    /// The channel has brought a confirm.
    has_confirmed: bool,
}

impl ChannelPublisher {
    pub(super) fn new(
        setup: Option<Box<ConnectionSetup>>,
        config: &Arc<RabbitMqConfig>,
        link: &Link,
        inbox: mpsc::Receiver<Vec<PublishRequest>>,
    ) -> Self {
        Self {
            setup,
            link: link.clone(),
            config: Arc::clone(config),
            inbox,
            unsent: VecDeque::new(),
            batch: Vec::new(),
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            suspects: 0,
            is_alone: false,
            has_confirmed: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::default();
        while let Some(connection) = self.next_connection().await {
            let fault = self.publish_on(&connection).await;
            if fault.kind() == ErrorKind::Closed {
                return;
            }
            if self.has_confirmed {
                pauses.reset();
            }
            if !connection.down.is_cancelled() && self.suspects == 0 {
                tracing::warn!(%fault, "a channel that publishes failed; opening another one");
                sleep(pauses.after(&fault).min(CHANNEL_PAUSE_MAX)).await;
            }
        }
    }

    /// The connection to publish on; `None` when the broker was dropped. Requests whose deadline
    /// comes before fail.
    async fn next_connection(&mut self) -> Option<LiveConnection> {
        if self.setup.is_none() && self.unsent.is_empty() {
            let first = self.inbox.recv().await?;
            self.unsent.extend(first);
        }
        loop {
            let due = self.next_deadline();
            tokio::select! {
                biased;
                connection = self.link.connection() => match connection {
                    Ok(connection) => return Some(connection),
                    Err(fault) if fault.kind() == ErrorKind::Closed => return None,
                    Err(_) => {}
                },
                more = self.inbox.recv(), if self.unsent.len() < UNSENT_MAX => {
                    self.unsent.extend(more?);
                }
                () = reached(due) => {}
            }
            let fault = self.link.fault().unwrap_or_else(AmqpFault::timeout);
            self.fail_late(&fault);
        }
    }

    /// Publishes on this connection until it breaks, or the channel ends; returns why.
    async fn publish_on(&mut self, connection: &LiveConnection) -> AmqpFault {
        (self.is_alone, self.has_confirmed) = (false, false);
        let carrying = async {
            // First: a broker that takes nothing opens no channel either.
            self.wait_until_free(connection).await;
            let opening = async {
                if let Some(prepare) = &self.setup {
                    prepare(connection.clone()).await?;
                }
                connection.confirming_channel().await
            };
            match opening.await {
                Ok(channel) => self.carry(connection, &channel).await,
                Err(fault) => {
                    if fault.is_lasting() {
                        self.fail_all(&fault);
                    }
                    fault
                }
            }
        };
        let fault = connection
            .down
            .run_until_cancelled(carrying)
            .await
            .unwrap_or_else(AmqpFault::timeout);
        self.take_back(connection, &fault);
        fault
    }

    /// Nothing is lost when this is dropped at an await: what is under way is in `self`.
    async fn carry(&mut self, connection: &LiveConnection, channel: &Channel) -> AmqpFault {
        loop {
            if !self.unsent.is_empty()
                && self.may_send(connection)
                && let Err(fault) = self.send(connection, channel).await
            {
                return fault;
            }
            let has_room = self.unsent.is_empty()
                && self.unconfirmed.len() < UNCONFIRMED_MAX
                && self.unconfirmed_bytes < UNCONFIRMED_BYTES_MAX;
            let due = self
                .unconfirmed
                .front()
                .and_then(|(one, _)| one.policy.give_up_at);
            tokio::select! {
                confirmed = next_confirm(&mut self.unconfirmed), if !self.unconfirmed.is_empty() => {
                    // Most come together with others: those take no wait of their own.
                    let mut next = Some(confirmed);
                    while let Some(confirmed) = next {
                        if let Err(fault) = self.on_confirmed(confirmed) {
                            return fault;
                        }
                        next = next_confirm(&mut self.unconfirmed).now_or_never();
                    }
                }
                more = self.inbox.recv(), if has_room => {
                    let Some(more) = more else {
                        return AmqpFault::new(ErrorKind::Closed, "the broker was dropped");
                    };
                    self.unsent.extend(more);
                    // Tasks that were woken by the same confirms send theirs right after this one.
                    yield_now().await;
                    while self.unsent.len() < BATCH_MAX && let Ok(more) = self.inbox.try_recv() {
                        self.unsent.extend(more);
                    }
                }
                () = reached(due) => return late(connection),
            }
        }
    }

    fn may_send(&self, connection: &LiveConnection) -> bool {
        let is_free =
            || self.unconfirmed.len() < UNCONFIRMED_MAX && connection.blocked.borrow().is_none();
        self.unconfirmed.is_empty() || self.suspects == 0 && !self.is_alone && is_free()
    }

    async fn send(
        &mut self,
        connection: &LiveConnection,
        channel: &Channel,
    ) -> Result<(), AmqpFault> {
        self.wait_until_free(connection).await;
        self.fail_late(&AmqpFault::timeout());
        self.is_alone = self.suspects > 0;
        self.take_batch(connection.frame_max);
        let publishing = self.batch.iter().map(|request| {
            let message = &request.message;
            let options = BasicPublishOptions {
                mandatory: !request.policy.is_optional,
                immediate: false,
            };
            channel.basic_publish(
                request.exchange.clone(),
                message.queue.clone(),
                options,
                &message.body,
                message.properties.clone(),
            )
        });
        let sent = begin_all(publishing).await;
        let mut ended = Ok(());
        let mut left = VecDeque::new();
        for (request, sent) in self.batch.drain(..).zip(sent) {
            match sent {
                Ok(confirm) => {
                    self.unconfirmed_bytes += request.message.body.len();
                    self.unconfirmed.push_back((request, confirm));
                }
                Err(error) => {
                    ended = Err(AmqpFault::from(error));
                    left.push_back(request);
                }
            }
        }
        left.append(&mut self.unsent);
        self.unsent = left;
        ended
    }

    /// Takes the requests that are sent next, but for those that go another way or do not fit into
    /// a frame, which would end the connection.
    fn take_batch(&mut self, frame_max: usize) {
        let max = if self.is_alone { 1 } else { BATCH_MAX };
        while self.batch.len() < max
            && let Some(request) = self.unsent.pop_front()
        {
            self.suspects = self.suspects.saturating_sub(1);
            let Some(mut request) = request.before_send() else {
                continue;
            };
            if fit::fits(&request.message.properties, frame_max) {
                request.begin();
                self.batch.push(request);
                continue;
            }
            let bytes = fit::frame_bytes(&request.message.properties);
            let uncertain = request.tries > 0;
            let outcome = Published::failed(&AmqpFault::over_frame(bytes, frame_max), uncertain);
            request.finish(outcome);
        }
    }

    /// While the broker takes nothing, requests that cannot be kept waiting fail. Returns when it
    /// takes messages, or nothing is to be sent.
    async fn wait_until_free(&mut self, connection: &LiveConnection) {
        let mut blocked = connection.blocked.clone();
        while blocked.borrow().is_some() {
            let fault = AmqpFault::blocking();
            match self.config.blocked {
                Blocked::Error => self.fail_all(&fault),
                Blocked::Wait => self.fail_late(&fault),
            };
            if self.unsent.is_empty() {
                return;
            }
            let due = self.next_deadline();
            tokio::select! {
                _ = blocked.wait_for(Option::is_none) => return,
                () = reached(due) => {}
            }
        }
    }

    fn on_confirmed(&mut self, confirmed: lapin::Result<Confirmation>) -> Result<(), AmqpFault> {
        let confirmation = confirmed?;
        let Some((mut request, _)) = self.unconfirmed.pop_front() else {
            return Ok(());
        };
        self.has_confirmed = true;
        self.unconfirmed_bytes -= request.message.body.len();
        let outcome = match confirmation {
            Confirmation::Ack(_) => Published::Safe,
            // One that was sent before may be there.
            Confirmation::Nack(_) if request.tries > 1 => {
                Published::failed(&AmqpFault::declined(), true)
            }
            Confirmation::Nack(_) => Published::Declined,
            Confirmation::NotRequested => {
                let hint = "the channel has no confirms";
                Published::failed(&AmqpFault::new(ErrorKind::Protocol, hint), true)
            }
        };
        if let Some(returned) = confirmation.take_message() {
            let mut all = [&mut request]
                .into_iter()
                .chain(self.unconfirmed.iter_mut().map(|(request, _)| request));
            if let Some(of) = all.find(|one| !one.is_returned && one.is(&returned.delivery)) {
                of.is_returned = true;
            }
        }
        let outcome = if request.is_returned {
            // It did not arrive this time.
            request.tries -= 1;
            Published::Unroutable
        } else {
            outcome
        };
        request.finish(outcome);
        Ok(())
    }

    /// The channel is over: what has no outcome is sent again on another one.
    fn take_back(&mut self, connection: &LiveConnection, fault: &AmqpFault) {
        let sent = self.unconfirmed.len() + self.batch.len();
        for request in self.batch.drain(..).rev() {
            self.unsent.push_front(request);
        }
        for (mut request, _) in self.unconfirmed.drain(..).rev() {
            request.is_returned = false;
            self.unsent.push_front(request);
        }
        self.unconfirmed_bytes = 0;
        let is_late = self.fail_late(fault);
        if sent == 0 || is_late || fault.is_lost() || connection.down.is_cancelled() {
            return;
        }
        if !self.is_alone {
            self.suspects = sent;
        } else if let Some(request) = self.unsent.pop_front() {
            // What was refused for its size was refused each time.
            let uncertain = request.tries > 1 && fault.kind() != ErrorKind::TooLarge;
            request.finish(Published::failed(fault, uncertain));
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.unsent
            .iter()
            .filter_map(|one| one.policy.give_up_at)
            .min()
    }

    /// Requests whose deadline is over fail. Whether there were any.
    fn fail_late(&mut self, fault: &AmqpFault) -> bool {
        let now = Instant::now();
        self.fail(fault, |request| {
            let deadline = request.policy.give_up_at;
            deadline.is_some_and(|deadline| deadline <= now)
        })
    }

    /// Requests that have a deadline fail.
    fn fail_all(&mut self, fault: &AmqpFault) -> bool {
        self.fail(fault, |request| request.policy.give_up_at.is_some())
    }

    fn fail(&mut self, fault: &AmqpFault, which: impl Fn(&PublishRequest) -> bool) -> bool {
        if !self.unsent.iter().any(&which) {
            return false;
        }
        let mut suspects = 0;
        for (index, request) in std::mem::take(&mut self.unsent).into_iter().enumerate() {
            if which(&request) {
                let outcome = Published::failed(fault, request.tries > 0);
                request.finish(outcome);
            } else {
                suspects += usize::from(index < self.suspects);
                self.unsent.push_back(request);
            }
        }
        self.suspects = suspects;
        true
    }
}

/// Returns at that moment, if there is one. Cancel safe.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// A request has waited for its confirm for too long.
fn late(connection: &LiveConnection) -> AmqpFault {
    if connection.blocked.borrow().is_some() {
        AmqpFault::blocking()
    } else {
        AmqpFault::timeout()
    }
}

/// Begins all of these in this order, then waits for one after the other: they end in this order
/// too, so most have when the first has.
async fn begin_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut begun = Vec::with_capacity(BATCH_MAX);
    for one in all {
        let mut one = Box::pin(one);
        let ended = one.as_mut().now_or_never();
        begun.push((one, ended));
    }
    let mut outputs = Vec::with_capacity(begun.len());
    for (one, ended) in begun {
        outputs.push(match ended {
            Some(output) => output,
            None => one.await,
        });
    }
    outputs
}

/// The confirm of the one that was sent first. Cancel safe.
async fn next_confirm(
    unconfirmed: &mut VecDeque<(PublishRequest, PublisherConfirm)>,
) -> lapin::Result<Confirmation> {
    poll_fn(|context| match unconfirmed.front_mut() {
        Some((_, confirm)) => Pin::new(confirm).poll(context),
        None => Poll::Pending,
    })
    .await
}

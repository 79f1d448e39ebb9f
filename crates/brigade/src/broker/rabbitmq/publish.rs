//! Publishing, confirmed.
//!
//! A message is told as safe only when the broker has confirmed it. What was not confirmed when the
//! connection broke is published again on the next one, with the same message id, so that whoever
//! takes it can tell; if no connection comes about in time, it is told as uncertain.
//!
//! Two lanes carry the messages, each on a channel of its own, and do not wait for one confirm
//! before they send the next message. Messages are told of in the order in which they were sent.
//! That says which of them came back: the broker returns them in that order, each before its
//! confirm, and lapin hands the oldest of those that came back to whichever confirm comes next; so
//! it has been handed out when all up to its own have come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::ready;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::fault::Fault;
use super::fit;
use super::link::{Line, Link};
use super::url::Place;
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;

/// Requests that wait for a lane; beyond that, their callers wait.
const REQUESTS_MAX: usize = 1024;
/// Of one lane, sent and not confirmed.
const UNCONFIRMED_MAX: usize = 1024;
const UNCONFIRMED_BYTES_MAX: usize = 8 << 20;

/// What to publish, to the queue of that name, by the default exchange. It has a message id, or as
/// a call a correlation id.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) queue: ShortString,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub(super) enum Published {
    /// The broker has it, as safe as its queue makes it.
    Safe,
    /// There is no such queue.
    Unroutable,
    /// The broker said that it does not take it now.
    Declined,
    /// The broker did not take it; or, if it is uncertain, nobody knows.
    Failed { fault: Fault, uncertain: bool },
}

impl Published {
    /// What became of one that was to follow this one, and was not sent.
    pub(super) fn not_sent(self) -> Self {
        match self {
            Self::Failed { fault, .. } => Self::Failed {
                fault,
                uncertain: false,
            },
            other => other,
        }
    }

    /// What a caller is told who wanted it safe.
    pub(super) fn into_result(self, what: &str) -> Result<(), Error> {
        match self {
            Self::Safe => Ok(()),
            Self::Unroutable => Err(Error::new(
                ErrorKind::Unreachable,
                format!("{what}: the queue is not there"),
            )),
            Self::Declined => {
                let text =
                    format!("{what}: the broker did not take it: its queue is full, or it failed");
                Err(Error::new(ErrorKind::QueueFull, text))
            }
            Self::Failed { fault, uncertain } => {
                let error = fault.into_error(what);
                Err(if uncertain { error.uncertain() } else { error })
            }
        }
    }
}

pub(super) struct Publisher {
    lane: mpsc::Sender<Request>,
    /// For what may wait, so that nothing else waits behind it.
    slow_lane: mpsc::Sender<Request>,
    place: Arc<Place>,
}

struct Request {
    messages: Vec<Arc<Message>>,
    until: Instant,
    answer: oneshot::Sender<Vec<Published>>,
}

impl Publisher {
    pub(super) fn start(place: &Arc<Place>, link: &Link, scope: &Scope) -> Self {
        let lane = || {
            let (sender, requests) = mpsc::channel(REQUESTS_MAX);
            scope.spawn_until_closed(Lane::new(place, link).run(requests));
            sender
        };
        Self {
            lane: lane(),
            slow_lane: lane(),
            place: Arc::clone(place),
        }
    }

    /// Publishes these in this order; one answer for each. What is handed over later is sent later.
    ///
    /// # Cancel safety
    ///
    /// What was handed over is published even if nobody waits for the answer.
    pub(super) async fn publish(&self, messages: Vec<Arc<Message>>) -> Vec<Published> {
        self.publish_by(&self.lane, messages).await
    }

    /// The same, beside the rest: for queues whose confirms may take their time.
    pub(super) async fn publish_slowly(&self, messages: Vec<Arc<Message>>) -> Vec<Published> {
        self.publish_by(&self.slow_lane, messages).await
    }

    async fn publish_by(
        &self,
        lane: &mpsc::Sender<Request>,
        messages: Vec<Arc<Message>>,
    ) -> Vec<Published> {
        let count = messages.len();
        if count == 0 {
            return Vec::new();
        }
        let closed = |uncertain| Published::Failed {
            fault: Fault::new(ErrorKind::Closed, "the broker was dropped"),
            uncertain,
        };
        let (answer, answered) = oneshot::channel();
        let request = Request {
            messages,
            until: Instant::now() + self.place.answer_timeout,
            answer,
        };
        if lane.send(request).await.is_err() {
            return vec![closed(false); count];
        }
        answered.await.unwrap_or_else(|_| vec![closed(true); count])
    }
}

struct Lane {
    link: Link,
    place: Arc<Place>,
    /// With confirms; of one connection.
    open: Option<(Line, Arc<Channel>)>,
    /// Handed over, or to be sent again: in this order, and after those that are unconfirmed.
    unsent: VecDeque<Item>,
    /// In the order in which they were sent.
    unconfirmed: VecDeque<(Item, Confirming)>,
    /// Of all of these.
    bytes: usize,
    /// So many are sent one at a time: the broker closed the channel because of one of them.
    suspects: usize,
    /// Queues and ids of messages that came back and have not been told of.
    returned: Vec<(ShortString, ShortString)>,
    /// Who is to be told of them, in the same order.
    askers: VecDeque<Asker>,
}

type Confirming = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// A message on its way.
struct Item {
    message: Arc<Message>,
    until: Instant,
    /// It may be there already.
    uncertain: bool,
    /// It was so before it was sent this time.
    again: bool,
}

/// Who handed over some messages.
struct Asker {
    count: usize,
    outcomes: Vec<Published>,
    answer: oneshot::Sender<Vec<Published>>,
}

impl Lane {
    fn new(place: &Arc<Place>, link: &Link) -> Self {
        Self {
            link: link.clone(),
            place: Arc::clone(place),
            open: None,
            unsent: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            bytes: 0,
            suspects: 0,
            returned: Vec::new(),
            askers: VecDeque::new(),
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            if !self.unsent.is_empty() && self.may_send() {
                self.send().await;
                continue;
            }
            tokio::select! {
                confirmed = self.next_confirm(), if !self.unconfirmed.is_empty() => self.on_confirmed(confirmed),
                request = requests.recv(), if self.has_room() => {
                    let Some(request) = request else { return };
                    self.take(request);
                    while self.has_room_for_more() && let Ok(request) = requests.try_recv() {
                        self.take(request);
                    }
                }
            }
        }
    }

    /// What is to be sent again goes first.
    fn has_room(&self) -> bool {
        self.unsent.is_empty() && self.has_room_for_more()
    }

    fn has_room_for_more(&self) -> bool {
        self.unsent.len() + self.unconfirmed.len() < UNCONFIRMED_MAX
            && self.bytes < UNCONFIRMED_BYTES_MAX
    }

    fn take(&mut self, request: Request) {
        let Request {
            messages,
            until,
            answer,
        } = request;
        self.askers.push_back(Asker {
            count: messages.len(),
            outcomes: Vec::with_capacity(messages.len()),
            answer,
        });
        self.bytes += messages
            .iter()
            .map(|message| message.body.len())
            .sum::<usize>();
        self.unsent.extend(messages.into_iter().map(|message| Item {
            message,
            until,
            uncertain: false,
            again: false,
        }));
    }

    /// Whether those that are unconfirmed need not come to their end first.
    fn may_send(&self) -> bool {
        let is_free = |(line, _): &(Line, Arc<Channel>)| line.blocked.borrow().is_none();
        self.unconfirmed.is_empty() || self.suspects == 0 && self.usable().is_some_and(is_free)
    }

    fn usable(&self) -> Option<&(Line, Arc<Channel>)> {
        self.open
            .as_ref()
            .filter(|(line, channel)| !line.down.is_cancelled() && channel.status().connected())
    }

    async fn send(&mut self) {
        if self.unconfirmed.is_empty() {
            // What is too late takes no other along.
            let now = Instant::now();
            self.fail_while(&Fault::timeout(), |item| item.until <= now);
        }
        let Some(until) = self.unsent.front().map(|item| item.until) else {
            return;
        };
        let ready = match self.usable() {
            Some((_, channel)) if !self.unconfirmed.is_empty() => Ok(Arc::clone(channel)),
            None if !self.unconfirmed.is_empty() => return,
            _ => self.ready_channel(until).await,
        };
        let channel = match ready {
            Ok(channel) => channel,
            Err(fault) if Instant::now() >= until => {
                return self.fail_while(&fault, |item| item.until <= Instant::now());
            }
            Err(fault) => return self.fail_while(&fault, |_| true),
        };
        let count = if self.suspects > 0 {
            1
        } else {
            self.unsent.len()
        };
        let frame_max = self
            .open
            .as_ref()
            .map_or(usize::MAX, |(line, _)| line.frame_max);
        let fits = |item: &Item| fit::fits(&item.message.properties, frame_max);
        let count = self
            .unsent
            .iter()
            .take(count)
            .position(|item| !fits(item))
            .unwrap_or(count);
        if count == 0 && self.unconfirmed.is_empty() {
            // It would end the connection. Those before it have been told of.
            return self.refuse_first(frame_max);
        }
        for mut item in self.unsent.drain(..count) {
            item.again = std::mem::replace(&mut item.uncertain, true);
            let confirming = send(Arc::clone(&channel), Arc::clone(&item.message));
            self.unconfirmed.push_back((item, confirming));
        }
    }

    /// What is to be sent next does not fit into a frame.
    fn refuse_first(&mut self, frame_max: usize) {
        let Some(item) = self.unsent.pop_front() else {
            return;
        };
        self.suspects = self.suspects.saturating_sub(1);
        let fault = Fault::over_frame(fit::frame_bytes(&item.message.properties), frame_max);
        self.tell(
            &item,
            Published::Failed {
                fault,
                uncertain: item.uncertain,
            },
        );
    }

    /// A channel of a connection that takes messages.
    async fn ready_channel(&mut self, until: Instant) -> Result<Arc<Channel>, Fault> {
        if let Some((line, channel)) = self.usable().cloned() {
            line.free(self.place.blocked, until).await?;
            if self.usable().is_some() {
                return Ok(channel);
            }
        }
        let (line, channel) = self.link.ready_channel(until).await?;
        let channel = Arc::new(channel);
        self.open = Some((line, Arc::clone(&channel)));
        Ok(channel)
    }

    /// What the broker says to the one that was sent first. Cancel safe.
    async fn next_confirm(&mut self) -> Result<Confirmation, Fault> {
        let (Some((line, _)), Some((item, confirming))) =
            (&self.open, self.unconfirmed.front_mut())
        else {
            return Err(Fault::timeout());
        };
        match line
            .down
            .run_until_cancelled(timeout_at(item.until, confirming))
            .await
        {
            Some(Ok(ended)) => ended.map_err(Fault::from),
            Some(Err(_)) if line.blocked.borrow().is_some() => Err(Fault::blocking()),
            Some(Err(_)) | None => Err(Fault::timeout()),
        }
    }

    /// What came with it is there by now, and needs no waiting.
    fn on_confirmed(&mut self, first: Result<Confirmation, Fault>) {
        let mut next = Some(first);
        while let Some(confirmed) = next {
            let confirmation = match confirmed {
                Ok(confirmation) => confirmation,
                Err(fault) => return self.on_fault(&fault),
            };
            let Some((item, _)) = self.unconfirmed.pop_front() else {
                return;
            };
            self.suspects = self.suspects.saturating_sub(1);
            let outcome = self.outcome(&item, confirmation);
            self.tell(&item, outcome);
            next = self
                .unconfirmed
                .front_mut()
                .and_then(|(_, confirming)| confirming.now_or_never())
                .map(|ended| ended.map_err(Fault::from));
        }
    }

    fn outcome(&mut self, item: &Item, confirmation: Confirmation) -> Published {
        let outcome = match &confirmation {
            Confirmation::Ack(_) => Published::Safe,
            // The one that was sent before may be there.
            Confirmation::Nack(_) if item.again => Published::Failed {
                fault: Fault::declined(),
                uncertain: true,
            },
            Confirmation::Nack(_) => Published::Declined,
            Confirmation::NotRequested => {
                return Published::Failed {
                    fault: Fault::new(ErrorKind::Protocol, "the channel has no confirms"),
                    uncertain: true,
                };
            }
        };
        if let Some(returned) = confirmation.take_message() {
            self.returned.push((
                returned.delivery.routing_key,
                id_of(&returned.delivery.properties),
            ));
        }
        let is_it = |(queue, id): &(ShortString, ShortString)| {
            *queue == item.message.queue && *id == id_of(&item.message.properties)
        };
        match self.returned.iter().position(is_it) {
            Some(place) => {
                self.returned.swap_remove(place);
                Published::Unroutable
            }
            None => outcome,
        }
    }

    /// What has no outcome is unknown, and sent again on another channel: late confirms would be
    /// taken for those of what comes next.
    fn on_fault(&mut self, fault: &Fault) {
        self.open = None;
        self.returned.clear();
        let sent = self.unconfirmed.len();
        for (item, _) in self.unconfirmed.drain(..).rev() {
            self.unsent.push_front(item);
        }
        let now = Instant::now();
        if self.unsent.front().is_some_and(|item| item.until <= now) {
            self.fail_while(fault, |item| item.until <= now);
        } else if !fault.is_lost() {
            // The broker closed the channel because of one of them.
            self.suspects = sent;
            if sent == 1
                && let Some(item) = self.unsent.pop_front()
            {
                self.suspects = 0;
                // What was refused for its size was refused each time.
                let uncertain = item.again && fault.kind() != ErrorKind::TooLarge;
                self.tell(
                    &item,
                    Published::Failed {
                        fault: fault.clone(),
                        uncertain,
                    },
                );
            }
        }
    }

    /// Those that are to be sent next, for as long as they are such.
    fn fail_while(&mut self, fault: &Fault, such: impl Fn(&Item) -> bool) {
        while let Some(item) = self.unsent.pop_front_if(|item| such(item)) {
            self.suspects = self.suspects.saturating_sub(1);
            self.tell(
                &item,
                Published::Failed {
                    fault: fault.clone(),
                    uncertain: item.uncertain,
                },
            );
        }
    }

    /// Tells of the oldest.
    fn tell(&mut self, item: &Item, outcome: Published) {
        self.bytes -= item.message.body.len();
        let Some(asker) = self.askers.front_mut() else {
            return;
        };
        asker.outcomes.push(outcome);
        if asker.outcomes.len() == asker.count
            && let Some(asker) = self.askers.pop_front()
        {
            // Who asked may have gone.
            asker.answer.send(asker.outcomes).ok();
        }
    }
}

/// By which a message is known: a call has the one of its answer alone.
fn id_of(properties: &BasicProperties) -> ShortString {
    properties
        .message_id()
        .as_ref()
        .or(properties.correlation_id().as_ref())
        .cloned()
        .unwrap_or_default()
}

/// The message is on its way when this returns, after those that were sent before.
fn send(channel: Arc<Channel>, message: Arc<Message>) -> Confirming {
    let mut confirming: Confirming = Box::pin(async move {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let confirm = channel
            .basic_publish(
                "".into(),
                message.queue.clone(),
                options,
                &message.body,
                message.properties.clone(),
            )
            .await?;
        confirm.await
    });
    match confirming.as_mut().now_or_never() {
        Some(ended) => Box::pin(ready(ended)),
        None => confirming,
    }
}

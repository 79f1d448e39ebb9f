//! Publishing, confirmed.
//!
//! A message is told as safe only when the broker has confirmed it. What was not confirmed when the connection broke is published again on the
//! next one, with the same message id, so that whoever takes it can tell; if no connection comes about in time, it is told as uncertain.
//!
//! Lanes carry the messages, each with one batch under way: whatever gathers while the broker confirms goes into the next batch together. lapin
//! hands a returned message to whichever confirm comes next, so which messages of a batch came back is known when all of it is confirmed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::fault::Fault;
use super::link::{Line, Link};
use super::url::{Blocked, Place};
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;

/// Enough that one gathers while the other waits for its confirms.
const LANES: usize = 2;
/// And one for what may wait, so that nothing else waits behind it.
const SLOW_LANE: usize = LANES;
/// Requests that wait for a lane; beyond that, their callers wait.
const REQUESTS_MAX: usize = 1024;
/// Of one batch: below what lapin and the broker have under way in any case.
const BATCH_MESSAGES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What to publish, to the queue of that name, by the default exchange. It has a message id.
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
            Self::Failed { fault, .. } => Self::Failed { fault, uncertain: false },
            other => other,
        }
    }

    /// What a caller is told who wanted it safe.
    pub(super) fn into_result(self, what: &str) -> Result<(), Error> {
        match self {
            Self::Safe => Ok(()),
            Self::Unroutable => Err(Error::new(ErrorKind::Unreachable, format!("{what}: the queue is not there"))),
            Self::Declined => {
                let text = format!("{what}: the broker did not take it: its queue is full, or it failed");
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
    lanes: Vec<mpsc::Sender<Request>>,
    turn: AtomicUsize,
    place: Arc<Place>,
}

struct Request {
    messages: Vec<Message>,
    until: Instant,
    answer: oneshot::Sender<Vec<Published>>,
}

impl Publisher {
    pub(super) fn start(place: &Arc<Place>, link: &Link, scope: &Scope) -> Self {
        let lanes = (0..=SLOW_LANE).map(|_| {
            let (sender, requests) = mpsc::channel(REQUESTS_MAX);
            let lane = Lane { link: link.clone(), place: Arc::clone(place), open: None };
            scope.spawn_until_closed(lane.run(requests));
            sender
        });
        Self { lanes: lanes.collect(), turn: AtomicUsize::new(0), place: Arc::clone(place) }
    }

    /// Publishes these in this order; one answer for each. Messages of one call that follows the end of another come after those of that one.
    ///
    /// # Cancel safety
    ///
    /// What was handed over is published even if nobody waits for the answer.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        self.publish_by(self.turn.fetch_add(1, Ordering::Relaxed) % LANES, messages).await
    }

    /// The same, beside the rest: for queues whose confirms may take their time.
    pub(super) async fn publish_slowly(&self, messages: Vec<Message>) -> Vec<Published> {
        self.publish_by(SLOW_LANE, messages).await
    }

    async fn publish_by(&self, lane: usize, messages: Vec<Message>) -> Vec<Published> {
        let count = messages.len();
        if count == 0 {
            return Vec::new();
        }
        let closed = || Published::Failed { fault: Fault::new(ErrorKind::Closed, "the broker was dropped"), uncertain: false };
        let (answer, answered) = oneshot::channel();
        let request = Request { messages, until: Instant::now() + self.place.answer_timeout, answer };
        if self.lanes[lane].send(request).await.is_err() {
            return vec![closed(); count];
        }
        answered.await.unwrap_or_else(|_| vec![closed(); count])
    }
}

struct Lane {
    link: Link,
    place: Arc<Place>,
    /// With confirms; of one connection.
    open: Option<(Line, Channel)>,
}

/// A message on its way.
struct Item {
    message: Message,
    outcome: Option<Published>,
    /// It may be there already.
    uncertain: bool,
}

impl Lane {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.recv().await {
            let (mut messages, mut bytes) = (first.messages.len(), size(&first));
            let mut batch = vec![first];
            while messages < BATCH_MESSAGES_MAX
                && bytes < BATCH_BYTES_MAX
                && let Ok(next) = requests.try_recv()
            {
                messages += next.messages.len();
                bytes += size(&next);
                batch.push(next);
            }
            self.carry(batch).await;
        }
    }

    async fn carry(&mut self, batch: Vec<Request>) {
        let until = batch.iter().map(|request| request.until).min().unwrap_or_else(Instant::now);
        let item = |message| Item { message, outcome: None, uncertain: false };
        let mut askers = Vec::with_capacity(batch.len());
        let mut items = Vec::new();
        for request in batch {
            askers.push((request.messages.len(), request.answer));
            items.extend(request.messages.into_iter().map(item));
        }
        self.publish_all(&mut items, until).await;
        let mut outcomes = items.into_iter().map(|item| item.outcome.unwrap_or(Published::Unroutable));
        for (count, answer) in askers {
            // Who asked may have gone.
            answer.send(outcomes.by_ref().take(count).collect()).ok();
        }
    }

    /// Publishes what has no outcome until everything has one.
    async fn publish_all(&mut self, items: &mut [Item], until: Instant) {
        let mut one_by_one = false;
        loop {
            let mut todo: Vec<&mut Item> = items.iter_mut().filter(|item| item.outcome.is_none()).collect();
            if todo.is_empty() {
                return;
            }
            if one_by_one {
                todo.truncate(1);
            }
            let fault = match self.ready_channel(until).await {
                Ok((line, channel)) => {
                    let fault = publish_round(&line, &channel, &mut todo, until).await;
                    if fault.is_some() {
                        // Late confirms would be taken for those of the next batch.
                        self.open = None;
                    }
                    fault
                }
                Err(fault) => {
                    todo.into_iter().for_each(|item| item.fail(&fault));
                    if one_by_one {
                        continue;
                    }
                    return;
                }
            };
            let Some(fault) = fault else { continue };
            if Instant::now() >= until {
                items.iter_mut().filter(|item| item.outcome.is_none()).for_each(|item| item.fail(&fault));
            } else if !fault.is_lost() {
                // The broker closed the channel because of one of them.
                if one_by_one || items.iter().filter(|item| item.outcome.is_none()).count() == 1 {
                    items.iter_mut().find(|item| item.outcome.is_none()).into_iter().for_each(|item| item.refuse(&fault));
                }
                one_by_one = true;
            }
        }
    }

    /// A channel of a connection that takes messages.
    async fn ready_channel(&mut self, until: Instant) -> Result<(Line, Channel), Fault> {
        let is_open = |(line, channel): &&(Line, Channel)| !line.down.is_cancelled() && channel.status().connected();
        let open = match self.open.as_ref().filter(is_open) {
            Some(open) => open.clone(),
            None => {
                let opening = self.link.ask(Line::with_confirming_channel);
                timeout_at(until, opening).await.map_err(|_| Fault::timeout())??
            }
        };
        self.open = Some(open.clone());
        let mut blocked = open.0.blocked.clone();
        if blocked.borrow().is_some() {
            let is_free = blocked.wait_for(Option::is_none);
            match self.place.blocked {
                Blocked::Error => return Err(blocking()),
                Blocked::Wait => drop(timeout_at(until, is_free).await.map_err(|_| blocking())?),
            }
        }
        Ok(open)
    }
}

pub(super) fn blocking() -> Fault {
    Fault::new(ErrorKind::QueueFull, "the broker is blocking publishers: it is short of memory or disk")
}

fn size(request: &Request) -> usize {
    request.messages.iter().map(|message| message.body.len()).sum()
}

impl Item {
    fn fail(&mut self, fault: &Fault) {
        self.outcome = Some(Published::Failed { fault: fault.clone(), uncertain: self.uncertain });
    }

    /// The broker said no to this very message.
    fn refuse(&mut self, fault: &Fault) {
        self.outcome = Some(Published::Failed { fault: fault.clone(), uncertain: false });
    }
}

/// Publishes these on a channel and waits for their confirms. What has no outcome afterwards is unknown, for the reason that is given.
async fn publish_round(line: &Line, channel: &Channel, items: &mut [&mut Item], until: Instant) -> Option<Fault> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let mut publishing: Vec<_> = items
        .iter()
        .map(|item| {
            let message = item.message.clone();
            let channel = channel.clone();
            Box::pin(async move {
                let confirm = channel.basic_publish("".into(), message.queue, options, &message.body, message.properties).await?;
                confirm.await
            })
        })
        .collect();
    let mut fault = None;
    let mut returned = HashSet::new();
    // Each is sent when it is first polled: in this order, and without waiting for one another.
    let begun: Vec<_> = publishing.iter_mut().map(|one| one.now_or_never()).collect();
    for ((item, one), begun) in items.iter_mut().zip(publishing).zip(begun) {
        item.uncertain = true;
        let confirmed = match begun {
            Some(ended) => Ok(ended),
            None => match line.down.run_until_cancelled(timeout_at(until, one)).await {
                Some(Ok(ended)) => Ok(ended),
                Some(Err(_)) if line.blocked.borrow().is_some() => Err(blocking()),
                Some(Err(_)) | None => Err(Fault::timeout()),
            },
        };
        match confirmed.and_then(|ended| ended.map_err(Fault::from)) {
            Ok(Confirmation::Ack(other)) => {
                returned.extend(other.and_then(|message| message.delivery.properties.message_id().clone()));
                item.outcome = Some(Published::Safe);
            }
            Ok(Confirmation::Nack(other)) => {
                returned.extend(other.and_then(|message| message.delivery.properties.message_id().clone()));
                item.outcome = Some(Published::Declined);
            }
            Ok(Confirmation::NotRequested) => item.fail(&Fault::new(ErrorKind::Protocol, "the channel has no confirms")),
            Err(why) => fault = Some(why),
        }
    }
    for item in items {
        if matches!(&item.outcome, Some(Published::Safe | Published::Declined))
            && item.message.properties.message_id().as_ref().is_some_and(|id| returned.contains(id))
        {
            item.outcome = Some(Published::Unroutable);
        }
    }
    fault
}

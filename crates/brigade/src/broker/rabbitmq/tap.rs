//! What takes jobs from one queue.
//!
//! Whoever wants jobs *asks*; the tap sees to it that the broker sends as many as are asked for and no more: consumers with as much room
//! (prefetch) as there are asks that nothing has come for. What is in somebody's hands takes up its consumer's room until it is settled, so a
//! worker that asks for ten and holds three is sent seven. What came for an ask that has ended by then is *ready* for the next one; if none
//! comes within the hand-back time, consumers are cancelled and it goes back to the broker, where it was in its queue.
//!
//! One task per tap changes its consumers (`drive`); everybody may look at the state and poke it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::RabbitMqCore;
use super::acks::{Opened, Said};
use super::fault::Fault;
use super::held::Grip;
use super::message::{Envelope, short};
use super::topology::{PATIENCE, Spot};
use crate::error::ErrorKind;
use crate::sync::lock;

/// What nobody asked for stays here for so long at most: long enough for who settles a job and asks for the next.
pub(super) const HAND_BACK: Duration = Duration::from_millis(200);
/// After something failed.
const AGAIN: Duration = Duration::from_millis(200);
/// After the broker refused: somebody has to change something.
const AGAIN_REFUSED: Duration = Duration::from_secs(2);
/// Patience grows with the failures, up to half a minute.
const FAILURES_MAX: u32 = 12;
/// Far longer than any attempt.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

pub(super) struct Tap {
    pub(super) queue: Box<str>,
    state: Mutex<State>,
    poke: Notify,
    /// It was said that its jobs may run for longer than the broker lets a delivery be held.
    warned_of_time: AtomicBool,
    /// Held while a channel is opened.
    opening: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    /// How many jobs each ask still wants.
    asks: BTreeMap<u64, usize>,
    next_number: u64,
    /// By their place in the channel's order.
    ready: VecDeque<(Grip, Arc<Envelope>)>,
    opened: Option<Arc<Opened>>,
    consumers: Vec<Consumer>,
    /// Since when more could come than is asked for.
    over_since: Option<Instant>,
    /// Why nothing comes.
    fault: Option<Fault>,
    /// Tries to begin taking, since one that went well.
    failures: u32,
}

struct Consumer {
    number: u64,
    tag: ShortString,
    /// As many the broker sends at once.
    room: usize,
    /// Deliveries that nothing has been said of.
    taken: usize,
    /// Deliveries may still come.
    is_open: bool,
}

enum Plan {
    Rest,
    RestUntil(Instant),
    Consume(usize),
    HandBack,
}

/// What was taken to be handed out; what is left of it when whoever took it goes away is here again.
pub(super) struct Taken {
    tap: Arc<Tap>,
    left: VecDeque<(Grip, Arc<Envelope>)>,
}

impl Taken {
    pub(super) fn first(&self) -> Option<(Grip, Arc<Envelope>)> {
        self.left.front().cloned()
    }

    /// It is another's to care for.
    pub(super) fn drop_first(&mut self) {
        self.left.pop_front();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let mut state = lock(&self.tap.state);
        for one in self.left.drain(..).rev() {
            // With its channel, it is another's by now.
            if one.0.opened.is_alive() {
                state.ready.push_front(one);
            }
        }
        drop(state);
        self.tap.poke.notify_one();
    }
}

/// An ask, for as long as it lives.
pub(super) struct Ask {
    tap: Arc<Tap>,
    number: u64,
}

impl Drop for Ask {
    fn drop(&mut self) {
        lock(&self.tap.state).asks.remove(&self.number);
        self.tap.poke.notify_one();
    }
}

impl Tap {
    pub(super) fn new(queue: &str) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.into(),
            state: Mutex::default(),
            poke: Notify::new(),
            warned_of_time: AtomicBool::new(false),
            opening: AsyncMutex::default(),
        })
    }

    pub(super) fn ask(self: &Arc<Self>, count: usize) -> Ask {
        let mut state = lock(&self.state);
        state.next_number += 1;
        let number = state.next_number;
        state.asks.insert(number, count);
        drop(state);
        self.poke.notify_one();
        Ask { tap: Arc::clone(self), number }
    }

    /// What is here already.
    pub(super) fn take(self: &Arc<Self>, max: usize) -> Taken {
        let mut state = lock(&self.state);
        let count = max.min(state.ready.len());
        Taken { tap: Arc::clone(self), left: state.ready.drain(..count).collect() }
    }

    /// Whoever asked takes nothing more for now: what nobody asks for goes back at once.
    pub(super) fn hurry(&self) {
        lock(&self.state).over_since = Instant::now().checked_sub(HAND_BACK);
        self.poke.notify_one();
    }

    /// Why nothing can come, if somebody has to change something first.
    pub(super) fn refusal(&self) -> Option<Fault> {
        lock(&self.state).fault.clone().filter(Fault::is_lasting)
    }

    /// Asks the broker for one job now; `false` if there is none.
    pub(super) async fn fetch(self: &Arc<Self>, core: &Arc<RabbitMqCore>) -> Result<bool, Fault> {
        let opened = self.opened(core).await?;
        let (tap, core, (tell, told)) = (Arc::clone(self), Arc::clone(core), oneshot::channel());
        let scope = core.scope.clone();
        // In a task of its own: what is on its way when whoever asked goes away must be noted.
        scope.spawn_until_closed(async move {
            let got = async {
                let name = short(&core.topology.name(&Spot::Jobs(tap.queue.clone()))).map_err(|_| too_long())?;
                opened.line.answer(opened.channel.basic_get(name, BasicGetOptions { no_ack: false })).await
            };
            let answer = match got.await {
                Ok(None) => Ok(false),
                Ok(Some(message)) => {
                    tap.arrived(&core, &opened, 0, message.delivery);
                    Ok(true)
                }
                Err(fault) => {
                    tap.fail(&core, &opened, &fault);
                    Err(fault)
                }
            };
            tell.send(answer).ok();
        });
        told.await.unwrap_or_else(|_| Err(Fault::new(ErrorKind::Closed, "the broker was dropped")))
    }

    /// The channel there is, or a new one; the queue is there then.
    async fn opened(&self, core: &Arc<RabbitMqCore>) -> Result<Arc<Opened>, Fault> {
        let _opening = self.opening.lock().await;
        if let Some(opened) = lock(&self.state).opened.as_ref().filter(|opened| opened.is_alive()) {
            return Ok(Arc::clone(opened));
        }
        let line = core.hands_link.line().await?;
        core.topology.declare_on(&line, &Spot::Jobs(self.queue.clone())).await?;
        if let Ok(name) = short(&core.topology.name(&Spot::Jobs(self.queue.clone()))) {
            core.served.is_heard(&name).await;
        }
        let channel = line.channel().await?;
        let opened = Opened::start(core.next_number(), line, channel, &core.scope);
        let before = lock(&self.state).opened.replace(Arc::clone(&opened));
        if let Some(before) = before {
            self.end(core, &before);
        }
        Ok(opened)
    }

    /// Something went wrong on a channel: it is over.
    fn fail(&self, core: &RabbitMqCore, opened: &Arc<Opened>, fault: &Fault) {
        tracing::warn!(%fault, queue = self.queue, "a channel that took jobs failed");
        core.learn(fault);
        self.end(core, opened);
    }

    /// A channel is over, and all that came by it is another's by now.
    fn end(&self, core: &RabbitMqCore, opened: &Arc<Opened>) {
        opened.dead.cancel();
        {
            let mut state = lock(&self.state);
            state.ready.retain(|(grip, _)| grip.opened.number != opened.number);
            if state.opened.as_ref().is_none_or(|current| current.number == opened.number) {
                state.opened = None;
                state.consumers.clear();
            }
        }
        core.lose(opened.number);
        self.poke.notify_one();
    }

    /// Nothing more will be said of it.
    pub(super) fn released(&self, grip: &Grip) {
        let mut state = lock(&self.state);
        if let Some(consumer) = state.consumers.iter_mut().find(|consumer| consumer.number == grip.consumer) {
            consumer.taken = consumer.taken.saturating_sub(1);
        }
        drop(state);
        self.poke.notify_one();
    }

    /// Ends the consumer that this came by, so that nothing is sent in its stead when it is acked.
    pub(super) async fn close_consumer(&self, grip: &Grip) {
        let tag = {
            let mut state = lock(&self.state);
            let consumer = state.consumers.iter_mut().find(|consumer| consumer.number == grip.consumer);
            consumer.and_then(|consumer| std::mem::take(&mut consumer.is_open).then(|| consumer.tag.clone()))
        };
        let Some(tag) = tag else { return };
        let cancelling = grip.opened.channel.basic_cancel(tag, BasicCancelOptions { nowait: false });
        // It ends with its channel in any case.
        grip.opened.line.answer(cancelling).await.ok();
    }

    /// Whether to say it: once.
    pub(super) fn warns_of_time(&self) -> bool {
        !self.warned_of_time.swap(true, Ordering::Relaxed)
    }

    /// Keeps as many deliveries coming as are asked for, for ever.
    pub(super) async fn drive(self: Arc<Self>, core: Arc<RabbitMqCore>) {
        loop {
            let done = match self.plan() {
                Plan::Rest => {
                    self.poke.notified().await;
                    Ok(())
                }
                Plan::RestUntil(end) => {
                    tokio::select! {
                        () = self.poke.notified() => {}
                        () = sleep_until(end) => {}
                    }
                    Ok(())
                }
                Plan::Consume(room) => self.consume(&core, room).await,
                Plan::HandBack => self.hand_back().await,
            };
            let fault = done.err();
            let is_new = fault.is_some() && lock(&self.state).fault.is_none();
            lock(&self.state).fault.clone_from(&fault);
            if let Some(fault) = fault {
                if is_new {
                    tracing::warn!(%fault, queue = self.queue, "could not take jobs; trying again");
                }
                core.news.notify_waiters();
                let opened = lock(&self.state).opened.clone();
                if let Some(opened) = opened.filter(|opened| !opened.is_alive()) {
                    self.end(&core, &opened);
                }
                sleep(if fault.is_lasting() { AGAIN_REFUSED } else { AGAIN }).await;
            }
        }
    }

    fn plan(&self) -> Plan {
        let mut state = lock(&self.state);
        if state.opened.as_ref().is_some_and(|opened| opened.dead.is_cancelled()) {
            state.consumers.clear();
        }
        state.consumers.retain(|consumer| consumer.is_open || consumer.taken > 0);
        let asked: usize = state.asks.values().sum();
        let wanted = asked.saturating_sub(state.ready.len());
        let free: usize = state.consumers.iter().filter(|consumer| consumer.is_open).map(|one| one.room.saturating_sub(one.taken)).sum();
        if wanted > free {
            state.over_since = None;
            return Plan::Consume(wanted - free);
        }
        if free == wanted && state.ready.len() <= asked {
            state.over_since = None;
            return Plan::Rest;
        }
        let since = *state.over_since.get_or_insert_with(Instant::now);
        if since.elapsed() < HAND_BACK {
            return Plan::RestUntil(since + HAND_BACK);
        }
        state.over_since = None;
        Plan::HandBack
    }

    async fn consume(self: &Arc<Self>, core: &Arc<RabbitMqCore>, room: usize) -> Result<(), Fault> {
        let opened = self.opened(core).await?;
        let prefetch = u16::try_from(room).unwrap_or(u16::MAX);
        let (number, tag, patience) = {
            let mut state = lock(&self.state);
            state.next_number += 1;
            state.failures = (state.failures + 1).min(FAILURES_MAX);
            let number = state.next_number;
            let tag: ShortString = format!("brigade-{}-{}-{number}", std::process::id(), opened.number).into();
            state.consumers.push(Consumer { number, tag: tag.clone(), room: prefetch.into(), taken: 0, is_open: true });
            (number, tag, state.failures)
        };
        let name = short(&core.topology.name(&Spot::Jobs(self.queue.clone()))).map_err(|_| too_long())?;
        let consuming = async {
            opened.line.answer(opened.channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
            // As a declaration, it may hang.
            let consuming = opened.channel.basic_consume(name, tag, BasicConsumeOptions::default(), hold_long());
            // What is held by this channel would be lost with it.
            let held = lock(&core.hands).holds_by(opened.number);
            opened.line.answer_within(if held { Duration::MAX } else { PATIENCE * patience }, consuming).await
        };
        match consuming.await {
            Ok(deliveries) => {
                lock(&self.state).failures = 0;
                let (tap, core) = (Arc::clone(self), Arc::clone(core));
                let scope = core.scope.clone();
                scope.spawn_until_closed(async move { tap.read(&core, &opened, number, deliveries).await });
                Ok(())
            }
            Err(fault) => {
                self.end(core, &opened);
                Err(fault)
            }
        }
    }

    /// Reads a consumer's deliveries until there are no more.
    async fn read(self: &Arc<Self>, core: &Arc<RabbitMqCore>, opened: &Arc<Opened>, number: u64, mut deliveries: lapin::Consumer) {
        loop {
            match opened.dead.run_until_cancelled(deliveries.next()).await {
                None => return self.end(core, opened),
                Some(Some(Ok(delivery))) => self.arrived(core, opened, number, delivery),
                Some(Some(Err(error))) => return self.fail(core, opened, &error.into()),
                Some(None) => break,
            }
        }
        let was_asked = {
            let mut state = lock(&self.state);
            let consumer = state.consumers.iter_mut().find(|consumer| consumer.number == number);
            consumer.is_none_or(|consumer| !std::mem::take(&mut consumer.is_open))
        };
        if !opened.is_alive() {
            return self.end(core, opened);
        }
        if !was_asked {
            tracing::error!(queue = self.queue, "the broker ended the taking from this queue: somebody deleted it; declaring it again");
            // What was held of it is gone with it.
            self.end(core, opened);
        }
        self.poke.notify_one();
    }

    fn arrived(self: &Arc<Self>, core: &Arc<RabbitMqCore>, opened: &Arc<Opened>, consumer: u64, delivery: Delivery) {
        opened.note(delivery.delivery_tag);
        let grip = Grip::new(opened, delivery.delivery_tag, consumer);
        {
            let mut state = lock(&self.state);
            if let Some(consumer) = state.consumers.iter_mut().find(|one| one.number == consumer) {
                consumer.taken += 1;
            }
        }
        let Some(envelope) = core.admit(self, &grip, delivery) else { return };
        let mut state = lock(&self.state);
        let place = state.ready.iter().rposition(|(before, _)| before.tag < grip.tag).map_or(0, |place| place + 1);
        state.ready.insert(place, (grip, Arc::new(envelope)));
        drop(state);
        core.news.notify_waiters();
    }

    /// Ends all consumers and gives back what nobody asked for.
    async fn hand_back(&self) -> Result<(), Fault> {
        let (opened, tags) = {
            let mut state = lock(&self.state);
            let close = |consumer: &mut Consumer| std::mem::take(&mut consumer.is_open).then(|| consumer.tag.clone());
            let tags: Vec<ShortString> = state.consumers.iter_mut().filter_map(close).collect();
            (state.opened.clone(), tags)
        };
        let Some(opened) = opened else { return Ok(()) };
        for tag in tags {
            // Whatever came before its answer has been read by then, or is read at once.
            opened.line.answer(opened.channel.basic_cancel(tag, BasicCancelOptions { nowait: false })).await?;
        }
        let surplus: Vec<_> = {
            let mut state = lock(&self.state);
            let asked = state.asks.values().sum::<usize>().min(state.ready.len());
            state.ready.drain(asked..).collect()
        };
        let back = surplus.iter().map(async |(grip, _)| {
            let said = grip.opened.say(vec![grip.tag], Said::Requeue).await;
            self.released(grip);
            said
        });
        join_all(back).await.into_iter().collect()
    }
}

/// What a consumer asks for: to hold for far longer than any attempt takes. Brokers before 3.11.15 do not hear it, see `park`.
pub(super) fn hold_long() -> FieldTable {
    let mut arguments = FieldTable::default();
    let timeout = i64::try_from(CONSUMER_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(timeout));
    arguments
}

fn too_long() -> Fault {
    Fault::new(ErrorKind::BadOption, "its name is too long")
}

//! The consumer of one queue.
//!
//! A lease request *asks* for jobs. The queue consumer has the broker send as many jobs as are
//! asked for, and no more: it opens AMQP consumers with as much room (prefetch) as there are asks
//! without a job. A leased job takes up room until it is settled, so a worker that asks for ten and
//! holds three is sent seven. A job that arrives after its ask has ended is *ready* for the next
//! ask. If no ask comes within the hand-back time, the queue consumer cancels its AMQP consumers,
//! and the job goes back to its place in the queue.
//!
//! Jobs are handed out in the order in which the broker sent them. Several tasks read the
//! deliveries of one channel, so a later one may be ready first: it is not handed out before the
//! earlier ones are ready, too.
//!
//! One task for each queue consumer changes its AMQP consumers (`drive`). Other code changes what
//! is asked for, and wakes that task. Deliveries know only the `subscriptions` of their queue.

mod channel;
mod take;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::message::Delivery as Received;
use lapin::types::FieldTable;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::consumer_channel::ConsumerChannel;
use super::consumer_channel::Delivery;
use super::fault::AmqpFault;
use super::intake::Intake;
use super::message::Envelope;
use super::pause::Pauses;
use super::subscriptions::Subscriptions;
use super::topology::QueueKind;
use super::values::{millis, table};
use crate::sync::lock;

/// How long a job stays here that is not asked for: long enough to settle a job and ask for the
/// next.
pub(super) const HAND_BACK: Duration = Duration::from_millis(200);
/// Before it is asked again whether a queue has something that is not here yet.
const FENCE_PAUSE: Duration = Duration::from_millis(5);
/// Deliveries of a classic queue are counted for so long, and so many: after a restart of the
/// server all that waits may be marked as handed out before.
const COUNTS_FOR: Duration = Duration::from_secs(600);
const COUNTED_MAX: u32 = 256;
/// The map of queue consumers, and its task.
const RESTING_USERS: usize = 2;
/// Patience grows with the failures, up to half a minute.
const FAILURES_MAX: u32 = 12;
/// Far longer than any attempt.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// Places of queues in the set that a consumer of several queues has.
pub(super) type Places = Mutex<BTreeSet<usize>>;

pub(super) struct QueueConsumer {
    pub(super) queue: Box<str>,
    /// The same queue.
    kind: QueueKind,
    intake: Arc<Intake>,
    state: Mutex<ConsumerState>,
    /// Its AMQP consumers. Locked after `state`, if both are.
    subscriptions: Arc<Subscriptions>,
    /// When it began, and how many deliveries it has counted in a classic queue.
    since: Instant,
    counted: AtomicU32,
    /// Held while a channel is opened.
    opening: AsyncMutex<()>,
    /// Takes by a channel of its own, whatever the others do: it broke one.
    is_alone: AtomicBool,
    /// Of the consumers of several queues that this is one of: those of their queues that may have
    /// more, and its place there.
    groups: Mutex<Vec<(Weak<Places>, usize)>>,
}

#[derive(Default)]
struct ConsumerState {
    /// How many jobs each ask still wants; and whether it wants to know when there are none.
    asks: BTreeMap<u64, (usize, bool)>,
    /// Requests that fetch their jobs themselves. Each takes one that is ready.
    fetching: usize,
    /// One job is wanted when there is one, for the next ask.
    listens: bool,
    /// Questions in a row after which it was not known whether there are more.
    unsure: u32,
    /// This queue consumer is not needed any more.
    retired: bool,
    /// Since when nothing was asked.
    idle_since: Option<Instant>,
    next_number: u64,
    /// By their place in the channel's order.
    ready: VecDeque<(Delivery, Arc<Envelope>)>,
    opened: Option<Arc<ConsumerChannel>>,
    /// Since when more could come than is asked for.
    over_since: Option<Instant>,
    /// What is not asked for goes back without a pause.
    hurries: bool,
    /// Why nothing comes.
    fault: Option<AmqpFault>,
    /// Tries to begin taking, since one that went well.
    failures: u32,
}

impl ConsumerState {
    /// How many jobs are asked for.
    fn asked(&self) -> usize {
        self.asks.values().map(|(count, _)| count).sum()
    }

    /// So many that are ready do not go back.
    fn kept(&self) -> usize {
        self.asked() + self.fetching
    }

    /// Since when a job is ready that is not asked for.
    fn surplus(&self) -> Option<Instant> {
        let (delivery, _) = self.ready.get(self.kept())?;
        Some(delivery.since().into())
    }

    /// A job is ready.
    fn put(&mut self, delivery: Delivery, envelope: Arc<Envelope>) {
        let before = |(before, _): &(Delivery, _)| before.tag < delivery.tag;
        let place = self.ready.partition_point(before);
        self.ready.insert(place, (delivery, envelope));
    }
}

enum Plan {
    /// It is not needed any more.
    End,
    Rest,
    RestUntil(Instant),
    Consume(usize),
    Fence,
    HandBack,
}

impl QueueConsumer {
    pub(super) fn new(intake: &Arc<Intake>, queue: &str) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.into(),
            kind: QueueKind::Jobs(queue.into()),
            intake: Arc::clone(intake),
            state: Mutex::default(),
            subscriptions: Arc::default(),
            since: Instant::now(),
            counted: AtomicU32::new(0),
            opening: AsyncMutex::default(),
            is_alone: AtomicBool::new(false),
            groups: Mutex::default(),
        })
    }

    /// Asks for so many jobs; `knows`: and wants to know when there are none.
    pub(super) fn ask(self: &Arc<Self>, count: usize, knows: bool) -> Ask {
        let mut state = lock(&self.state);
        state.next_number += 1;
        let number = state.next_number;
        state.asks.insert(number, (count, knows));
        state.idle_since = None;
        drop(state);
        self.subscriptions.wake();
        Ask {
            source: Arc::clone(self),
            number,
        }
    }

    /// Has one job come as soon as there is one, or not any more.
    pub(super) fn listen(&self, listens: bool) {
        let mut state = lock(&self.state);
        let is_new = std::mem::replace(&mut state.listens, listens) != listens;
        drop(state);
        if is_new {
            self.subscriptions.wake();
        }
    }

    /// Whether the queue has no job, as far as is known: the next one would be here at once.
    pub(super) fn is_dry(&self) -> bool {
        let state = lock(&self.state);
        let opened = state.opened.as_ref();
        state.ready.is_empty()
            && opened.is_some_and(|opened| opened.is_alive())
            && self.subscriptions.has_room(true)
    }

    /// Something is wrong with it, so that no ask need wait for it.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).fault.is_some()
    }

    /// Puts the place of its queue into this set whenever the queue may have more jobs.
    pub(super) fn join(&self, some: &Arc<Places>, place: usize) {
        let mut groups = lock(&self.groups);
        groups.retain(|(group, _)| group.strong_count() > 0);
        groups.push((Arc::downgrade(some), place));
    }

    /// The queue may have more jobs.
    fn notify_groups(&self) {
        for (group, place) in &*lock(&self.groups) {
            if let Some(some) = group.upgrade() {
                lock(&some).insert(*place);
            }
        }
    }

    /// Ends it if it has not been used for so long and cannot be now: `users` counts references.
    pub(super) fn retire(&self, users: usize, after: Duration) -> bool {
        let mut state = lock(&self.state);
        let is_idle = users <= RESTING_USERS
            && state.asks.is_empty()
            && state.ready.is_empty()
            && self.subscriptions.is_empty()
            && !self.intake.leases.table().holds_queue(&self.queue)
            && !state.listens;
        if !is_idle {
            state.idle_since = None;
            return false;
        }
        state.retired = state.idle_since.get_or_insert_with(Instant::now).elapsed() >= after;
        let retired = state.retired;
        drop(state);
        if retired {
            self.subscriptions.wake();
        }
        retired
    }

    /// Takes jobs that are ready.
    pub(super) fn take(self: &Arc<Self>, max: usize) -> Taken {
        let mut state = lock(&self.state);
        let in_order = state.ready.iter();
        let in_order = in_order.take_while(|(delivery, _)| delivery.is_next());
        let count = in_order.take(max).count();
        Taken {
            source: Arc::clone(self),
            left: state.ready.drain(..count).collect(),
        }
    }

    /// Announces a request that fetches its jobs itself, for as long as the guard lives.
    pub(super) fn fetching(self: &Arc<Self>) -> Fetching {
        lock(&self.state).fetching += 1;
        Fetching(Arc::clone(self))
    }

    /// No ask will follow soon: jobs that are not asked for go back at once.
    pub(super) fn hurry(&self) {
        lock(&self.state).hurries = true;
        self.subscriptions.wake();
    }

    /// Why nothing can come, if a person has to change something first.
    pub(super) fn refusal(&self) -> Option<AmqpFault> {
        lock(&self.state)
            .fault
            .clone()
            .filter(AmqpFault::is_lasting)
    }

    /// Whether a delivery that was handed out before is counted now, by writing it again. A job
    /// that kills its consumers meets new ones again and again, while what others give back to its
    /// place comes to old ones too and is to keep its place.
    pub(super) fn counts_deliveries(&self) -> bool {
        self.since.elapsed() < COUNTS_FOR
            && self.counted.fetch_add(1, Ordering::Relaxed) < COUNTED_MAX
    }

    /// Keeps as many deliveries coming as are asked for, for ever.
    pub(super) async fn drive(self: Arc<Self>) {
        let news = &self.intake.news;
        let mut pauses = Pauses::default();
        loop {
            let done = match self.plan() {
                Plan::End => return,
                Plan::Rest => {
                    self.subscriptions.changed().await;
                    Ok(())
                }
                Plan::RestUntil(end) => {
                    tokio::select! {
                        () = self.subscriptions.changed() => {}
                        () = sleep_until(end) => {}
                    }
                    Ok(())
                }
                Plan::Consume(room) => {
                    let consuming = self.consume(room).await;
                    news.notify_waiters();
                    consuming.inspect(|()| pauses.reset())
                }
                Plan::Fence => {
                    let fencing = self.fence().await;
                    news.notify_waiters();
                    fencing
                }
                Plan::HandBack => self.hand_back().await,
            };
            let fault = done.err();
            let is_new = fault.is_some() && lock(&self.state).fault.is_none();
            lock(&self.state).fault.clone_from(&fault);
            if let Some(fault) = fault {
                if is_new {
                    tracing::warn!(%fault, queue = self.queue, "could not take jobs; trying again");
                }
                news.notify_waiters();
                let opened = lock(&self.state).opened.clone();
                if let Some(opened) = opened.filter(|opened| !opened.is_alive()) {
                    self.end(&opened);
                }
                sleep(pauses.after(&fault)).await;
            }
        }
    }

    fn plan(&self) -> Plan {
        let mut state = lock(&self.state);
        if state.retired {
            return Plan::End;
        }
        if state
            .opened
            .as_ref()
            .is_some_and(|opened| opened.dead.is_cancelled())
        {
            self.subscriptions.clear();
        }
        let wanted = state
            .asked()
            .max(state.listens.into())
            .saturating_sub(state.ready.len());
        let free = self.subscriptions.free();
        if wanted > free {
            state.over_since = None;
            return Plan::Consume(wanted - free);
        }
        if self.subscriptions.has_room(false)
            && state.ready.is_empty()
            && (state.listens || state.asks.values().any(|(_, knows)| *knows))
        {
            return Plan::Fence;
        }
        if free > wanted {
            state.over_since.get_or_insert_with(Instant::now);
        } else {
            state.over_since = None;
        }
        let surplus = state.surplus();
        let Some(since) = state.over_since.into_iter().chain(surplus).min() else {
            state.hurries = false;
            return Plan::Rest;
        };
        if !state.hurries && since.elapsed() < HAND_BACK {
            return Plan::RestUntil(since + HAND_BACK);
        }
        state.over_since = None;
        Plan::HandBack
    }

    /// A delivery came: by the subscription of that number, or as it was asked for.
    fn arrived(
        self: &Arc<Self>,
        opened: &Arc<ConsumerChannel>,
        subscription: Option<u64>,
        received: Received,
    ) {
        let tag = received.delivery_tag;
        let read = self.intake.read_job(&self.queue, received);
        let subscription = subscription.map(|number| (Arc::clone(&self.subscriptions), number));
        let mut state = lock(&self.state);
        // There may be more. First, as the room that it takes up is not to be given again.
        state.listens = false;
        // It is noted and ready in one step: a later one is handed out as soon as it is noted.
        let delivery = Delivery::new(opened, tag, subscription);
        if let Some(envelope) = self.intake.admit(&self.queue, &delivery, read) {
            state.put(delivery, Arc::new(envelope));
        }
        let is_over = state.surplus().is_some();
        drop(state);
        self.notify_groups();
        if is_over {
            // It took up its room before it was ready: a plan that was made in between rests.
            self.subscriptions.wake();
        }
        // Also if it is not handed out: later ones may have waited for it.
        self.intake.news.notify_waiters();
    }

    /// Ends all AMQP consumers and gives back the jobs that were not asked for.
    async fn hand_back(&self) -> Result<(), AmqpFault> {
        let Some(opened) = lock(&self.state).opened.clone() else {
            return Ok(());
        };
        for tag in self.subscriptions.close_all() {
            let cancelled = opened.connection.cancel(&opened.channel, tag).await;
            // The broker would go on sending jobs by those that are left.
            cancelled.inspect_err(|fault| self.fail(&opened, fault))?;
        }
        // Their readers have been woken by what came before the answers.
        yield_now().await;
        let surplus: Vec<_> = {
            let mut state = lock(&self.state);
            let hurries = std::mem::take(&mut state.hurries);
            let is_old = |since: Instant| hurries || since.elapsed() >= HAND_BACK;
            // With the first of them go all behind it, which would overtake it here.
            let from = match state.surplus() {
                Some(since) if is_old(since) => state.kept(),
                _ => state.ready.len(),
            };
            state.ready.drain(from..).collect()
        };
        self.notify_groups();
        let back = surplus
            .iter()
            .map(|(delivery, envelope)| self.intake.give_back(delivery, envelope));
        join_all(back).await.into_iter().collect()
    }
}

/// Jobs that are being handed out. Those that are left when this is dropped are ready again.
pub(super) struct Taken {
    source: Arc<QueueConsumer>,
    left: VecDeque<(Delivery, Arc<Envelope>)>,
}

impl Taken {
    pub(super) fn first(&self) -> Option<(Delivery, Arc<Envelope>)> {
        self.left.front().cloned()
    }

    /// The first one is no longer kept here.
    pub(super) fn drop_first(&mut self) {
        self.left.pop_front();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let mut state = lock(&self.source.state);
        for (delivery, envelope) in self.left.drain(..) {
            // If its channel is gone, the broker gives it to another consumer.
            if delivery.is_alive() {
                state.put(delivery, envelope);
            }
        }
        drop(state);
        self.source.subscriptions.wake();
    }
}

/// An ask, for as long as it lives.
pub(super) struct Ask {
    source: Arc<QueueConsumer>,
    number: u64,
}

impl Drop for Ask {
    fn drop(&mut self) {
        lock(&self.source.state).asks.remove(&self.number);
        self.source.subscriptions.wake();
    }
}

/// A request that fetches its jobs itself, for as long as it lives.
pub(super) struct Fetching(Arc<QueueConsumer>);

impl Drop for Fetching {
    fn drop(&mut self) {
        lock(&self.0.state).fetching -= 1;
        self.0.subscriptions.wake();
    }
}

/// What a consumer asks for: to hold for far longer than any attempt takes. Brokers before 3.11.15
/// do not hear it, see `refresh`.
pub(super) fn hold_long() -> FieldTable {
    table([("x-consumer-timeout", millis(CONSUMER_TIMEOUT))])
}

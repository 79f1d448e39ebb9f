//! What takes jobs from one queue.
//!
//! A lease request *asks* for jobs; the queue consumer sees to it that the broker sends as many as
//! are asked for and no more: consumers with as much room (prefetch) as there are asks that nothing
//! has come for. What is leased takes up its consumer's room until it is settled, so a worker that
//! asks for ten and holds three is sent seven. What came for an ask that has ended by then is
//! *ready* for the next one; if none comes within the hand-back time, consumers are cancelled and
//! it goes back to the broker, where it was in its queue.
//!
//! One task per queue consumer changes its consumers (`drive`); everybody may look at the state and
//! poke it.

mod ask;
mod channel;
mod take;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::message::Delivery as Received;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep, sleep_until};

pub(super) use self::ask::{Ask, Taken};
use super::RabbitMqCore;
use super::consumer_channel::{AckAction, ConsumerChannel};
use super::fault::Fault;
use super::lease_table::Delivery;
use super::message::Envelope;
use super::pause::Pauses;
use super::queue_groups::QueueGroup;
use super::topology::QueueKind;
use super::values::{millis, table};
use crate::sync::lock;

/// What is not asked for stays here for so long at most: long enough to settle a job and ask
/// for the next.
pub(super) const HAND_BACK: Duration = Duration::from_millis(200);
/// Before it is asked again whether a queue has something that is not here yet.
const FENCE_PAUSE: Duration = Duration::from_millis(5);
/// What the broker has handed out so often does not go back as it is: a quorum queue that others
/// declared may give it up after 20 times.
const DELIVERIES_MAX: u64 = 10;
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

pub(super) struct QueueConsumer {
    pub(super) queue: Box<str>,
    /// The same queue.
    kind: QueueKind,
    state: Mutex<ConsumerState>,
    poke: Notify,
    /// It was said that its jobs may run for longer than the broker lets a delivery be held.
    warned_of_time: AtomicBool,
    /// When it began, and how many deliveries it has counted in a classic queue.
    since: Instant,
    counted: AtomicU32,
    /// Held while a channel is opened.
    opening: AsyncMutex<()>,
    /// Takes by a channel of its own, whatever the others do: it broke one.
    is_alone: AtomicBool,
    /// Consumers of several queues that this is one of, and its place there.
    groups: Mutex<Vec<(Weak<QueueGroup>, usize)>>,
}

#[derive(Default)]
struct ConsumerState {
    /// How many jobs each ask still wants; and whether it wants to know when there are none.
    asks: BTreeMap<u64, (usize, bool)>,
    /// One job is wanted when there is one, for the next ask.
    listens: bool,
    /// Deliveries that were let go of.
    releases: u64,
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
    subscriptions: Vec<Subscription>,
    /// Since when more could come than is asked for.
    over_since: Option<Instant>,
    /// Why nothing comes.
    fault: Option<Fault>,
    /// Tries to begin taking, since one that went well.
    failures: u32,
}

struct Subscription {
    number: u64,
    tag: ShortString,
    /// As many the broker sends at once.
    room: usize,
    /// Deliveries that nothing has been said of.
    taken: usize,
    /// Deliveries may still come.
    is_open: bool,
    /// Whatever the queue had is here, as long as there is room left.
    is_fenced: bool,
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
    pub(super) fn new(queue: &str) -> Arc<Self> {
        Arc::new(Self {
            queue: queue.into(),
            kind: QueueKind::Jobs(queue.into()),
            state: Mutex::default(),
            poke: Notify::new(),
            warned_of_time: AtomicBool::new(false),
            since: Instant::now(),
            counted: AtomicU32::new(0),
            opening: AsyncMutex::default(),
            is_alone: AtomicBool::new(false),
            groups: Mutex::default(),
        })
    }

    pub(super) fn ask(self: &Arc<Self>, count: usize) -> Ask {
        self.ask_for(count, false)
    }

    /// The same, and wants to know when there are none.
    pub(super) fn ask_or_know(self: &Arc<Self>, count: usize) -> Ask {
        self.ask_for(count, true)
    }

    fn ask_for(self: &Arc<Self>, count: usize, knows: bool) -> Ask {
        let mut state = lock(&self.state);
        state.next_number += 1;
        let number = state.next_number;
        state.asks.insert(number, (count, knows));
        state.idle_since = None;
        drop(state);
        self.poke.notify_one();
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
            self.poke.notify_one();
        }
    }

    /// Whether the queue has nothing, as far as is known: what came next would be here at once.
    pub(super) fn is_dry(&self) -> bool {
        let state = lock(&self.state);
        let has_room = |one: &Subscription| one.is_open && one.is_fenced && one.room > one.taken;
        state.ready.is_empty()
            && state
                .opened
                .as_ref()
                .is_some_and(|opened| opened.is_alive())
            && state.subscriptions.iter().any(has_room)
    }

    /// Something is wrong with it, so that no ask need wait for it.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).fault.is_some()
    }

    pub(super) fn join(&self, group: &Arc<QueueGroup>, place: usize) {
        let mut groups = lock(&self.groups);
        groups.retain(|(group, _)| group.strong_count() > 0);
        groups.push((Arc::downgrade(group), place));
    }

    /// There may be more than what is here.
    fn tell_groups(&self) {
        for (group, place) in &*lock(&self.groups) {
            if let Some(group) = group.upgrade() {
                group.has_some(*place);
            }
        }
    }

    /// Ends it if it has not been used for so long and cannot be now: `users` counts references.
    pub(super) fn retire(&self, users: usize, after: Duration) -> bool {
        let mut state = lock(&self.state);
        let is_idle = users <= RESTING_USERS
            && state.asks.is_empty()
            && state.ready.is_empty()
            && state.subscriptions.is_empty()
            && !state.listens;
        if !is_idle {
            state.idle_since = None;
            return false;
        }
        state.retired = state.idle_since.get_or_insert_with(Instant::now).elapsed() >= after;
        let retired = state.retired;
        drop(state);
        if retired {
            self.poke.notify_one();
        }
        retired
    }

    /// What is here already.
    pub(super) fn take(self: &Arc<Self>, max: usize) -> Taken {
        let mut state = lock(&self.state);
        let count = max.min(state.ready.len());
        Taken {
            source: Arc::clone(self),
            left: state.ready.drain(..count).collect(),
        }
    }

    /// The asks end for now: what is not asked for goes back at once.
    pub(super) fn hurry(&self) {
        lock(&self.state).over_since = Instant::now().checked_sub(HAND_BACK);
        self.poke.notify_one();
    }

    /// Why nothing can come, if a person has to change something first.
    pub(super) fn refusal(&self) -> Option<Fault> {
        lock(&self.state).fault.clone().filter(Fault::is_lasting)
    }

    /// Whether a delivery that was handed out before is counted now, by writing it again. A job
    /// that kills its consumers meets new ones again and again, while what others give back to its
    /// place comes to old ones too and is to keep its place.
    pub(super) fn counts_deliveries(&self) -> bool {
        self.since.elapsed() < COUNTS_FOR
            && self.counted.fetch_add(1, Ordering::Relaxed) < COUNTED_MAX
    }

    /// Whether to say it: once.
    pub(super) fn warns_of_time(&self) -> bool {
        !self.warned_of_time.swap(true, Ordering::Relaxed)
    }

    /// Keeps as many deliveries coming as are asked for, for ever.
    pub(super) async fn drive(self: Arc<Self>, core: Arc<RabbitMqCore>) {
        let mut pauses = Pauses::default();
        loop {
            let done = match self.plan() {
                Plan::End => return,
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
                Plan::Consume(room) => {
                    let consuming = self.consume(&core, room).await;
                    core.consumers.news.notify_waiters();
                    consuming.inspect(|()| pauses.reset())
                }
                Plan::Fence => {
                    let fencing = self.fence(&core).await;
                    core.consumers.news.notify_waiters();
                    fencing
                }
                Plan::HandBack => self.hand_back(&core).await,
            };
            let fault = done.err();
            let is_new = fault.is_some() && lock(&self.state).fault.is_none();
            lock(&self.state).fault.clone_from(&fault);
            if let Some(fault) = fault {
                if is_new {
                    tracing::warn!(%fault, queue = self.queue, "could not take jobs; trying again");
                }
                core.consumers.news.notify_waiters();
                let opened = lock(&self.state).opened.clone();
                if let Some(opened) = opened.filter(|opened| !opened.is_alive()) {
                    self.end(&core, &opened);
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
            state.subscriptions.clear();
        }
        state
            .subscriptions
            .retain(|subscription| subscription.is_open || subscription.taken > 0);
        let asked: usize = state.asks.values().map(|(count, _)| count).sum();
        let wanted = asked
            .max(state.listens.into())
            .saturating_sub(state.ready.len());
        let free: usize = state
            .subscriptions
            .iter()
            .filter(|subscription| subscription.is_open)
            .map(|one| one.room.saturating_sub(one.taken))
            .sum();
        if wanted > free {
            state.over_since = None;
            return Plan::Consume(wanted - free);
        }
        let is_unsure = state
            .subscriptions
            .iter()
            .any(|one| one.is_open && !one.is_fenced && one.room > one.taken);
        if is_unsure
            && state.ready.is_empty()
            && (state.listens || state.asks.values().any(|(_, knows)| *knows))
        {
            return Plan::Fence;
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

    fn arrived(
        self: &Arc<Self>,
        core: &Arc<RabbitMqCore>,
        opened: &Arc<ConsumerChannel>,
        subscription: u64,
        received: Received,
    ) {
        opened.note(received.delivery_tag);
        let delivery = Delivery::new(opened, received.delivery_tag, subscription);
        {
            let mut state = lock(&self.state);
            if let Some(subscription) = state
                .subscriptions
                .iter_mut()
                .find(|one| one.number == subscription)
            {
                subscription.taken += 1;
            }
            // There may be more.
            state.listens = false;
        }
        self.tell_groups();
        let Some(envelope) = core.admit(self, &delivery, received) else {
            return;
        };
        let mut state = lock(&self.state);
        let place = state
            .ready
            .iter()
            .rposition(|(before, _)| before.tag < delivery.tag)
            .map_or(0, |place| place + 1);
        state.ready.insert(place, (delivery, Arc::new(envelope)));
        drop(state);
        core.consumers.news.notify_waiters();
    }

    /// Ends all consumers and gives back what was not asked for.
    async fn hand_back(self: &Arc<Self>, core: &Arc<RabbitMqCore>) -> Result<(), Fault> {
        let (opened, tags) = {
            let mut state = lock(&self.state);
            let close = |subscription: &mut Subscription| {
                std::mem::take(&mut subscription.is_open).then(|| subscription.tag.clone())
            };
            let tags: Vec<ShortString> = state.subscriptions.iter_mut().filter_map(close).collect();
            (state.opened.clone(), tags)
        };
        let Some(opened) = opened else { return Ok(()) };
        for tag in tags {
            // Whatever came before its answer has been read by then, or is read at once.
            opened.connection.cancel(&opened.channel, tag).await?;
        }
        let surplus: Vec<_> = {
            let mut state = lock(&self.state);
            let asked = state
                .asks
                .values()
                .map(|(count, _)| count)
                .sum::<usize>()
                .min(state.ready.len());
            state.ready.drain(asked..).collect()
        };
        self.tell_groups();
        let back = surplus.iter().map(async |(delivery, envelope)| {
            if envelope.deliveries >= DELIVERIES_MAX {
                // The broker would give it up: as a new message it is counted from the beginning.
                core.hand_on(self, delivery.clone(), envelope, envelope.next());
                return Ok(());
            }
            core.leases.table().returns(envelope);
            let said = delivery
                .opened
                .acknowledge(vec![delivery.tag], AckAction::Requeue)
                .await;
            self.released(delivery);
            said
        });
        join_all(back).await.into_iter().collect()
    }
}

/// What a consumer asks for: to hold for far longer than any attempt takes. Brokers before 3.11.15
/// do not hear it, see `refresh`.
pub(super) fn hold_long() -> FieldTable {
    table([("x-consumer-timeout", millis(CONSUMER_TIMEOUT))])
}

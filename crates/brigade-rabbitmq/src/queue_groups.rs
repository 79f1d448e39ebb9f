//! A consumer of several queues: which of them is asked.
//!
//! The broker sends jobs of each queue that is consumed from as long as there is room, and knows
//! nothing of the others. So a queue that comes later in the order of an ask is asked only while
//! those before it have none, and most of the time each queue is only *listened* to: one job may
//! come.
//!
//! ```text
//!   unknown, has some --- asked; a fence says that nothing more is there ---> dry, listened to --- a job comes ---> has some
//! ```
//!
//! Of up to [`FEW`] queues nothing is listened to while there is no ask, so that a consumer with no
//! room attracts no jobs. With more, that would cost one consumer of each queue for each ask, so
//! they are listened to all the time, and an ask only looks at those that have some: a job that
//! comes while there is no ask goes back, and its queue is asked again in its turn.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::RabbitMqCore;
use super::queue_consumer::{Ask, QueueConsumer};
use super::topology::QueueKind;
use crate::clock::later;
use crate::error::Error;
use crate::sync::lock;
use brigade_core::store::{LeaseRequest, Leased, QueueSet, Queues};

/// So many queues are listened to only while there is an ask.
const FEW: usize = 64;
/// A queue that says nothing for so long holds up no other.
const STUCK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often unused queues are looked for, and after which time a queue counts as unused.
const TIDY_EVERY: Duration = Duration::from_secs(30);
const UNUSED_FOR: Duration = Duration::from_secs(120);

/// By the names that they were made of.
#[derive(Default)]
pub(super) struct QueueGroups(Mutex<Vec<Arc<QueueGroup>>>);

/// The queues of one consumer.
pub(super) struct QueueGroup {
    set: Arc<QueueSet>,
    /// As the names of the set.
    consumers: Vec<Arc<QueueConsumer>>,
    /// Those that may have more than is here, by their places.
    some: Mutex<BTreeSet<usize>>,
    /// Of many queues: they are listened to.
    is_armed: AtomicBool,
    /// Asks under way.
    active: AtomicUsize,
    used: Mutex<Instant>,
}

/// An ask, for as long as it lasts.
struct Using<'a>(&'a QueueGroup);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        *lock(&self.0.used) = Instant::now();
        if self.0.active.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_small() {
            self.0
                .consumers
                .iter()
                .for_each(|source| source.listen(false));
        }
    }
}

impl QueueGroup {
    fn is_small(&self) -> bool {
        self.consumers.len() <= FEW
    }

    /// There may be more in the queue of this place than is here.
    pub(super) fn has_some(&self, place: usize) {
        lock(&self.some).insert(place);
    }

    fn begin(&self) -> Using<'_> {
        self.active.fetch_add(1, Ordering::AcqRel);
        if self.is_small() || !self.is_armed.swap(true, Ordering::AcqRel) {
            let some = lock(&self.some).clone();
            let dry = self
                .consumers
                .iter()
                .enumerate()
                .filter(|(place, _)| !some.contains(place));
            dry.for_each(|(_, source)| source.listen(true));
        }
        Using(self)
    }

    /// Nothing more is wanted for now.
    fn end(&self) {
        self.is_armed.store(false, Ordering::Release);
        for source in &self.consumers {
            source.listen(false);
            source.hurry();
        }
    }

    /// Places in the order in which they are to be looked at.
    fn places(&self, queues: &Queues) -> Vec<usize> {
        if self.is_small() {
            return (0..queues.len()).map(|rank| queues.place(rank)).collect();
        }
        let mut places: Vec<usize> = lock(&self.some).iter().copied().collect();
        places.sort_by_cached_key(|place| queues.rank(&self.set.names()[*place]));
        places
    }

    fn is_dry(&self, place: usize) {
        lock(&self.some).remove(&place);
        self.consumers[place].listen(true);
    }
}

impl RabbitMqCore {
    fn group(self: &Arc<Self>, queues: &Queues) -> Result<Arc<QueueGroup>, Error> {
        let mut groups = lock(&self.consumers.groups.0);
        if let Some(group) = groups
            .iter()
            .find(|group| Arc::ptr_eq(&group.set, queues.set()))
        {
            return Ok(Arc::clone(group));
        }
        for queue in queues.names() {
            self.storage.topology.check_name(queue)?;
        }
        let group = Arc::new(QueueGroup {
            set: Arc::clone(queues.set()),
            consumers: queues
                .names()
                .iter()
                .map(|queue| self.consumer_of(queue))
                .collect(),
            some: Mutex::default(),
            is_armed: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
        });
        group
            .consumers
            .iter()
            .enumerate()
            .for_each(|(place, source)| source.join(&group, place));
        groups.push(Arc::clone(&group));
        Ok(group)
    }

    /// As many jobs as are wanted of several queues; waits for the first as long as the ask says.
    pub(super) async fn lease_of_several(
        self: &Arc<Self>,
        ask: &LeaseRequest,
    ) -> Result<Vec<Leased>, Error> {
        let group = self.group(&ask.queues)?;
        if ask.wait.is_zero() {
            let consumers: Vec<Arc<QueueConsumer>> = (0..ask.queues.len())
                .map(|rank| Arc::clone(&group.consumers[ask.queues.place(rank)]))
                .collect();
            return self.lease_now(&consumers, ask).await;
        }
        let until = later(Instant::now(), ask.wait);
        let _using = group.begin();
        let mut asks = HashMap::new();
        loop {
            let mut news = std::pin::pin!(self.consumers.news.notified());
            news.as_mut().enable();
            let found = self.walk(&group, ask, &mut asks).await;
            if ask.enough.is_cancelled() {
                group.end();
            }
            if !found.is_empty() || ask.enough.is_cancelled() {
                return Ok(found);
            }
            if Instant::now() >= until {
                let refusal = asks
                    .keys()
                    .find_map(|place: &usize| group.consumers[*place].refusal());
                return match refusal.or_else(|| self.consume_link.fault()) {
                    Some(fault) => Err(fault.into_error("lease")),
                    None => Ok(found),
                };
            }
            let look = if asks.is_empty() {
                until
            } else {
                until.min(later(Instant::now(), LOOK_AGAIN))
            };
            tokio::select! {
                () = news => {}
                () = sleep_until(look.into()) => {}
                () = ask.enough.cancelled() => {}
            }
        }
    }

    /// Looks at the queues in their order, as far as those before have none.
    async fn walk(
        self: &Arc<Self>,
        group: &QueueGroup,
        ask: &LeaseRequest,
        asks: &mut HashMap<usize, (Ask, Instant)>,
    ) -> Vec<Leased> {
        let mut found: Vec<Leased> = Vec::new();
        for place in group.places(&ask.queues) {
            let source = &group.consumers[place];
            found.extend(self.hand_out(source, ask.max - found.len(), ask.mode).await);
            if found.len() >= ask.max {
                break;
            }
            if source.is_dry() {
                asks.remove(&place);
                group.is_dry(place);
                continue;
            }
            let is_stuck = asks
                .get(&place)
                .is_some_and(|(_, since)| since.elapsed() > STUCK);
            if source.has_failed() || is_stuck {
                asks.entry(place)
                    .or_insert_with(|| (source.ask_or_know(ask.max), Instant::now()));
                continue;
            }
            if found.is_empty() {
                asks.entry(place)
                    .or_insert_with(|| (source.ask_or_know(ask.max), Instant::now()));
            }
            // Those behind wait until it is known to have no more.
            break;
        }
        found
    }

    /// Ends what is not used any more, for ever: consumers of several queues, and what takes
    /// from queues.
    pub(super) async fn tidy(self: Arc<Self>) {
        loop {
            sleep(TIDY_EVERY).await;
            self.tidy_groups();
            self.tidy_taps();
            self.tidy_refresh_queues().await;
        }
    }

    fn tidy_groups(&self) {
        let mut groups = lock(&self.consumers.groups.0);
        let is_used = |group: &Arc<QueueGroup>| {
            group.active.load(Ordering::Acquire) > 0 || lock(&group.used).elapsed() < UNUSED_FOR
        };
        let unused: Vec<Arc<QueueGroup>> = groups.extract_if(.., |group| !is_used(group)).collect();
        unused.iter().for_each(|group| group.end());
        if !unused.is_empty() {
            // They may have queues in common.
            groups
                .iter()
                .for_each(|group| group.is_armed.store(false, Ordering::Release));
        }
    }

    fn tidy_taps(&self) {
        let mut consumers = lock(&self.consumers.queues);
        consumers.retain(|queue, source| {
            let is_over = source.retire(Arc::strong_count(source), UNUSED_FOR);
            if is_over {
                let name = self.storage.topology.name(&QueueKind::Jobs(queue.clone()));
                self.served.remove(&name);
            }
            !is_over
        });
    }
}

//! Open queues: those that may have something to hand out, of the many that a consumer serves.
//!
//! A queue is *open* when it was never looked at, its notification arrived, something of it fell
//! due, or its last hand-out was a full one. Only open queues are asked for jobs (`probe`). As a
//! notification may be lost, and other programs may push to an inbox, all queues are opened from
//! time to time. This module only remembers; it does no IO.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::store::Queues;
use crate::sync::lock;

/// As many queues are asked one after the other, without all this.
pub(super) const FEW: usize = 16;
/// Queues that are remembered; beyond that they are looked at again.
const KNOWN_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct OpenQueues(Mutex<KnownQueues>);

#[derive(Default)]
struct KnownQueues {
    /// What is known of each queue that was looked at.
    queues: HashMap<Box<str>, QueueActivity>,
    /// Those that are open.
    open: HashSet<Box<str>>,
    /// When others open by time.
    due: BTreeMap<Instant, Vec<Box<str>>>,
    swept: Option<Instant>,
    /// How far a test had moved the clock.
    moved: (Duration, i64),
}

#[derive(Clone, Copy, PartialEq)]
enum QueueActivity {
    /// Not known to have anything.
    Suspect,
    /// It had something when it was looked at last.
    Hot,
    Closed,
}

impl KnownQueues {
    fn open(&mut self, queue: &str, state: QueueActivity) {
        if let Some(known) = self.queues.get_mut(queue) {
            *known = state;
            self.open.insert(queue.into());
        }
    }

    fn close(&mut self, queue: &str, due: Option<Duration>) {
        if let Some(known) = self.queues.get_mut(queue) {
            *known = QueueActivity::Closed;
        }
        self.open.remove(queue);
        if let Some(at) = due.and_then(|due| Instant::now().checked_add(due)) {
            self.due.entry(at).or_default().push(queue.into());
        }
    }

    /// Opens what has fallen due, and all from time to time.
    fn tick(&mut self, queues: &Queues, moved: (Duration, i64), sweep_every: Duration) {
        let now = Instant::now();
        let later = self.due.split_off(&now);
        for queue in std::mem::replace(&mut self.due, later)
            .into_values()
            .flatten()
        {
            self.open(&queue, QueueActivity::Suspect);
        }
        let is_new = self.moved != moved || self.queues.len() > KNOWN_MAX;
        if is_new {
            *self = Self {
                moved,
                ..Self::default()
            };
        }
        if self
            .swept
            .is_none_or(|swept| swept.elapsed() >= sweep_every)
        {
            self.swept = Some(now);
            self.due.clear();
            for queue in queues.names() {
                if self.queues.get(queue) != Some(&QueueActivity::Hot) {
                    self.queues.insert(queue.clone(), QueueActivity::Suspect);
                    self.open.insert(queue.clone());
                }
            }
        }
    }

    /// Of the open ones that are asked for, those in this state; in the order of the ask.
    fn asked(&self, queues: &Queues, state: QueueActivity, max: usize) -> Vec<Box<str>> {
        let is_it = |queue: &str| self.queues.get(queue) == Some(&state);
        if self.open.len() > FEW * 4 {
            return queues
                .iter()
                .filter(|queue| self.open.contains(*queue) && is_it(queue))
                .take(max)
                .cloned()
                .collect();
        }
        let mut found: Vec<_> = self
            .open
            .iter()
            .filter(|queue| is_it(queue))
            .filter_map(|queue| Some((queues.rank(queue)?, queue.clone())))
            .collect();
        found.sort_unstable();
        found.truncate(max);
        found.into_iter().map(|(_, queue)| queue).collect()
    }
}

impl OpenQueues {
    /// These queues have changed.
    pub(super) fn ring<'a>(&self, queues: impl Iterator<Item = &'a str>) {
        let mut known = lock(&self.0);
        queues.for_each(|queue| known.open(queue, QueueActivity::Hot));
    }

    /// Any of them may have changed.
    pub(super) fn ring_all(&self) {
        lock(&self.0).swept = None;
    }

    /// A queue is about to be asked; what rings from now on opens it again.
    pub(super) fn begin(&self, queue: &str) {
        lock(&self.0).close(queue, None);
    }

    /// It may have more, or has, in this time.
    pub(super) fn end(&self, queue: &str, is_open: bool, due: Option<Duration>) {
        let mut known = lock(&self.0);
        if is_open {
            known.open(queue, QueueActivity::Hot);
        } else if let Some(at) = due.and_then(|due| Instant::now().checked_add(due)) {
            known.due.entry(at).or_default().push(queue.into());
        }
    }

    /// Queues that have something which falls due, for example a lease.
    pub(super) fn closed_by_time(&self, max: usize) -> Vec<Box<str>> {
        lock(&self.0)
            .due
            .values()
            .flatten()
            .take(max)
            .cloned()
            .collect()
    }

    /// Opens what has fallen due, and all of these queues every `sweep_every`; those of which it is
    /// not known whether they have anything. `moved`: how far a test has moved the clock.
    pub(super) fn suspects(
        &self,
        queues: &Queues,
        moved: (Duration, i64),
        sweep_every: Duration,
    ) -> Vec<Box<str>> {
        let mut known = lock(&self.0);
        known.tick(queues, moved, sweep_every);
        known.asked(queues, QueueActivity::Suspect, usize::MAX)
    }

    /// In how many milliseconds each of these queues may have something; -1: not by time.
    pub(super) fn probed(&self, queues: &[Box<str>], dues: Vec<i64>) {
        let mut known = lock(&self.0);
        for (queue, due) in queues.iter().zip(dues) {
            match u64::try_from(due) {
                Ok(0) => known.open(queue, QueueActivity::Hot),
                Ok(due) => known
                    .due
                    .entry(Instant::now() + Duration::from_millis(due))
                    .or_default()
                    .push(queue.clone()),
                Err(_) => {}
            }
        }
    }

    /// Of these queues those that have something, in their order.
    pub(super) fn hot(&self, queues: &Queues, max: usize) -> Vec<Box<str>> {
        lock(&self.0).asked(queues, QueueActivity::Hot, max)
    }

    /// In how long another opens by itself.
    pub(super) fn next(&self, sweep_every: Duration) -> Duration {
        let known = lock(&self.0);
        let sweep = known.swept.map_or(Duration::ZERO, |swept| {
            sweep_every.saturating_sub(swept.elapsed())
        });
        known.due.keys().next().map_or(sweep, |due| {
            due.saturating_duration_since(Instant::now()).min(sweep)
        })
    }
}

//! Consumers of many queues: which of them are worth a look.
//!
//! A queue is *open* when it may have something to hand out: it was never looked at, its bell rang,
//! something of it fell due, or its last hand-out was a full one. Only open queues are asked for
//! jobs. If many are open, one script per [`PROBE`] queues says first which of them have anything.
//! As a notification may be lost, and other programs may push to an inbox, all queues are probed
//! every [`SWEEP_EVERY`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::arguments::Arguments;
use super::keys::key;
use super::link::Link;
use super::queue::holder;
use super::scripts;
use crate::error::Error;
use crate::store::Queues;
use crate::sync::lock;

/// As many queues are asked one after the other, without all this.
pub(super) const FEW: usize = 16;
/// Queues that one script looks at.
const PROBE: usize = 250;
/// The same where each queue may be on another node, and has a script of its own.
const PROBE_IN_CLUSTER: usize = 100;
const SWEEP_EVERY: Duration = Duration::from_millis(1500);
const SWEEP_EVERY_IN_CLUSTER: Duration = Duration::from_secs(10);
/// Queues that are remembered; beyond that they are looked at again.
const KNOWN_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Looks(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What is known of each queue that was looked at.
    queues: HashMap<Box<str>, State>,
    /// Those that are open.
    open: HashSet<Box<str>>,
    /// When others open by time.
    due: BTreeMap<Instant, Vec<Box<str>>>,
    swept: Option<Instant>,
    /// How far a test had moved the clock.
    moved: (Duration, i64),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Not known to have anything.
    Suspect,
    /// It had something when it was looked at last.
    Hot,
    Closed,
}

impl Known {
    fn open(&mut self, queue: &str, state: State) {
        if let Some(known) = self.queues.get_mut(queue) {
            *known = state;
            self.open.insert(queue.into());
        }
    }

    fn close(&mut self, queue: &str, due: Option<Duration>) {
        if let Some(known) = self.queues.get_mut(queue) {
            *known = State::Closed;
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
            self.open(&queue, State::Suspect);
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
                if self.queues.get(queue) != Some(&State::Hot) {
                    self.queues.insert(queue.clone(), State::Suspect);
                    self.open.insert(queue.clone());
                }
            }
        }
    }

    /// Of the open ones that are asked for, those in this state; in the order of the ask.
    fn asked(&self, queues: &Queues, state: State, max: usize) -> Vec<Box<str>> {
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

impl Looks {
    /// The bell of these queues rang.
    pub(super) fn ring<'a>(&self, queues: impl Iterator<Item = &'a str>) {
        let mut known = lock(&self.0);
        queues.for_each(|queue| known.open(queue, State::Hot));
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
            known.open(queue, State::Hot);
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

    /// In how long another opens by itself.
    fn next(&self, sweep_every: Duration) -> Duration {
        let known = lock(&self.0);
        let sweep = known.swept.map_or(Duration::ZERO, |swept| {
            sweep_every.saturating_sub(swept.elapsed())
        });
        known.due.keys().next().map_or(sweep, |due| {
            due.saturating_duration_since(Instant::now()).min(sweep)
        })
    }
}

impl Link {
    /// Of many queues those that are worth asking, in their order; and in how long there may be
    /// others.
    pub(super) async fn worth_asking(
        &self,
        queues: &Queues,
        max: usize,
    ) -> Result<(Vec<Box<str>>, Duration), Error> {
        let sweep_every = if self.is_cluster() {
            SWEEP_EVERY_IN_CLUSTER
        } else {
            SWEEP_EVERY
        };
        let suspects = {
            let mut known = lock(&self.looks.0);
            known.tick(queues, self.clock_moved(), sweep_every);
            known.asked(queues, State::Suspect, usize::MAX)
        };
        if suspects.len() <= FEW {
            self.looks.ring(suspects.iter().map(|queue| &**queue));
        } else {
            let piece = if self.is_cluster() {
                PROBE_IN_CLUSTER
            } else {
                PROBE
            };
            for page in suspects.chunks(piece) {
                page.iter().for_each(|queue| self.looks.begin(queue));
                let dues = match self.probe(page).await {
                    Ok(dues) => dues,
                    Err(error) => {
                        self.looks.ring_all();
                        return Err(error);
                    }
                };
                let mut known = lock(&self.looks.0);
                for (queue, due) in page.iter().zip(dues) {
                    match u64::try_from(due) {
                        Ok(0) => known.open(queue, State::Hot),
                        Ok(due) => known
                            .due
                            .entry(Instant::now() + Duration::from_millis(due))
                            .or_default()
                            .push(queue.clone()),
                        Err(_) => {}
                    }
                }
            }
        }
        let found = lock(&self.looks.0).asked(queues, State::Hot, max.max(FEW));
        Ok((found, self.looks.next(sweep_every)))
    }

    /// In how many milliseconds each of these queues may have something to do; -1: not by time.
    pub(super) async fn probe(&self, queues: &[Box<str>]) -> Result<Vec<i64>, Error> {
        if !self.is_cluster() {
            let mut arguments = Arguments::default();
            arguments.push(holder());
            queues
                .iter()
                .for_each(|queue| arguments.push(&key(queue, "")));
            return self
                .run("look for jobs", scripts::probe(), &queues[0], arguments)
                .await;
        }
        // At the same time, so that they share their way to each node.
        let probes = queues.iter().map(async |queue| {
            // A node that is away has nothing to give.
            if self.nodes().is_away(key(queue, "").as_bytes()).await {
                return -1;
            }
            let answer: Result<Vec<i64>, Error> = self
                .run(
                    "look for jobs",
                    scripts::probe(),
                    queue,
                    (holder(), key(queue, "")),
                )
                .await;
            answer
                .ok()
                .and_then(|due| due.first().copied())
                .unwrap_or(-1)
        });
        Ok(join_all(probes).await)
    }
}

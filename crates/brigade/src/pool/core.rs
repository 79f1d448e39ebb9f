//! The dispatcher: who waits, who is free, who runs what. State only; nothing here waits or starts
//! anything.
//!
//! One [`Core`] per pool, behind a mutex, changed in small steps. A step appends frames to the
//! channels of workers (memory only) and returns [`Effects`], which the caller carries out after
//! the lock is released: outcomes to hand over, workers to start, attempts to stop, channels to
//! write.
//!
//! Life of a call: waiting (in the queue, aside because a worker passed it, or delayed) -> running
//! -> ended; back to waiting when it is returned, passed, or tried again. `end` is the only way out
//! and gives the cell its outcome.
//!
//! Life of a slot: starting -> ready (or spare) -> retiring -> empty. A slot's *epoch* tells one
//! process in it from the next; what comes from an old epoch is ignored. In a slot sits a process
//! of ours or a host that joined; the latter may be *away* in any stage, while its connection is
//! down (`hosts`).
//!
//! Costs: O(log n) in waiting calls and in workers for every step of a call.

mod calls;
mod choice;
mod endings;
#[cfg(feature = "remote")]
mod hosts;
mod look;
mod stops;
mod tick;
mod workers;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use slab::Slab;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::builder::Config;
use super::cell::{Cell, Outcome};
use super::deadlines::{Deadlines, Due, after};
use super::queue::Queue;
use super::restart::Restart;
use super::stats::Counters;
use super::worker_conn::{WorkerConn, WorkerProcess};
use crate::attempt_report::StopReceipt;
use crate::event::Event;
use crate::process::Output;
use crate::progress::Progress;

pub(super) use calls::{Admission, Entry, Phase, number_of};
use choice::Rank;
pub(super) use endings::WorkerExit;
#[cfg(feature = "remote")]
pub(super) use hosts::{HostArrival, HostInfo};
pub(super) use stops::{StopOrder, StopReason};
pub(super) use workers::{WorkerCounts, WorkerSlot};

pub(super) struct Core {
    config: Arc<Config>,
    events: broadcast::Sender<Event>,
    /// Free places of the queue.
    room: Arc<Semaphore>,
    /// Places that calls hold beyond those that there are: they ran before and wait again.
    places_owed: usize,
    calls: Slab<Entry>,
    /// Distinguishes the calls that had one key of the slab.
    generation: u32,
    queue: Queue,
    /// Calls that a worker passed, in order, with who may not get them. Few.
    aside: VecDeque<u64>,
    delayed: usize,
    /// By number minus one.
    slots: Vec<Option<WorkerSlot>>,
    /// Seats that can take one more attempt.
    free: BTreeSet<Rank>,
    epochs: u64,
    counts: WorkerCounts,
    /// At least so many workers, because somebody waits for them.
    min_workers: usize,
    deadlines: Deadlines,
    restart: Restart,
    /// Workers in a row that ended just after their start, having done nothing.
    early_exits: u32,
    stage: Stage,
    /// Whether the runtime that the pool lives on is there, as far as known.
    has_runtime: bool,
    counters: Counters,
    /// Processes that could not be ended.
    left: Vec<u32>,
    /// Descendants could not be looked for.
    left_unseen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Open,
    /// Takes nothing new.
    Draining,
    /// Starts nothing any more.
    Closed,
}

/// What is to be done outside of the lock.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) ends: Vec<End>,
    pub(super) flush: Vec<WorkerConn>,
    /// Many calls come in one step: each worker is written to once, at its end, and nobody is woken
    /// for it.
    pub(super) at_once: bool,
    pub(super) starts: Vec<(u32, u64)>,
    /// Workers that nobody looks after any more. Dropping a process may take a moment.
    pub(super) dropped: Vec<WorkerConn>,
    pub(super) stops: Vec<StopOrder>,
    pub(super) updates: Vec<(Arc<Cell>, Progress)>,
    pub(super) watches: Vec<(u64, Arc<WorkerProcess>, u64)>,
    /// Places of the queue that became free.
    pub(super) room: usize,
    /// The first deadline is earlier than before.
    pub(super) clock: bool,
    /// Something that `ready`, `recycle` or `shutdown` may wait for.
    pub(super) changed: bool,
}

pub(super) struct End {
    pub(super) cell: Arc<Cell>,
    pub(super) outcome: Outcome,
    pub(super) receipt: Option<StopReceipt>,
    pub(super) output: Option<Output>,
}

impl Core {
    pub(super) fn new(
        config: Arc<Config>,
        events: broadcast::Sender<Event>,
        room: Arc<Semaphore>,
    ) -> Self {
        let mut deadlines = Deadlines::default();
        let first_tick = after(Instant::now(), config.check_interval);
        deadlines.insert(first_tick, Due::Tick(first_tick));
        Self {
            queue: Queue::new(config.order),
            config,
            events,
            room,
            places_owed: 0,
            calls: Slab::new(),
            generation: 0,
            aside: VecDeque::new(),
            delayed: 0,
            slots: Vec::new(),
            free: BTreeSet::new(),
            epochs: 0,
            counts: WorkerCounts::default(),
            min_workers: 0,
            deadlines,
            restart: Restart::default(),
            early_exits: 0,
            stage: Stage::Open,
            has_runtime: true,
            counters: Counters::new(),
            left: Vec::new(),
            left_unseen: false,
        }
    }

    /// When the clock is to wake up.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.deadlines.awake_at()
    }

    /// Carries out what has fallen due.
    pub(super) fn on_time(&mut self, now: Instant, effects: &mut Effects) {
        while let Some(due) = self.deadlines.pop(now) {
            match due {
                Due::QueueTimeout(call) => self.on_queue_timeout(call, effects),
                Due::RunTimeout(call) => self.stop(call, StopReason::Timeout, effects),
                Due::Delay(call) => self.on_delay_over(call, effects),
                Due::Restart => self.maintain(effects),
                Due::Tick(planned) => self.on_tick(planned, now, effects),
                #[cfg(feature = "remote")]
                Due::HostLost(number, epoch) => self.on_host_lost(number, epoch, effects),
            }
        }
        self.settle(effects);
    }

    /// Ends a step: hands out what can be handed out and tells the clock.
    fn settle(&mut self, effects: &mut Effects) {
        self.dispatch(effects);
        self.maintain(effects);
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
    }

    fn emit(&self, event: impl FnOnce() -> Event) {
        if self.events.receiver_count() > 0 {
            // Nobody listens any more: that is their choice.
            self.events.send(event()).ok();
        }
    }

    /// Processes of this pool that could not be ended, and whether there may be others that could
    /// not be looked for.
    pub(super) fn left(&self) -> (Vec<u32>, bool) {
        (self.left.clone(), self.left_unseen)
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Moves on to a later stage.
    pub(super) fn advance(&mut self, stage: Stage, effects: &mut Effects) {
        self.stage = self.stage.max(stage);
        self.settle(effects);
        effects.changed = true;
    }
}

/// Marks that an attempt has ended, for the one that is stopping it.
pub(super) type Ended = CancellationToken;

/// For how many looks in a row a worker has left a ping unanswered.
#[derive(Default)]
pub(super) struct PingCounter(AtomicU32);

impl PingCounter {
    /// Notes one more look; returns how many there were since the ping that is not answered. Zero:
    /// there is none.
    pub(super) fn look(&self) -> u32 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }

    /// Takes a look back: silence says nothing now.
    pub(super) fn excuse(&self) {
        // An answer may have come since.
        let less = |looks: u32| (looks > 1).then(|| looks - 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok();
    }

    pub(super) fn is_answered(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub(super) fn answered(&self) {
        self.0.store(0, Ordering::Release);
    }
}

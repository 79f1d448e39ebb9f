//! The dispatcher: which calls wait, which workers are free, which attempt runs where.
//!
//! It is pure: it holds no process, socket, file or pipe, never waits and never asks for the time.
//! The shell around it (`Shared`) locks it, sets its time (`Core::at`), gives it an event, and
//! carries out the [`Effects`] after the lock is released: outcomes to hand over, workers to start,
//! attempts to stop, frames to write. Workers stand behind [`WorkerConn`]; the two methods of that
//! trait which are called here append to memory. So `simulation` runs it without any process.
//!
//! Life of a call: new -> waiting (queued, set aside because a worker passed it, or delayed) ->
//! running -> ended; back to waiting when it is returned, passed or tried again. `end` is the only
//! way out and gives the cell its outcome.
//!
//! Life of a worker: starting -> ready (or spare) -> retiring -> gone. Its *epoch* distinguishes
//! one worker from the next with the same number; what comes from an old epoch is ignored. A worker
//! is a process of ours or a remote host; the latter may be *away* in any stage, while its
//! connection is down (`hosts`).
//!
//! Ids from outside are looked up with `find` and may be unknown; ids of the dispatcher's own state
//! are looked up with `entry` and `worker`, which panic with the name of the broken invariant.
//!
//! Costs: O(log n) in waiting calls and in workers for every step of a call.
//!
//! This file has the state and the step; it imports only the data that the state is made of
//! (`call_entry`, `worker_slot`, `budget`, `effects`, `random`). Each other file has an `impl Core`
//! for one concept and imports this one.
//!
//! [`WorkerConn`]: super::worker_conn::WorkerConn

mod admission;
mod answers;
mod attempt_span;
mod attempts;
mod budget;
mod call_entry;
mod checks;
mod choice;
mod deaths;
mod dispatch;
mod effects;
#[cfg(feature = "remote")]
mod host_answers;
#[cfg(feature = "remote")]
mod host_info;
#[cfg(feature = "remote")]
mod hosts;
mod lookup;
mod memory_budget;
mod overview;
mod random;
mod reports;
mod running_calls;
mod scaling;
#[cfg(test)]
mod simulation;
mod spans;
mod stops;
mod waiting;
mod worker_slot;
mod workers;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;
use tokio::sync::{Semaphore, broadcast};

use self::budget::MemoryBudget;
use self::call_entry::CallEntry;
use self::random::Random;
use self::worker_slot::{Rank, WorkerSlot};
use super::config::Config;
use super::deadlines::{Deadlines, DueEvent, after};
use super::ids::CallId;
use super::program_tasks::ProgramTasks;
use super::queue::CallQueue;
use super::restart::Restart;
use super::stats::Counters;
use super::stop_reason::StopReason;
use crate::event::Event;

pub(super) use self::admission::Admission;
pub(super) use self::answers::is_answer;
pub(super) use self::attempt_span::{EndedSpan, SpanRequest};
pub(super) use self::deaths::WorkerExit;
pub(super) use self::effects::{Effects, HealthCheck, MemoryMeasure, Preparation, StopOrder};
#[cfg(feature = "remote")]
pub(super) use self::host_info::{HostInfo, TaskFacts};
#[cfg(feature = "remote")]
pub(super) use self::hosts::{HostArrival, HostWelcome};

pub(super) struct Core {
    config: Arc<Config>,
    events: broadcast::Sender<Event>,
    /// The time of the step that is being taken.
    now: Instant,
    random: Random,
    /// Free places of the queue.
    room: Arc<Semaphore>,
    /// Places that calls hold beyond those that there are: they ran before and wait again.
    places_owed: usize,
    calls: Slab<CallEntry>,
    /// Distinguishes the calls that had one key of the slab.
    generation: u32,
    queue: CallQueue,
    /// Calls that a worker passed and calls that need a fresh worker, in order. Few.
    aside: VecDeque<CallId>,
    delayed: usize,
    /// What the program of the workers says of its tasks, if that is another one.
    program_tasks: ProgramTasks,
    /// Decides which calls may run, if the pool has one.
    budget: Option<MemoryBudget>,
    /// By number minus one.
    workers: Vec<Option<WorkerSlot>>,
    /// Workers that can take one more attempt.
    free: BTreeSet<Rank>,
    epochs: u64,
    counts: WorkerCounts,
    /// At least this many workers, because `Pool::ready` waits for them.
    min_workers: usize,
    deadlines: Deadlines,
    restart: Restart,
    /// Workers in a row that ended just after their start without having done anything.
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

/// How many worker processes are in which stage, as far as that decides how many to start. Counted
/// again only after a change.
#[derive(Clone, Copy, Debug, Default)]
struct WorkerCounts {
    usable: usize,
    starting: usize,
    spares: usize,
    leaving: usize,
    is_fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Open,
    /// Admits no calls.
    Draining,
    /// Starts nothing any more.
    Closed,
}

impl Core {
    /// A dispatcher without workers. The seed decides how pauses and ages are spread.
    pub(super) fn new(
        config: Arc<Config>,
        events: broadcast::Sender<Event>,
        room: Arc<Semaphore>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut deadlines = Deadlines::default();
        let first_check = after(now, config.check_interval);
        deadlines.insert(first_check, DueEvent::Check(first_check));
        Self {
            queue: CallQueue::new(config.order),
            budget: config.memory_budget.map(MemoryBudget::new),
            config,
            events,
            now,
            random: Random::new(seed),
            room,
            places_owed: 0,
            calls: Slab::new(),
            generation: 0,
            aside: VecDeque::new(),
            delayed: 0,
            program_tasks: ProgramTasks::default(),
            workers: Vec::new(),
            free: BTreeSet::new(),
            epochs: 0,
            counts: WorkerCounts::default(),
            min_workers: 0,
            deadlines,
            restart: Restart::default(),
            early_exits: 0,
            stage: Stage::Open,
            has_runtime: true,
            counters: Counters::new(now),
            left: Vec::new(),
            left_unseen: false,
        }
    }

    /// Sets the time of the step that follows.
    pub(super) fn at(&mut self, now: Instant) -> &mut Self {
        self.now = self.now.max(now);
        self
    }

    /// When the clock is to wake up.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        self.deadlines.awake_at()
    }

    /// Carries out what has fallen due.
    pub(super) fn on_time(&mut self, effects: &mut Effects) {
        while let Some(due) = self.deadlines.pop(self.now) {
            match due {
                DueEvent::QueueTimeout(call) => self.on_queue_timeout(call, effects),
                DueEvent::RunTimeout(call) => self.stop(call, StopReason::Timeout, effects),
                DueEvent::Delay(call) => self.on_delay_over(call, effects),
                DueEvent::Restart => self.maintain(effects),
                DueEvent::Check(planned) => self.on_check(planned, effects),
                #[cfg(feature = "remote")]
                DueEvent::HostLost(worker) => self.on_host_lost(worker, effects),
            }
        }
        self.settle(effects);
    }

    /// Ends a step: hands out what can be handed out and wakes the clock.
    fn settle(&mut self, effects: &mut Effects) {
        self.dispatch(effects);
        self.maintain(effects);
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
    }

    fn emit(&self, event: impl FnOnce() -> Event) {
        if self.events.receiver_count() > 0 {
            // The last reader may have gone in the meantime.
            self.events.send(event()).ok();
        }
    }

    /// Emits an event that is logged as well.
    fn emit_and_log(&self, event: Event, effects: &mut Effects) {
        self.emit(|| event.clone());
        effects.logged.push(event);
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

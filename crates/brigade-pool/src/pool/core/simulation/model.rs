//! What must be true of a pool, in a few rules: the model that the simulation compares with.
//!
//! It follows each call and each worker by the events that the simulation makes up and by what the
//! dispatcher sends. Before an event it is given what must become of the calls concerned
//! ([`Model::charge`], [`Model::must_end`] ..); after it, [`Model::check`] looks whether that, and
//! nothing else, has happened.

use std::collections::BTreeMap;

use super::super::super::ids::{CallId, WorkerId};
use super::super::super::stop_reason::StopReason;

/// A call that took two workers down ends there.
const CRASHES_MAX: u32 = 2;
/// How often a call is given to a worker that ends before it reads it.
pub(super) const UNDELIVERED_MAX: u32 = 3;

/// What a call asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    pub(super) retries: u32,
    pub(super) priority: i32,
    /// Its task may run twice.
    pub(super) twice: bool,
    /// Only remote hosts have its label.
    pub(super) only_hosts: bool,
    pub(super) queue_timeout: bool,
    pub(super) captures: bool,
    /// Bytes of memory that it declares.
    pub(super) memory: Option<u64>,
    /// Which of the sandboxes of the simulation it runs in.
    pub(super) sandbox: Option<usize>,
}

/// What the model knows of the memory of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SimMemory {
    /// What its attempt took when it was measured last.
    pub(super) used: u64,
    /// It is being stopped, so that it counts no more.
    pub(super) is_leaving: bool,
    pub(super) is_suspect: bool,
    /// The number of calls that had been admitted when it began to wait for memory.
    pub(super) waits_since: Option<usize>,
}

#[derive(Debug)]
pub(super) struct SimCall {
    pub(super) wishes: Wishes,
    pub(super) runs_on: Option<WorkerId>,
    /// In the queue proper, neither set aside nor delayed.
    pub(super) is_queued: bool,
    /// Whether its worker was sent it.
    pub(super) is_sent: bool,
    /// Attempts that count against its retries.
    failures: u32,
    crashes: u32,
    pub(super) undelivered: u32,
    pub(super) alone: bool,
    fresh: bool,
    pub(super) stop: Option<StopReason>,
    /// Signals were sent for its stop.
    pub(super) is_forced: bool,
    passes: Vec<WorkerId>,
    /// How many were admitted before it.
    pub(super) serial: usize,
    /// It was given to a worker before.
    pub(super) has_run: bool,
    pub(super) memory: SimMemory,
    /// How it must end in this step.
    must_end: Option<&'static str>,
    /// How it may end in this step.
    may_end: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimStage {
    Starting,
    Up,
    /// A host whose connection is down.
    Away,
}

#[derive(Debug)]
pub(super) struct SimWorker {
    pub(super) stage: SimStage,
    pub(super) is_host: bool,
    /// The sandbox that it took on.
    pub(super) sandbox: Option<usize>,
    /// Gets nothing new.
    pub(super) is_closing: bool,
    /// Most attempts at once.
    pub(super) capacity: usize,
    pub(super) running: Vec<CallId>,
    /// Attempts that it has answered.
    pub(super) served: u32,
}

/// Rules that differ from pool to pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) has_slots: bool,
    pub(super) has_hosts: bool,
    pub(super) has_spares: bool,
    pub(super) is_fifo: bool,
    pub(super) memory_budget: Option<u64>,
    pub(super) workers_max: usize,
    pub(super) has_sandboxes: bool,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) is_open: bool,
    pub(super) calls: BTreeMap<CallId, SimCall>,
    pub(super) workers: BTreeMap<WorkerId, SimWorker>,
    pub(super) admitted: usize,
    pub(super) ended: u64,
    pub(super) attempts: u64,
}

impl Model {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            is_open: true,
            calls: BTreeMap::new(),
            workers: BTreeMap::new(),
            admitted: 0,
            ended: 0,
            attempts: 0,
        }
    }

    pub(super) fn call(&mut self, call: CallId) -> &mut SimCall {
        self.calls.get_mut(&call).expect("a call of the model")
    }

    pub(super) fn worker(&mut self, worker: WorkerId) -> &mut SimWorker {
        self.workers
            .get_mut(&worker)
            .expect("a worker of the model")
    }

    // -- what the simulation makes happen

    pub(super) fn admit(&mut self, call: CallId, wishes: Wishes, alone: bool) {
        let serial = self.admitted;
        self.admitted += 1;
        let before = self.calls.insert(
            call,
            SimCall {
                wishes,
                runs_on: None,
                is_queued: false,
                is_sent: false,
                failures: 0,
                crashes: 0,
                undelivered: 0,
                alone,
                fresh: false,
                stop: None,
                is_forced: false,
                passes: Vec::new(),
                serial,
                has_run: false,
                memory: SimMemory::default(),
                must_end: None,
                may_end: None,
            },
        );
        assert!(before.is_none(), "two calls have the id {call:?}");
    }

    /// The attempt of a call is over.
    fn leave(&mut self, call: CallId) -> &mut SimCall {
        self.forget_use(call);
        let entry = self.calls.get_mut(&call).expect("a call of the model");
        let worker = entry.runs_on.take().expect("a call that runs");
        let slot = self.workers.get_mut(&worker).expect("its worker");
        slot.running.retain(|running| *running != call);
        entry.stop = None;
        entry.is_forced = false;
        entry
    }

    /// An attempt ended, or its call does: the call must end so, in this step.
    pub(super) fn must_end(&mut self, call: CallId, outcome: &'static str) {
        if self.call(call).runs_on.is_some() {
            self.leave(call);
        }
        self.call(call).must_end = Some(outcome);
    }

    /// A call that waits may end so in this step.
    pub(super) fn may_end(&mut self, call: CallId, outcome: &'static str) {
        self.call(call).may_end = Some(outcome);
    }

    /// An attempt did not count: its call waits again.
    pub(super) fn give_back(&mut self, call: CallId) {
        self.leave(call);
    }

    /// A worker passed a call: another one gets it, or it ends.
    pub(super) fn pass(&mut self, call: CallId, worker: WorkerId) {
        let entry = self.leave(call);
        entry.passes.push(worker);
        entry.may_end = Some("passed");
    }

    /// An attempt failed: its call is tried again if it has retries left. A crash costs no retry;
    /// the second one ends the call, and the first one of a call without retries.
    pub(super) fn charge(&mut self, call: CallId, outcome: &'static str, is_crash: bool) {
        let (is_open, has_slots) = (self.is_open, self.rules.has_slots);
        let worker = self.call(call).runs_on.expect("a call that runs");
        let is_remote = self.worker(worker).is_host;
        let entry = self.leave(call);
        let retries = entry.wishes.retries;
        let may_repeat = if is_crash {
            entry.crashes += 1;
            entry.fresh = true;
            entry.alone = has_slots || is_remote;
            retries > 0 && entry.crashes < CRASHES_MAX
        } else {
            entry.failures += 1;
            entry.failures <= retries
        };
        if !(is_open && may_repeat) {
            entry.must_end = Some(outcome);
        }
    }

    // -- what the dispatcher does

    /// A call was given to a worker.
    pub(super) fn on_started(&mut self, call: CallId, worker: WorkerId, attempt: u32) {
        self.attempts += 1;
        let rules = self.rules;
        let slot = self
            .workers
            .get_mut(&worker)
            .unwrap_or_else(|| panic!("{call:?} was given to {worker:?}, which is gone"));
        assert!(
            slot.stage == SimStage::Up && !slot.is_closing,
            "{call:?} was given to {worker:?}, which is {slot:?}"
        );
        let entry = self.calls.get(&call).expect("a call that has not ended");
        let others: Vec<bool> = slot
            .running
            .iter()
            .map(|other| self.calls[other].alone)
            .collect();
        assert!(
            slot.running.len() < slot.capacity,
            "{worker:?} runs more than it has slots"
        );
        assert!(entry.runs_on.is_none(), "{call:?} runs already");
        let number = entry.failures + entry.crashes + 1;
        assert_eq!(attempt, number, "the number of the attempt");
        assert!(
            !entry.passes.contains(&worker),
            "{worker:?} passed {call:?}"
        );
        assert!(slot.is_host || !entry.wishes.only_hosts, "it has no label");
        if !slot.is_host {
            assert!(!entry.alone || others.is_empty(), "{call:?} is alone");
            assert!(!others.contains(&true), "{worker:?} runs a lonely one");
            let is_fresh = slot.served == 0 && others.is_empty();
            let is_fresh = is_fresh && slot.sandbox.is_none();
            assert!(!entry.fresh || is_fresh, "{worker:?} is not fresh");
            let takes_it_on = slot.sandbox.is_none() && others.is_empty();
            assert!(
                slot.sandbox == entry.wishes.sandbox || takes_it_on,
                "{call:?} is in another sandbox than {slot:?}"
            );
            slot.sandbox = entry.wishes.sandbox;
        }
        self.check_order(call, rules);
        self.workers
            .get_mut(&worker)
            .expect("found above")
            .running
            .push(call);
        let entry = self.call(call);
        entry.runs_on = Some(worker);
        (entry.is_queued, entry.is_sent) = (false, false);
        self.check_budget(call, worker);
        self.call(call).has_run = true;
    }

    /// No call of a higher priority is overtaken by one that the same workers may take.
    fn check_order(&self, call: CallId, rules: Rules) {
        let started = &self.calls[&call];
        let same_lane = |other: &SimCall| {
            other.wishes.sandbox == started.wishes.sandbox
                && (!rules.has_hosts
                    || other.wishes.twice == started.wishes.twice
                        && other.wishes.only_hosts == started.wishes.only_hosts)
        };
        let overtaken = self.calls.iter().find(|(id, other)| {
            **id != call
                && started.is_queued
                && other.is_queued
                && same_lane(other)
                && other.wishes.priority > started.wishes.priority
        });
        assert!(
            overtaken.is_none(),
            "{call:?} overtook {overtaken:?}, which has a higher priority"
        );
    }

    pub(super) fn on_sent(&mut self, call: CallId, worker: WorkerId) {
        let entry = self.call(call);
        assert_eq!(
            entry.runs_on,
            Some(worker),
            "{call:?} is sent where it runs"
        );
        assert!(!entry.is_sent, "{call:?} is sent once for each attempt");
        entry.is_sent = true;
    }

    pub(super) fn on_queued(&mut self, call: CallId) {
        let entry = self.call(call);
        entry.is_queued = true;
        // No worker was there that had not passed it.
        entry.passes.clear();
    }

    pub(super) fn on_dequeued(&mut self, call: CallId) {
        self.call(call).is_queued = false;
    }

    pub(super) fn on_ended(&mut self, call: CallId, outcome: &'static str) {
        let entry = self
            .calls
            .remove(&call)
            .unwrap_or_else(|| panic!("{call:?} ended twice"));
        let expected = entry.must_end.or(entry.may_end);
        assert_eq!(
            expected,
            Some(outcome),
            "how {call:?} ended: {entry:?} of {} retries",
            entry.wishes.retries
        );
        assert!(entry.runs_on.is_none(), "{call:?} ended while it runs");
        self.ended += 1;
    }

    /// What must be true between two steps.
    pub(super) fn check(&mut self) {
        for (call, entry) in &mut self.calls {
            assert!(
                entry.must_end.is_none(),
                "{call:?} had to end: {:?}",
                entry.must_end
            );
            entry.may_end = None;
        }
        self.check_use();
        let is_idle = |slot: &SimWorker| {
            slot.stage == SimStage::Up
                && !slot.is_host
                && !slot.is_closing
                && slot.running.is_empty()
        };
        let idle: Vec<&SimWorker> = self.workers.values().filter(|slot| is_idle(slot)).collect();
        let may_lack_memory = self.rules.memory_budget.is_some() && self.uses_memory();
        if self.rules.has_spares || idle.is_empty() || may_lack_memory {
            return;
        }
        let waiting =
            |(_, entry): &(&CallId, &SimCall)| entry.is_queued && !entry.wishes.only_hosts;
        let mut others_wait = false;
        for (call, entry) in self.calls.iter().filter(waiting) {
            let fits =
                |slot: &&SimWorker| slot.sandbox.is_none() || slot.sandbox == entry.wishes.sandbox;
            let fitting = idle.iter().find(|slot| fits(slot));
            assert!(
                fitting.is_none(),
                "{call:?} {entry:?} waits while {fitting:?} is idle"
            );
            others_wait = true;
        }
        let is_coming = |slot: &SimWorker| {
            !slot.is_host && (slot.stage == SimStage::Starting || slot.is_closing)
        };
        let processes = self.workers.values().filter(|slot| !slot.is_host);
        assert!(
            !others_wait
                || self.workers.values().any(is_coming)
                || processes.count() < self.rules.workers_max,
            "a call waits, the idle workers have other sandboxes, and none gives up its place"
        );
    }
}

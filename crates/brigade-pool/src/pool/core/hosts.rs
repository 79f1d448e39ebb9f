//! Remote hosts: how they come, go away, come back and leave, and what becomes of their calls.
//!
//! A host is a worker for as long as its *session* lasts, which outlives its connections. While no
//! connection is up it is *away*: it gets nothing, the dispatcher waits for what it runs, and a
//! deadline runs. When it is back it says what it holds. What it was sent and does not hold never
//! reached it and waits again; what it holds and was given up in the meantime it drops when asked
//! to. When the deadline comes first the session is over: what the host ran is run elsewhere if it
//! may run twice, and lost otherwise. Nothing that it brings later counts, because its session is
//! unknown. So an answer is accepted at most once, and only from the session that the call was
//! given to.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::deadlines::{DueEvent, after};
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::super::worker_conn::WorkerConn;
use super::call_entry::{CallEntry, UNDELIVERED_MAX};
use super::effects::{Effects, EndDetails, StopRequest};
use super::host_info::{AnswerPace, HostInfo, HostState};
use super::reports::stopped;
use super::worker_slot::WorkerStage;
use super::{Core, Stage};
use crate::attempt_report::{AttemptOutcome, Step};
use crate::event::Event;
use crate::outcome::CallError;

/// Hosts that one pool takes in.
const HOSTS_MAX: usize = 4096;
/// What a host brings when its connection is up.
#[derive(Debug)]
pub(in super::super) struct HostArrival {
    /// Calls that it holds, each with its attempt.
    pub(in super::super) held: Vec<(CallId, u32)>,
    /// It begins nothing more.
    pub(in super::super) leaving: bool,
}

/// The answer to a host that may join.
#[derive(Debug)]
pub(in super::super) struct HostWelcome {
    /// Whether its session goes on.
    pub(in super::super) resumed: bool,
    /// Of the calls that it holds, those that the pool has given up.
    pub(in super::super) drop: Vec<CallId>,
}

impl Core {
    /// Finds the worker of a host's session, or adds one. For a new session the connection is that
    /// of `conn`.
    ///
    /// # Errors
    ///
    /// Why it cannot join, in words.
    pub(in super::super) fn join(
        &mut self,
        info: &Arc<HostInfo>,
        conn: Arc<dyn WorkerConn>,
        effects: &mut Effects,
    ) -> Result<(WorkerId, Arc<dyn WorkerConn>), String> {
        if self.stage == Stage::Closed {
            return Err("the pool is shutting down".to_owned());
        }
        let is_session = |host: &HostState| host.info.session == info.session;
        let mut workers = self.workers.iter().flatten();
        let known = workers.find(|slot| slot.host.as_deref().is_some_and(is_session));
        if let Some(slot) = known {
            let identity = slot.identity().unwrap_or_default();
            if *identity != *info.identity {
                let new = &info.identity;
                return Err(format!(
                    "its session is that of {identity}, and it is {new}"
                ));
            }
            return Ok((slot.id, Arc::clone(slot.conn())));
        }
        if self.stage != Stage::Open {
            return Err("the pool is shutting down".to_owned());
        }
        if self.remote_hosts() >= HOSTS_MAX {
            return Err(format!("{HOSTS_MAX} hosts have joined already"));
        }
        let slot = self.add_worker(info.slots);
        let worker = slot.id;
        slot.connect(Arc::clone(&conn), info.pid);
        slot.host = Some(Box::new(HostState {
            info: Arc::clone(info),
            pace: AnswerPace::default(),
            away: None,
        }));
        self.expect_back(worker);
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
        Ok((worker, conn))
    }

    pub(super) fn host_info(&self, worker: WorkerId) -> Option<Arc<HostInfo>> {
        let host = self.worker(worker).host.as_ref()?;
        Some(Arc::clone(&host.info))
    }

    /// Whether a call that runs on a remote host may run twice.
    pub(super) fn may_run_twice(&self, call: CallId) -> bool {
        let entry = self.entry(call);
        let info = entry.runs_on().and_then(|worker| self.host_info(worker));
        info.is_some_and(|info| info.may_run_twice(&entry.request))
    }

    #[track_caller]
    pub(super) fn host_mut(&mut self, worker: WorkerId) -> &mut HostState {
        let host = self.worker_mut(worker).host.as_mut();
        host.expect("invariant: what a host says names its own worker")
    }

    /// Marks a host as away, and when it is given up.
    fn expect_back(&mut self, worker: WorkerId) {
        self.take_off(worker);
        let at = after(self.now, self.config.hosts.keep);
        let key = self.deadlines.insert(at, DueEvent::HostLost(worker));
        if let Some(before) = self.host_mut(worker).away.replace(key) {
            self.deadlines.remove(before);
        }
    }

    /// A host's connection is up: what it is to be sent before anything else. `None` if its session
    /// is over. `on_host_welcomed` follows in the same step.
    pub(in super::super) fn on_host_up(
        &mut self,
        worker: WorkerId,
        arrival: &HostArrival,
    ) -> Option<HostWelcome> {
        let slot = self.find_worker(worker)?;
        let resumed = slot.stage != WorkerStage::Starting;
        let expected = self.running_attempts(worker);
        if let Some(away) = self.host_mut(worker).away.take() {
            self.deadlines.remove(away);
        }
        let given_up = arrival.held.iter().filter(|held| !expected.contains(held));
        let drop = given_up.map(|(call, _)| *call).collect();
        Some(HostWelcome { resumed, drop })
    }

    /// The calls that a host runs as the dispatcher knows it, each with its attempt. An earlier
    /// attempt of a call that runs there again is not that one: its answer came, and was not
    /// acknowledged.
    fn running_attempts(&self, worker: WorkerId) -> HashSet<(CallId, u32)> {
        let running = self.worker(worker).running.iter();
        running
            .map(|call| (*call, self.entry(*call).attempt))
            .collect()
    }

    /// Goes on with a host where both know of it.
    pub(in super::super) fn on_host_welcomed(
        &mut self,
        worker: WorkerId,
        arrival: &HostArrival,
        welcome: &HostWelcome,
        effects: &mut Effects,
    ) {
        if !welcome.resumed {
            self.counters.started += 1;
            self.open_for_calls(worker);
        }
        let held: HashSet<(CallId, u32)> = arrival.held.iter().copied().collect();
        let expected = self.running_attempts(worker);
        let missing = expected.difference(&held).map(|(call, _)| *call);
        self.put_back(missing.collect(), effects);
        if !self.has_worker(worker) {
            // It was to leave once its calls had ended.
            return self.settle(effects);
        }
        self.stop_again(worker, effects);
        self.offer(worker);
        let slot = self.worker(worker);
        let event = Event::HostJoined {
            worker: worker.number,
            host: slot.host_name().unwrap_or_default().into(),
            identity: slot.identity().unwrap_or_default().into(),
            pid: slot.pid,
            slots: slot.capacity,
            resumed: welcome.resumed,
            // Of a session that goes on, what is not running was answered, and the host has not
            // received yet that its answer came.
            stale: if welcome.resumed {
                0
            } else {
                welcome.drop.len()
            },
        };
        self.emit_and_log(event, effects);
        if arrival.leaving {
            self.retire(worker, "its host leaves", effects);
        }
        effects.changed = true;
        self.settle(effects);
    }

    /// Has a host that is back asked once more to stop what is to be stopped: it may not have
    /// received it.
    fn stop_again(&self, worker: WorkerId, effects: &mut Effects) {
        let slot = self.worker(worker);
        for call in &slot.running {
            if let Some(stop) = &self.entry(*call).stop {
                effects.stop_requests.push(StopRequest {
                    conn: Arc::clone(slot.conn()),
                    call: *call,
                    reason: stop.reason.clone(),
                    hurry: stop.hurry.is_cancelled(),
                });
            }
        }
    }

    /// A host's connection is down. Of `unseen` calls not a byte had been sent.
    pub(in super::super) fn on_host_down(
        &mut self,
        worker: WorkerId,
        reason: &str,
        unseen: &[CallId],
        effects: &mut Effects,
    ) {
        let Some(slot) = self.find_worker(worker) else {
            return;
        };
        let running = slot.running.iter().copied();
        let unseen = running.filter(|call| unseen.contains(call)).collect();
        let host: Arc<str> = slot.host_name().unwrap_or_default().into();
        self.expect_back(worker);
        let event = Event::HostAway {
            worker: worker.number,
            host,
            reason: reason.into(),
        };
        self.emit_and_log(event, effects);
        self.put_back(unseen, effects);
        effects.changed = true;
        if self.stage == Stage::Closed {
            return self.part_with(worker, "the pool was shut down", effects);
        }
        let is_shut_down = |entry: &CallEntry| {
            let stop = entry.stop.as_ref();
            entry.runs_on() == Some(worker)
                && stop.is_some_and(|stop| stop.reason == StopReason::Shutdown)
        };
        for call in self.calls_where(is_shut_down) {
            self.lose(call, "the pool was shut down while it was away", effects);
        }
        self.settle(effects);
    }

    /// Lets calls wait again that never reached their host. The newest first, so that they stand in
    /// the order in which they were given.
    fn put_back(&mut self, mut calls: Vec<CallId>, effects: &mut Effects) {
        calls.sort_unstable_by_key(|call| Reverse(*call));
        for call in calls {
            self.cancel_timer(call);
            let entry = self.entry_mut(call);
            entry.attempt -= 1;
            match entry.stop.take() {
                None => {
                    self.vacate(call, effects);
                    self.requeue(call);
                }
                Some(mut stop) => {
                    stop.step = Step::NotStarted;
                    let mut report = self.stopped_report(call, &stop.reason);
                    report.cost.wall = Duration::ZERO;
                    self.vacate(call, effects);
                    let (error, details) = stopped(*stop, report, self.now);
                    self.end(call, Err(error), details, effects);
                }
            }
        }
    }

    /// The deadline of a host that is away.
    pub(super) fn on_host_lost(&mut self, worker: WorkerId, effects: &mut Effects) {
        assert!(
            self.worker(worker).is_away(),
            "invariant: the deadline of a host runs only while it is away"
        );
        let reason = format!("it was away for more than {:?}", self.config.hosts.keep);
        self.part_with(worker, &reason, effects);
    }

    /// Ends a host's session. What it ran is run elsewhere if it may run twice, and lost otherwise.
    pub(in super::super) fn part_with(
        &mut self,
        worker: WorkerId,
        reason: &str,
        effects: &mut Effects,
    ) {
        if !self.has_worker(worker) {
            return;
        }
        let slot = self.worker(worker);
        let (conn, info) = (Arc::clone(slot.conn()), self.host_info(worker));
        let info = info.expect("invariant: only a host has a session");
        let mut running = slot.running.clone();
        running.sort_unstable_by_key(|call| Reverse(*call));
        self.worker_mut(worker).stage = WorkerStage::Lost;
        self.take_off(worker);
        let mut lost = 0;
        for call in running {
            if !self.move_on(call, &info, effects) {
                lost += 1;
                self.lose(call, reason, effects);
            }
        }
        effects.let_go.push(conn);
        self.remove_worker(worker);
        let event = Event::HostLeft {
            worker: worker.number,
            host: (*info.name).into(),
            reason: reason.into(),
            lost,
        };
        self.emit_and_log(event, effects);
        effects.changed = true;
        self.settle(effects);
    }

    /// Lets a call wait again whose host is lost, if it may run twice and is not being stopped.
    fn move_on(&mut self, call: CallId, info: &HostInfo, effects: &mut Effects) -> bool {
        let is_closed = self.stage == Stage::Closed;
        let entry = self.entry_mut(call);
        if is_closed
            || !info.may_run_twice(&entry.request)
            || entry.stop.is_some()
            || entry.undelivered == UNDELIVERED_MAX
        {
            return false;
        }
        entry.undelivered += 1;
        entry.attempt -= 1;
        self.cancel_timer(call);
        self.vacate(call, effects);
        self.requeue(call);
        true
    }

    /// Ends a call whose host is lost.
    pub(super) fn lose(&mut self, call: CallId, reason: &str, effects: &mut Effects) {
        let report = self.report(call, AttemptOutcome::HostLost(reason.to_owned()));
        if let Some(stop) = self.entry_mut(call).stop.take() {
            stop.ended.cancel();
        }
        self.cancel_timer(call);
        self.vacate(call, effects);
        let error = Err(CallError::Lost(report));
        self.end(call, error, EndDetails::default(), effects);
    }

    /// A host takes what it is sent faster again.
    pub(in super::super) fn on_relieved(&mut self, worker: WorkerId, effects: &mut Effects) {
        if self.has_worker(worker) {
            self.offer(worker);
            self.settle(effects);
        }
    }

    /// A round trip to a host was measured.
    pub(in super::super) fn on_round_trip(
        &mut self,
        worker: WorkerId,
        took: Duration,
        effects: &mut Effects,
    ) {
        if !self.has_worker(worker) {
            return;
        }
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let pace = &mut self.host_mut(worker).pace;
        let before = pace.distance();
        pace.latency_micros = micros;
        if pace.distance() != before {
            self.on_relieved(worker, effects);
        }
    }
}

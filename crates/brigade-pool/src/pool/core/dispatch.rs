//! Dispatch: giving waiting calls to workers that can take one more attempt.
//!
//! Calls that were set aside come first, then the queue in its order, lane by lane. A call is sent
//! by appending its frame to its worker's channel, in memory; only a call whose output is captured,
//! or whose attempt gets a span, is sent in a second step.

use std::sync::Arc;
use std::time::Instant;

use super::super::deadlines::{DueEvent, after};
use super::super::ids::{CallId, WorkerId};
use super::super::worker_conn::outgoing::OutgoingAttempt;
use super::Core;
use super::attempt_span::StartedSpan;
use super::call_entry::Phase;
use super::effects::{Effects, EndDetails, Preparation};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::MemoryHold;
use crate::error::Error;
use crate::event::Event;

impl Core {
    /// Gives waiting calls to free workers until one of the two runs out.
    pub(super) fn dispatch(&mut self, effects: &mut Effects) {
        self.look_at_budget();
        if self.free.is_empty() || (self.queue.is_empty() && self.aside.is_empty()) {
            return;
        }
        let mut blocked = self.dispatch_aside(effects);
        let (mut passed_over, mut kept) = (Vec::new(), Vec::new());
        while let Some((position, call)) = self.queue.first_except(&passed_over) {
            match self.pick_within_budget(call) {
                Some(worker) => self.assign(call, worker, effects),
                None => {
                    // One that waits for memory holds back all others by itself, but not those of
                    // remote hosts.
                    if !self.is_short_of_memory() {
                        // The first in line is never overtaken by others of the same workers: a
                        // call that must run alone would starve otherwise.
                        kept.append(&mut self.keep_for(call));
                        blocked.push(call);
                    }
                    passed_over.push(position.lane());
                }
            }
        }
        self.make_room_for_sandboxes(&blocked, effects);
        for worker in kept {
            self.offer(worker);
        }
        if self.queue.is_empty() && self.aside.is_empty() {
            self.emit(|| Event::Drained);
        }
    }

    /// Returns the calls that no worker could take, but for those that wait for a fresh one.
    fn dispatch_aside(&mut self, effects: &mut Effects) -> Vec<CallId> {
        let (mut blocked, mut fresh_wanted) = (Vec::new(), 0);
        let mut index = 0;
        while let Some(call) = self.aside.get(index).copied() {
            match self.pick_within_budget(call) {
                Some(worker) => self.assign(call, worker, effects),
                None => {
                    if self.is_short_of_memory() {
                        // It waits for that.
                    } else if self.entry(call).fresh {
                        fresh_wanted += 1;
                    } else {
                        blocked.push(call);
                    }
                    index += 1;
                }
            }
        }
        if fresh_wanted > 0 {
            self.make_room_for_fresh(fresh_wanted, effects);
        }
        blocked
    }

    /// Begins an attempt of a call on a worker that can take it.
    pub(super) fn assign(&mut self, call: CallId, worker: WorkerId, effects: &mut Effects) {
        self.leave_queue(call, effects);
        let (now, is_shared) = (self.now, self.config.slots > 1);
        #[cfg(feature = "remote")]
        if let Some(info) = self.host_info(worker) {
            info.fill(&mut self.entry_mut(call).request);
        }
        let is_remote = self.worker(worker).is_remote();
        let limits = self.limits_to_hold(call, worker);
        let entry = self.entry_mut(call);
        entry.attempt += 1;
        entry.starts = entry.starts.wrapping_add(1);
        entry.memory.is_announced = false;
        entry.cost = None;
        let (waited, alone) = (now - entry.since, entry.alone);
        let options = entry.request.options();
        let (timeout, capture) = (options.timeout, options.capture_bytes);
        // A remote host looks after the time of its attempts itself.
        let tell_start = timeout.is_some() && (is_shared && !alone || is_remote);
        if !is_remote && let Some(sandbox) = self.sandbox_of(&self.entry(call).request).cloned() {
            self.worker_mut(worker).sandbox = Some(sandbox);
        }
        let index = self.occupy(worker, call, alone);
        self.reserve_memory(call, worker, effects);
        self.entry_mut(call).phase = Phase::Running {
            worker,
            index,
            since: now,
        };
        if let Some(timeout) = timeout.filter(|_| !tell_start) {
            self.arm_run_timeout(call, after(now, timeout));
        }
        let conn = Arc::clone(self.worker(worker).conn());
        let (capture, span) = (capture.filter(|_| !is_remote), self.span_request(call));
        if capture.is_some() || limits.is_some() || span.is_some() {
            self.entry_mut(call).is_sent = false;
            effects.preparations.push(Preparation {
                conn,
                call,
                worker,
                capture,
                limits,
                span,
            });
        } else {
            self.send(call, effects);
        }
        self.counters.wait.record(waited);
        self.emit_started(call, worker);
    }

    /// The limits that a worker of ours is to hold from now on, if they are not those that it holds
    /// already: those of the call, with the pool's for what it leaves open.
    fn limits_to_hold(&mut self, call: CallId, worker: WorkerId) -> Option<AttemptLimits> {
        let defaults = self.config.limits;
        let entry = self.entry_mut(call);
        (entry.memory_hold, entry.limit_met) = (None, None);
        let is_remote = self.worker(worker).is_remote();
        let entry = self.entry_mut(call);
        if is_remote {
            return None;
        }
        let defaults = entry.request.options().default_limits.or(defaults);
        if !defaults.is_empty() {
            let options = entry.request.options.get_or_insert_default();
            options.set_limits(options.limits().or(defaults));
        }
        let limits = entry.request.options().limits();
        if limits.address_space.is_some() {
            entry.memory_hold = Some(MemoryHold::AddressSpace);
        }
        let slot = self.worker_mut(worker);
        let had_limits = std::mem::replace(&mut slot.is_limited, limits.needs_a_watch());
        (had_limits || slot.is_limited).then_some(limits)
    }

    /// Notes what holds the memory of an attempt that is being prepared.
    pub(in super::super) fn on_held(
        &mut self,
        call: CallId,
        worker: WorkerId,
        hold: Option<MemoryHold>,
    ) {
        if self.runs_on(call, worker) {
            self.entry_mut(call).memory_hold = hold;
        }
    }

    /// Ends a call whose limits cannot be held: it is not sent.
    pub(in super::super) fn on_not_held(
        &mut self,
        call: CallId,
        worker: WorkerId,
        error: Error,
        effects: &mut Effects,
    ) {
        if !self.runs_on(call, worker) {
            return;
        }
        self.cancel_timer(call);
        if let Some(stop) = self.entry_mut(call).stop.take() {
            stop.ended.cancel();
        }
        self.vacate(call, effects);
        self.end(call, Err(error.into()), EndDetails::default(), effects);
        self.settle(effects);
    }

    /// Sends a call whose attempt is prepared. The span is taken unless the attempt has ended.
    pub(in super::super) fn on_prepared(
        &mut self,
        call: CallId,
        worker: WorkerId,
        span: &mut Option<StartedSpan>,
        effects: &mut Effects,
    ) {
        let is_waiting =
            |entry: &super::CallEntry| !entry.is_sent && entry.runs_on() == Some(worker);
        if self.find(call).is_some_and(is_waiting) {
            self.entry_mut(call).span = span.take();
            self.send(call, effects);
        }
    }

    /// Appends a running call to what its worker is sent.
    fn send(&mut self, call: CallId, effects: &mut Effects) {
        let is_shared = self.config.slots > 1;
        let entry = self.entry_mut(call);
        entry.is_sent = true;
        let Phase::Running { worker, index, .. } = entry.phase else {
            unreachable!("invariant: only a running call is sent")
        };
        let entry = self.entry(call);
        let slot = self.worker(worker);
        let has_timeout = entry.request.options().timeout.is_some();
        let conn = Arc::clone(slot.conn());
        conn.append(&OutgoingAttempt {
            call,
            request: &entry.request,
            number: entry.attempt,
            alone: entry.alone,
            fresh: entry.fresh,
            tell_start: has_timeout && (is_shared && !entry.alone || slot.is_remote()),
            is_ahead: index >= slot.capacity as usize,
            sandbox: self.sandbox_of(&entry.request),
            traceparent: entry
                .span
                .as_ref()
                .and_then(|started| started.traceparent.as_ref())
                .or(entry.request.options().traceparent.as_ref()),
        });
        if conn.is_congested() {
            self.take_off(worker);
        }
        effects.write(&conn, index == 0 || effects.at_once);
    }

    fn emit_started(&self, call: CallId, worker: WorkerId) {
        let attempt = self.entry(call).attempt;
        self.emit_call(call, |call, task, label| Event::CallStarted {
            call,
            task,
            label,
            worker: worker.number,
            attempt,
        });
    }

    pub(super) fn arm_run_timeout(&mut self, call: CallId, at: Instant) {
        self.cancel_timer(call);
        let key = self.deadlines.insert(at, DueEvent::RunTimeout(call));
        self.entry_mut(call).timer = Some(key);
    }
}

//! Calls: admission, order, dispatch, end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::cell::{Cell, Outcome};
use super::super::deadlines::{Due, DueKey, after};
use super::super::queue::Place;
use super::super::worker_conn::Assignment;
use super::choice::Want;
use super::stops::Stop;
use super::{Core, Effects, End, Stage};
use crate::attempt_report::StopReceipt;
use crate::call::Request;
use crate::codec::Codec;
use crate::error::Error;
use crate::event::Event;
use crate::outcome::{CallError, TimedOut};
use crate::process::Output;
use crate::progress::PROGRESS_BYTES_MAX;
use crate::progress::Progress;

/// The number of a call for people: what distinguishes it among four billion, without its place in
/// the table.
pub(in super::super) fn number_of(call: u64) -> u64 {
    call >> 32
}

/// A call that has not ended.
pub(in super::super) struct Entry {
    generation: u32,
    pub(super) cell: Arc<Cell>,
    pub(in super::super) request: Request,
    pub(super) phase: Phase,
    /// Attempts that were begun.
    pub(in super::super) attempt: u32,
    pub(super) crashes: u32,
    /// Workers that died before they read it, and hosts that were lost with it.
    pub(super) undelivered: u32,
    /// Workers that passed it, by number and epoch, and why.
    pub(super) passes: Vec<(u32, u64, String)>,
    /// Must run alone in its worker.
    pub(in super::super) alone: bool,
    /// Must run in a worker that has run nothing before it.
    pub(in super::super) fresh: bool,
    has_place: bool,
    /// When it was made.
    pub(super) made: Instant,
    /// When it began to wait.
    since: Instant,
    timer: Option<DueKey>,
    pub(super) stop: Option<Box<Stop>>,
    pub(super) progress: Option<(f64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Phase {
    Queued(Place),
    Aside,
    Delayed,
    Running {
        slot: u32,
        index: usize,
        since: Instant,
    },
}

/// What became of a new call.
pub(in super::super) enum Admission {
    Admitted(u64),
    /// The queue is full; here is the request back.
    Full(Request),
    Refused(Error),
}

impl Core {
    /// Takes a call in, if there is room for it to wait or a worker to run it now.
    pub(in super::super) fn admit(
        &mut self,
        request: Request,
        cell: &Arc<Cell>,
        has_place: bool,
        effects: &mut Effects,
    ) -> Admission {
        if self.stage != Stage::Open {
            return Admission::Refused(self.closed());
        }
        if let Some(error) = self.cannot_start() {
            return Admission::Refused(error);
        }
        let (delay, priority, alone) = (
            request.options().delay,
            request.options().priority.unwrap_or(0),
            self.wants_to_be_alone(&request),
        );
        let fresh = request.options().fresh;
        let now = Instant::now();
        let want = Want {
            request: &request,
            alone,
            fresh,
            passes: &[],
        };
        let at_once = delay.is_none()
            && self.queue.is_empty()
            && self.aside.is_empty()
            // What runs may wait again: it would owe one more.
            && (has_place || self.places_owed == 0)
            && self.pick(&want).is_some();
        let mut has_place = has_place;
        if !at_once && !has_place {
            match self.room.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(_) => return Admission::Full(request),
            }
            has_place = true;
        }
        self.generation = self.generation.wrapping_add(1);
        let key = self.calls.insert(Entry {
            generation: self.generation,
            cell: Arc::clone(cell),
            request,
            phase: Phase::Delayed,
            attempt: 0,
            crashes: 0,
            undelivered: 0,
            passes: Vec::new(),
            alone,
            fresh,
            has_place,
            made: now,
            since: now,
            timer: None,
            stop: None,
            progress: None,
        });
        let Some(call) = self.call_at(key) else {
            unreachable!("it was inserted above")
        };
        match delay {
            Some(delay) => self.delay(call, delay),
            None if at_once => self.assign_new(call, effects),
            None => self.enqueue(call, priority),
        }
        if !at_once {
            self.settle(effects);
        }
        effects.clock |= std::mem::take(&mut self.deadlines.hurried);
        Admission::Admitted(call)
    }

    fn wants_to_be_alone(&self, request: &Request) -> bool {
        use super::super::builder::Neighbours;
        let options = request.options();
        let would_hurt = options.timeout.is_some() || options.memory.is_some();
        self.config.slots > 1
            && (options.alone
                || options.capture_bytes.is_some()
                || options.memory.is_some()
                || (would_hurt && self.config.neighbours == Neighbours::Spare))
    }

    pub(super) fn entry(&mut self, call: u64) -> Option<&mut Entry> {
        let (key, generation) = (call & 0xffff_ffff, (call >> 32) & 0xffff_ffff);
        let entry = self.calls.get_mut(usize::try_from(key).ok()?)?;
        (u64::from(entry.generation) == generation).then_some(entry)
    }

    pub(super) fn entry_ref(&self, call: u64) -> Option<&Entry> {
        let entry = self.calls.get(usize::try_from(call & 0xffff_ffff).ok()?)?;
        (u64::from(entry.generation) == call >> 32).then_some(entry)
    }

    /// The id of the call at this key.
    pub(super) fn call_at(&self, key: usize) -> Option<u64> {
        Some(u64::from(self.calls.get(key)?.generation) << 32 | key as u64)
    }

    /// For how long a time of its own that a call is waited for has been over: its timeout, or that
    /// in the queue.
    pub(in super::super) fn overdue_by(&mut self, call: u64, now: Instant) -> Duration {
        let timer = self.entry(call).and_then(|entry| entry.timer);
        timer
            .map(|timer| now.saturating_duration_since(timer.at()))
            .unwrap_or_default()
    }

    pub(super) fn cancel_timer(&mut self, call: u64) {
        if let Some(timer) = self.entry(call).and_then(|entry| entry.timer.take()) {
            self.deadlines.remove(timer);
        }
    }

    // -- waiting

    fn enqueue(&mut self, call: u64, priority: i32) {
        if self.entry(call).is_some_and(|entry| entry.fresh) {
            // Its worker may have to be started first: nobody waits behind it for that.
            return self.set_aside(call);
        }
        let lane = self.lane_of(call);
        let place = self.queue.push(lane, priority, call);
        let Some(entry) = self.entry(call) else {
            return;
        };
        entry.phase = Phase::Queued(place);
        self.arm_queue_timeout(call);
        self.emit_call(call, |call, task, label| Event::CallQueued {
            call,
            task,
            label,
        });
    }

    fn arm_queue_timeout(&mut self, call: u64) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        let (since, timeout) = (entry.since, entry.request.options().queue_timeout);
        if let Some(timeout) = timeout {
            let key = self
                .deadlines
                .insert(after(since, timeout), Due::QueueTimeout(call));
            if let Some(entry) = self.entry(call) {
                entry.timer = Some(key);
            }
        }
    }

    /// Has a call that waits again take a place of the queue, as it gave its own up when it began
    /// to run. Where none is free it owes one: the queue may be over its limit by what workers
    /// held, and nothing new comes in before that is paid.
    fn take_place(&mut self, call: u64) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        if std::mem::replace(&mut entry.has_place, true) {
            return;
        }
        match self.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(_) => self.places_owed += 1,
        }
    }

    fn give_place_back(&mut self, effects: &mut Effects) {
        match self.places_owed.checked_sub(1) {
            Some(left) => self.places_owed = left,
            None => effects.room += 1,
        }
    }

    /// Puts a call back where it was, before all others of its priority.
    pub(super) fn requeue(&mut self, call: u64) {
        self.take_place(call);
        let Some(entry) = self.entry(call) else {
            return;
        };
        if entry.fresh {
            return self.set_aside(call);
        }
        let priority = entry.request.options().priority.unwrap_or(0);
        entry.since = Instant::now();
        let lane = self.lane_of(call);
        let place = self.queue.push_front(lane, priority, call);
        if let Some(entry) = self.entry(call) {
            entry.phase = Phase::Queued(place);
        }
        self.arm_queue_timeout(call);
        self.emit_call(call, |call, task, label| Event::CallQueued {
            call,
            task,
            label,
        });
    }

    pub(super) fn set_aside(&mut self, call: u64) {
        self.take_place(call);
        if let Some(entry) = self.entry(call) {
            entry.phase = Phase::Aside;
            entry.since = Instant::now();
            self.aside.push_back(call);
            self.arm_queue_timeout(call);
        }
    }

    pub(super) fn delay(&mut self, call: u64, delay: Duration) {
        self.take_place(call);
        let key = self
            .deadlines
            .insert(after(Instant::now(), delay), Due::Delay(call));
        if let Some(entry) = self.entry(call) {
            entry.phase = Phase::Delayed;
            entry.timer = Some(key);
            self.delayed += 1;
        }
    }

    pub(super) fn on_delay_over(&mut self, call: u64, effects: &mut Effects) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        entry.timer = None;
        entry.since = Instant::now();
        let priority = entry.request.options().priority.unwrap_or(0);
        self.delayed -= 1;
        self.enqueue(call, priority);
        effects.changed = true;
    }

    pub(super) fn on_queue_timeout(&mut self, call: u64, effects: &mut Effects) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        entry.timer = None;
        let waited = entry.request.options().queue_timeout.unwrap_or_default();
        if !matches!(entry.phase, Phase::Running { .. }) {
            self.end(
                call,
                Err(CallError::TimedOut(TimedOut::Queue(waited))),
                None,
                effects,
            );
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.aside.len() + self.delayed
    }

    /// Takes a call out of wherever it waits.
    fn leave_queue(&mut self, call: u64, effects: &mut Effects) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        let (phase, timer) = (entry.phase, entry.timer.take());
        let had_place = std::mem::take(&mut entry.has_place);
        if let Some(timer) = timer {
            self.deadlines.remove(timer);
        }
        if had_place {
            self.give_place_back(effects);
        }
        match phase {
            Phase::Queued(place) => self.queue.remove(place),
            Phase::Aside => self.aside.retain(|aside| *aside != call),
            Phase::Delayed => self.delayed -= 1,
            Phase::Running { .. } => {}
        }
    }

    // -- dispatch

    /// Gives waiting calls to free workers until one of the two runs out.
    pub(super) fn dispatch(&mut self, effects: &mut Effects) {
        if self.free.is_empty() || (self.queue.is_empty() && self.aside.is_empty()) {
            return;
        }
        let (mut index, mut fresh_wanted) = (0, 0);
        while let Some(call) = self.aside.get(index).copied() {
            let Some(entry) = self.entry_ref(call) else {
                return;
            };
            let fresh = entry.fresh;
            match self.pick(&entry.want()) {
                Some(slot) => self.assign(call, slot, effects),
                None => {
                    fresh_wanted += usize::from(fresh);
                    index += 1;
                }
            }
        }
        if fresh_wanted > 0 {
            self.make_room_for_fresh(fresh_wanted);
        }
        let mut passed_over = Vec::new();
        while let Some((place, call)) = self.queue.first_beside(&passed_over) {
            let Some(entry) = self.entry_ref(call) else {
                break;
            };
            let want = Want {
                passes: &[],
                ..entry.want()
            };
            match self.pick(&want) {
                Some(slot) => self.assign(call, slot, effects),
                // The first in line is never overtaken by others of the same workers: a call that
                // wants one of its own would starve otherwise.
                None if self
                    .pick(&Want {
                        alone: false,
                        ..want
                    })
                    .is_some() =>
                {
                    break;
                }
                None => passed_over.push(place.lane()),
            }
        }
        if self.queue.is_empty() && self.aside.is_empty() {
            self.emit(|| Event::Drained);
        }
    }

    fn assign_new(&mut self, call: u64, effects: &mut Effects) {
        // It is in no queue yet: `leave_queue` has nothing to remove for a running call.
        if let Some(slot) = self
            .entry_ref(call)
            .and_then(|entry| self.pick(&entry.want()))
            && let Some(entry) = self.entry(call)
        {
            entry.phase = Phase::Running {
                slot,
                index: 0,
                since: entry.since,
            };
            self.assign(call, slot, effects);
        }
    }

    fn assign(&mut self, call: u64, number: u32, effects: &mut Effects) {
        self.leave_queue(call, effects);
        let now = Instant::now();
        // A host looks after the time of its attempts by itself.
        let is_remote = self.is_remote(number);
        let conn = self.conn(number);
        let slots = self.slot(number).map_or(0, |slot| slot.capacity as usize);
        let shared = self.config.slots > 1;
        let Some(entry) = self.entry(call) else {
            return;
        };
        if let Some(conn) = conn {
            conn.fill(&mut entry.request);
        }
        entry.attempt += 1;
        let (waited, alone, timeout) = (
            now - entry.since,
            entry.alone,
            entry.request.options().timeout,
        );
        let tell_start = timeout.is_some() && (shared && !alone || is_remote);
        let Some((conn, index)) = self.occupy(number, call, alone) else {
            return;
        };
        let Some(entry) = self.entry(call) else {
            return;
        };
        entry.phase = Phase::Running {
            slot: number,
            index,
            since: now,
        };
        let was_idle = index == 0;
        if let Some(bytes_max) = entry.request.options().capture_bytes {
            conn.begin_capture(bytes_max);
        }
        if let (Some(memory), Some(child)) = (entry.request.options().memory, conn.child()) {
            effects.watches.push((call, Arc::clone(child), memory));
        }
        conn.give(
            call,
            entry,
            Assignment {
                tell_start,
                ahead: index >= slots,
            },
        );
        if let Some(timeout) = timeout.filter(|_| !tell_start) {
            self.arm_run_timeout(call, after(now, timeout));
        }
        if conn.is_congested() {
            self.take_off(number);
        }
        if was_idle || effects.at_once {
            effects.flush.push(conn);
        } else {
            conn.kick();
        }
        self.counters.wait.record(waited);
        self.emit_started(call, number);
    }

    fn emit_started(&mut self, call: u64, worker: u32) {
        let attempt = self.entry(call).map_or(0, |entry| entry.attempt);
        self.emit_call(call, |call, task, label| Event::CallStarted {
            call,
            task,
            label,
            worker,
            attempt,
        });
    }

    pub(super) fn arm_run_timeout(&mut self, call: u64, at: Instant) {
        self.cancel_timer(call);
        let key = self.deadlines.insert(at, Due::RunTimeout(call));
        if let Some(entry) = self.entry(call) {
            entry.timer = Some(key);
        }
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    // -- the end

    /// Ends a call: the only way out.
    pub(super) fn end(
        &mut self,
        call: u64,
        outcome: Outcome,
        receipt: Option<StopReceipt>,
        effects: &mut Effects,
    ) {
        self.end_with_output(call, outcome, receipt, None, effects);
    }

    pub(super) fn end_with_output(
        &mut self,
        call: u64,
        outcome: Outcome,
        receipt: Option<StopReceipt>,
        output: Option<Output>,
        effects: &mut Effects,
    ) {
        self.leave_queue(call, effects);
        let told = outcome.as_ref().map_or_else(CallError::outcome, |_| "done");
        let attempts = self.entry(call).map_or(0, |entry| entry.attempt);
        self.emit_call(call, |call, task, label| Event::CallEnded {
            call,
            task,
            label,
            outcome: told,
            attempts,
        });
        let key = usize::try_from(call & 0xffff_ffff).unwrap_or(usize::MAX);
        let entry = self.calls.remove(key);
        if outcome.is_ok() {
            self.counters.done += 1;
        } else {
            self.counters.failed += 1;
        }
        effects.changed |= self.stage != Stage::Open;
        effects.ends.push(End {
            cell: entry.cell,
            outcome,
            receipt,
            output,
        });
    }

    /// Passes progress on to the caller.
    pub(super) fn on_progress(&mut self, call: u64, body: &Bytes, effects: &mut Effects) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        if body.len() > 9 + PROGRESS_BYTES_MAX {
            return;
        }
        let (Some(fraction), Some(codec)) = (body.first_chunk::<8>(), body.get(8)) else {
            return;
        };
        let fraction = f64::from_le_bytes(*fraction);
        let Some(codec) = Codec::of_number(*codec) else {
            return;
        };
        let payload = body.slice(9..);
        let text = codec.decode::<String>(&payload).unwrap_or_default();
        entry.progress = Some((fraction, text));
        effects.updates.push((
            Arc::clone(&entry.cell),
            Progress {
                fraction,
                codec,
                payload,
            },
        ));
    }

    fn emit_call(
        &mut self,
        call: u64,
        event: impl FnOnce(u64, Arc<str>, Option<Arc<str>>) -> Event,
    ) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let Some(entry) = self.entry(call) else {
            return;
        };
        let task = entry.request.task_name().into();
        let label = entry.request.options().label.as_deref().map(Into::into);
        self.emit(|| event(number_of(call), task, label));
    }
}

//! Events of worker processes and of callers, as a world makes them up.
//!
//! Each function makes one kind of event up, gives the model what must become of the calls
//! concerned, and has the dispatcher take it. An event that needs something which is not there (a
//! worker that runs, a stop that is under way) does nothing.

use std::cmp::Reverse;
use std::time::Duration;

use bytes::Bytes;

use super::super::super::config::Neighbours;
use super::super::super::ids::{CallId, WorkerId};
use super::super::super::stop_reason::StopReason;
use super::super::super::worker_conn::Health;
use super::super::Stage;
use super::super::deaths::WorkerExit;
use super::super::effects::HealthCheck;
use super::model::{SimStage, UNDELIVERED_MAX};
use super::world::World;
use crate::attempt_report::{Exit, LimitHit, Step};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::outcome::Failure;
use crate::process::Death;
use crate::refused::Refused;
use crate::wire::{CrashNote, Frame, PanicNote, kind};

/// How a call ends that is stopped for this reason.
pub(super) fn outcome_of(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::Timeout => "timed out",
        StopReason::Cancel(_) | StopReason::Shutdown => "cancelled",
        StopReason::Limit(LimitHit::Cpu { .. }) => "timed out",
        StopReason::Limit(_) | StopReason::BudgetAlone => "crashed",
        StopReason::Budget => unreachable!("its call waits again"),
    }
}

impl World {
    /// Makes one event up.
    pub(super) fn step(&mut self) {
        match self.below(100) {
            0..25 => self.admit(),
            25..45 => self.answer(),
            45..52 => self.start(),
            52..57 => self.leave(),
            57..64 => self.pass_time(),
            64..70 => self.prepare(),
            70..78 => self.go_on_with_a_stop(),
            78..82 => self.cancel(),
            82..85 => self.crash(),
            85..87 => self.late_frame(),
            87..89 => self.say_started(),
            89 => self.recycle(),
            90 => self.other(),
            91..95 => self.measure_memory(),
            _ => {
                #[cfg(feature = "remote")]
                self.host_event();
                #[cfg(not(feature = "remote"))]
                self.answer();
            }
        }
    }

    /// Makes up an event that brings the calls nearer to their end.
    pub(super) fn go_on(&mut self) {
        match self.below(12) {
            0..4 => self.answer(),
            4..6 => self.start(),
            6 => self.leave(),
            7 => self.pass_time(),
            8 => self.prepare(),
            9..11 => self.go_on_with_a_stop(),
            _ => {
                #[cfg(feature = "remote")]
                self.host_event();
            }
        }
    }

    fn processes(&self, stage: SimStage) -> Vec<WorkerId> {
        let workers = self.model.workers.iter();
        workers
            .filter(|(_, slot)| !slot.is_host && slot.stage == stage)
            .map(|(worker, _)| *worker)
            .collect()
    }

    /// Any attempt that was sent to a process, with its worker.
    pub(super) fn attempt(&mut self) -> Option<(CallId, WorkerId)> {
        let running: Vec<(CallId, WorkerId)> = self
            .model
            .calls
            .iter()
            .filter(|(_, call)| call.is_sent)
            .filter_map(|(id, call)| Some((*id, call.runs_on?)))
            .filter(|(_, worker)| !self.model.workers[worker].is_host)
            .collect();
        self.any(&running)
    }

    // -- start and end of processes

    fn start(&mut self) {
        let starting = self.starting.clone();
        let Some(worker) = self.any(&starting) else {
            return;
        };
        self.starting.retain(|other| *other != worker);
        if self.chance(15) {
            self.model.workers.remove(&worker);
            self.past.push(worker);
            // If that goes on, calls that wait are rejected.
            for call in self.waiting() {
                self.model.may_end(call, "rejected");
            }
            let error = Error::new(ErrorKind::CannotStart, "start a worker: simulated");
            return self.event(|core, effects| core.on_start_failed(worker, &error, effects));
        }
        let (conn, serial) = self.connect();
        self.conns.insert(serial, worker);
        self.model.worker(worker).stage = SimStage::Up;
        self.event(|core, effects| core.on_ready(worker, conn, worker.number, effects));
    }

    fn waiting(&self) -> Vec<CallId> {
        let calls = self.model.calls.iter();
        calls
            .filter(|(_, call)| call.runs_on.is_none())
            .map(|(id, _)| *id)
            .collect()
    }

    /// A process that was let go or broken off ends.
    fn leave(&mut self) {
        let leaving = self.leaving.clone();
        if let Some(worker) = self.any(&leaving) {
            self.die(worker, None, true, 0);
        }
    }

    /// A process ends because of one of its attempts, or by itself.
    fn crash(&mut self) {
        let up = self.processes(SimStage::Up);
        let Some(worker) = self.any(&up) else { return };
        let running = self.model.worker(worker).running.clone();
        let sent = running.into_iter();
        let sent: Vec<CallId> = sent.filter(|call| self.model.calls[call].is_sent).collect();
        let culprit = if self.chance(70) {
            self.any(&sent)
        } else {
            None
        };
        self.die(worker, culprit, false, libc::SIGSEGV);
    }

    /// The end of a process, by this signal. An attempt may be known to be at fault.
    pub(super) fn die(
        &mut self,
        worker: WorkerId,
        note: Option<CallId>,
        expected: bool,
        signal: i32,
    ) {
        self.leaving.retain(|other| *other != worker);
        if self.chance(80) {
            self.event(|core, effects| core.on_ending(worker, effects));
        }
        let exit = WorkerExit {
            pid: worker.number,
            death: Death {
                exit: Exit::Signal(signal),
                cpu: Some(Duration::ZERO),
                memory_peak: None,
            },
            crash_note: note.map(|call| (call, CrashNote::Signal)),
            thread: None,
            stopped_by: None,
            panic: None,
            broken: None,
            oom_kill: None,
            stderr: String::new(),
            output: None,
            unread: self.chance(20),
            expected,
        };
        self.expect_deaths(worker, &exit);
        self.model.workers.remove(&worker);
        self.past.push(worker);
        // Workers that end early count as failed starts.
        for call in self.waiting() {
            self.model.may_end(call, "rejected");
        }
        self.event(|core, effects| core.on_gone(worker, exit, effects));
    }

    /// What must become of the attempts of a process that has ended.
    fn expect_deaths(&mut self, worker: WorkerId, exit: &WorkerExit) {
        let mut running = self.model.worker(worker).running.clone();
        running.sort_unstable_by_key(|call| Reverse(*call));
        let forced = running.iter().find(|call| self.model.calls[call].is_forced);
        let noted = exit.crash_note.map(|(call, _)| call);
        let only = (running.len() == 1).then(|| running[0]);
        let culprit = forced.copied().or(noted).or(only);
        let is_unread = exit.unread && running.len() == 1;
        for call in running {
            let was_unread = is_unread || !self.model.calls[&call].is_sent;
            self.expect_death(call, culprit, was_unread);
        }
    }

    fn expect_death(&mut self, call: CallId, culprit: Option<CallId>, was_unread: bool) {
        let runs_again = self.config.neighbours == Neighbours::RunAgain;
        let is_culprit = culprit == Some(call);
        let entry = self.model.call(call);
        match entry.stop.clone() {
            None if was_unread && entry.undelivered < UNDELIVERED_MAX => {
                entry.undelivered += 1;
                self.model.give_back(call);
            }
            None if !is_culprit && runs_again => {
                entry.alone |= culprit.is_none();
                self.model.give_back(call);
            }
            None if is_culprit => self.model.charge(call, "crashed", true),
            None => self.model.charge(call, "lost", false),
            Some(StopReason::Budget) => {
                entry.memory.is_suspect = true;
                self.model.give_back(call);
            }
            Some(reason) if reason.is_crash() => self.model.charge(call, "crashed", true),
            Some(reason) => self.model.must_end(call, outcome_of(&reason)),
        }
    }

    // -- answers

    pub(super) fn answer(&mut self) {
        if let Some((call, worker)) = self.attempt() {
            self.answer_of(call, worker);
        }
    }

    fn answer_of(&mut self, call: CallId, worker: WorkerId) {
        let postcard = |body: Result<Vec<u8>, Error>| Bytes::from(body.expect("it encodes"));
        let choice = self.below(100);
        let (kind, body) = match choice {
            0..60 => (kind::DONE, Bytes::new()),
            60..75 => {
                let failure = Failure::new("simulated");
                (kind::FAILED, postcard(Codec::Postcard.encode(&failure)))
            }
            75..80 => {
                let note = PanicNote {
                    message: "simulated".to_owned(),
                    location: "here".to_owned(),
                };
                (kind::PANICKED, postcard(Codec::Postcard.encode(&note)))
            }
            80..88 => (kind::PASSED, Bytes::from_static(b"simulated")),
            88..95 => (kind::RETURNED, Bytes::new()),
            _ => {
                let refused = Refused::UnknownTask("simulated".to_owned());
                (kind::REFUSED, postcard(Codec::Postcard.encode(&refused)))
            }
        };
        if kind != kind::RETURNED {
            self.model.worker(worker).served += 1;
        }
        // An answer that comes before the kill counts.
        let stop = self.model.call(call).stop.clone();
        match (stop.filter(|stop| *stop != StopReason::Budget), kind) {
            (Some(reason), _) => self.model.must_end(call, outcome_of(&reason)),
            (None, kind::DONE) => self.model.must_end(call, "done"),
            (None, kind::FAILED) => self.model.charge(call, "failed", false),
            (None, kind::PANICKED) => self.model.charge(call, "panicked", false),
            (None, kind::PASSED) => self.model.pass(call, worker),
            (None, kind::RETURNED) => self.model.give_back(call),
            (None, _) => self.model.must_end(call, "rejected"),
        }
        self.frame(worker, kind, call, body);
    }

    fn frame(&mut self, worker: WorkerId, kind: u8, call: CallId, body: Bytes) {
        let id = call.to_wire();
        self.event(|core, effects| {
            let frame = Frame { kind, id, body };
            core.on_frame(worker, &frame, None, effects)
                .expect("it makes sense");
            core.on_frames_over(effects);
        });
    }

    /// An attempt began, or a worker wants to be replaced.
    fn say_started(&mut self) {
        let Some((call, worker)) = self.attempt() else {
            return;
        };
        let kind = if self.chance(80) {
            kind::STARTED
        } else {
            kind::RETIRE
        };
        self.frame(worker, kind, call, Bytes::from_static(b"simulated"));
    }

    /// A frame of a worker that is gone changes nothing.
    fn late_frame(&mut self) {
        let past = self.past.clone();
        let calls: Vec<CallId> = self.model.calls.keys().copied().collect();
        if let (Some(worker), Some(call)) = (self.any(&past), self.any(&calls)) {
            self.frame(worker, kind::DONE, call, Bytes::new());
            self.event(|core, effects| core.on_ending(worker, effects));
        }
    }

    fn prepare(&mut self) {
        let index = self.below(self.preparations.len());
        if index < self.preparations.len() {
            let preparation = self.preparations.swap_remove(index);
            let (call, worker) = (preparation.call, preparation.worker);
            self.event(|core, effects| core.on_prepared(call, worker, &mut None, effects));
        }
    }

    // -- stops

    fn cancel(&mut self) {
        let calls: Vec<CallId> = self.model.calls.keys().copied().collect();
        let Some(call) = self.any(&calls) else { return };
        let runs = self.model.call(call).runs_on.is_some();
        if runs && self.chance(30) {
            let (allowed, used) = (1 << 20, 2 << 20);
            let hit = if self.chance(50) {
                LimitHit::Memory { allowed, used }
            } else {
                LimitHit::Cpu {
                    allowed: Duration::from_secs(1),
                    used: Duration::from_secs(2),
                }
            };
            let reason = StopReason::Limit(hit);
            return self.event(|core, effects| core.stop(call, reason, effects));
        }
        let reason = "simulated".to_owned();
        if !runs {
            self.model.must_end(call, "cancelled");
        } else if self.model.call(call).stop == Some(StopReason::Budget) {
            self.model.call(call).stop = Some(StopReason::Cancel(reason));
        }
        self.event(|core, effects| core.cancel(call, "simulated".to_owned(), effects));
    }

    /// The next step of the kill ladder for one attempt.
    fn go_on_with_a_stop(&mut self) {
        let index = self.below(self.stops.len());
        let Some(stop) = self.stops.get_mut(index) else {
            return;
        };
        let (call, start) = (stop.order.call, stop.order.start);
        if stop.order.ended.is_cancelled() {
            self.stops.swap_remove(index);
            return self.go_on_with_an_old_stop(call, start);
        }
        let worker = self.model.calls[&call].runs_on.expect("it is stopped");
        if self.model.workers[&worker].is_host {
            return;
        }
        let Some(when_alone) = &mut stop.when_alone else {
            let spare = self.config.neighbours == Neighbours::Spare;
            let mut when_alone = None;
            self.event(|core, effects| {
                when_alone = core.schedule_kill(call, start, spare, effects);
            });
            self.stops[index].when_alone = when_alone;
            return;
        };
        if when_alone.try_recv().is_err() && !self.model.calls[&call].is_forced {
            return;
        }
        let step = if self.chance(50) {
            Step::Terminated
        } else {
            Step::Killed
        };
        self.event(|core, _| assert!(core.take_step(call, start, step), "it is being stopped"));
        self.model.call(call).is_forced = true;
        if self.chance(80) {
            self.die(worker, None, false, libc::SIGKILL);
        }
    }

    /// A ladder that has not noticed yet that its attempt has ended does nothing to a later one.
    fn go_on_with_an_old_stop(&mut self, call: CallId, start: u32) {
        self.event(|core, effects| {
            assert!(core.schedule_kill(call, start, false, effects).is_none());
            assert!(!core.take_step(call, start, Step::Killed));
        });
    }

    /// Stops every call, for a shutdown.
    pub(super) fn stop_all(&mut self) {
        let calls: Vec<CallId> = self.model.calls.keys().copied().collect();
        for call in calls {
            match self.model.call(call).runs_on {
                None => self.model.must_end(call, "rejected"),
                Some(worker) => {
                    let is_away = self.model.workers[&worker].stage == SimStage::Away;
                    if self.model.call(call).stop == Some(StopReason::Budget) {
                        self.model.call(call).stop = Some(StopReason::Shutdown);
                    }
                    if is_away && self.model.call(call).stop.is_none() {
                        self.model.must_end(call, "lost");
                    }
                }
            }
        }
        self.event(|core, effects| core.stop_all(effects));
    }

    // -- the rest

    fn recycle(&mut self) {
        let up = self.processes(SimStage::Up);
        if let Some(worker) = self.any(&up) {
            self.event(|core, effects| core.recycle(worker, effects));
        }
    }

    fn other(&mut self) {
        match self.below(4) {
            0 if self.core.stage() == Stage::Open => {
                let workers = self.below(self.config.workers_max + 1);
                self.event(|core, effects| core.set_min_workers(workers, effects));
            }
            1 => {
                for call in self.waiting() {
                    self.model.must_end(call, "cancelled");
                }
                self.event(|core, effects| {
                    core.cancel_waiting("simulated", effects);
                });
            }
            _ => self.event(|core, effects| core.set_min_workers(0, effects)),
        }
    }

    /// Looks at the workers, of which some do not answer or use much memory.
    pub(super) fn look_at_workers(&mut self, check: HealthCheck) {
        for (worker, _) in check.workers {
            let health = Health {
                misses: if self.chance(3) { 20 } else { 0 },
                stopped_by: self.chance(5).then(|| "SIGSTOP".to_owned()),
                used_bytes: if self.chance(5) { 2 << 20 } else { 0 },
                grown_bytes: if self.chance(5) { 90 << 20 } else { 0 },
            };
            self.event(|core, effects| core.on_health(worker, &health, effects));
        }
        self.event(|core, effects| core.on_health_over(effects));
    }
}

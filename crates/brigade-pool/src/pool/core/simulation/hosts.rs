//! Events of remote hosts, as a world makes them up.
//!
//! Hosts join, lose their connection, come back with some of their calls, stay away for too long,
//! answer, leave, and break the protocol. As in `events`, the model is given what must become of
//! the calls concerned before the dispatcher takes the event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::super::ids::{CallId, WorkerId};
use super::super::super::stop_reason::StopReason;
use super::super::super::worker_conn::remote_host::message::HostMessage;
use super::super::Stage;
use super::super::host_info::{HostInfo, TaskFacts};
use super::super::hosts::HostArrival;
use super::events::outcome_of;
use super::model::{SimStage, UNDELIVERED_MAX};
use super::world::World;
use crate::attempt_report::{AttemptOutcome, AttemptReport, Exit, Step};
use crate::outcome::Failure;
use crate::wire::remote::{RefusalKind, RemoteOutcome, ahead_max};

const HOSTS_MAX: usize = 4;

impl World {
    pub(super) fn host_event(&mut self) {
        if !self.model.rules.has_hosts {
            return;
        }
        match self.below(100) {
            0..10 => self.join(),
            10..25 => self.go_away(),
            25..45 => self.come_back(),
            45..85 => self.host_answer(),
            85..90 => self.measure(),
            90..95 => self.host_leaves(),
            _ => self.break_protocol(),
        }
    }

    fn hosts(&self, stage: SimStage) -> Vec<WorkerId> {
        let workers = self.model.workers.iter();
        workers
            .filter(|(_, slot)| slot.is_host && slot.stage == stage)
            .map(|(worker, _)| *worker)
            .collect()
    }

    fn join(&mut self) {
        let hosts = self.model.workers.values().filter(|slot| slot.is_host);
        if hosts.count() >= HOSTS_MAX || self.sessions == u8::MAX {
            return;
        }
        self.sessions += 1;
        let facts = |idempotent| TaskFacts {
            idempotent,
            retries: None,
            retry: None,
        };
        let slots = 1 + u32::try_from(self.below(4)).expect("a small number");
        let info = Arc::new(HostInfo {
            session: [self.sessions; 16],
            identity: "key".into(),
            name: "far".into(),
            pid: 7,
            slots,
            labels: vec!["far".into()],
            functions: false,
            tasks: [("once".into(), facts(false)), ("twice".into(), facts(true))].into(),
        });
        let (conn, serial) = self.connect();
        let mut joined = Err(String::new());
        self.event(|core, effects| joined = core.join(&info, conn, effects));
        let Ok((worker, _)) = joined else {
            assert!(!self.model.is_open, "an open pool takes hosts in");
            return;
        };
        self.conns.insert(serial, worker);
        let capacity = slots as usize + ahead_max(slots) as usize;
        self.add_worker(worker, SimStage::Away, true, capacity);
        self.lost_at
            .insert(worker, self.now + self.config.hosts.keep);
        self.come_up(worker);
    }

    // -- connections

    /// The connection of a host is up; of some calls it received nothing.
    fn come_up(&mut self, worker: WorkerId) {
        let running = self.model.worker(worker).running.clone();
        let mut held = Vec::new();
        for call in running {
            if self.chance(80) {
                let attempt = self.core.entry(call).attempt;
                held.push((call, attempt));
            } else {
                let stop = entry_stop(self.model.call(call).stop.clone());
                match stop {
                    None => self.model.give_back(call),
                    Some(outcome) => self.model.must_end(call, outcome),
                }
            }
        }
        if self.chance(10) {
            // A call of an earlier session, and an earlier attempt of a call that may run there.
            held.push((CallId::new(u32::MAX, 0), 1));
        }
        let arrival = HostArrival {
            held,
            leaving: self.chance(3),
        };
        self.model.worker(worker).stage = SimStage::Up;
        self.lost_at.remove(&worker);
        self.event(|core, effects| {
            let welcome = core
                .on_host_up(worker, &arrival)
                .expect("its session is on");
            core.on_host_welcomed(worker, &arrival, &welcome, effects);
        });
    }

    fn come_back(&mut self) {
        let away = self.hosts(SimStage::Away);
        if let Some(worker) = self.any(&away) {
            self.come_up(worker);
        }
    }

    /// The connection of a host is down; of some calls not a byte was sent.
    fn go_away(&mut self) {
        let up = self.hosts(SimStage::Up);
        let Some(worker) = self.any(&up) else { return };
        let mut unseen = Vec::new();
        for call in self.model.worker(worker).running.clone() {
            let stop = self.model.call(call).stop.clone();
            if self.chance(30) {
                unseen.push(call);
                match entry_stop(stop) {
                    None => self.model.give_back(call),
                    Some(outcome) => self.model.must_end(call, outcome),
                }
            } else if stop == Some(StopReason::Shutdown) {
                self.model.must_end(call, "lost");
            }
        }
        self.model.worker(worker).stage = SimStage::Away;
        self.lost_at
            .insert(worker, self.now + self.config.hosts.keep);
        if self.core.stage() == Stage::Closed {
            self.expect_loss(worker);
        }
        self.event(|core, effects| core.on_host_down(worker, "simulated", &unseen, effects));
    }

    /// What must become of the calls of a host whose session is over.
    fn expect_loss(&mut self, worker: WorkerId) {
        let is_closed = self.core.stage() == Stage::Closed;
        for call in self.model.worker(worker).running.clone() {
            let entry = self.model.call(call);
            let moves_on = entry.wishes.twice
                && entry.stop.is_none()
                && !is_closed
                && entry.undelivered < UNDELIVERED_MAX;
            if moves_on {
                entry.undelivered += 1;
                self.model.give_back(call);
            } else {
                self.model.must_end(call, "lost");
            }
        }
    }

    /// Hosts that have been away for too long are given up now.
    pub(super) fn lose_hosts(&mut self) {
        let lost: Vec<WorkerId> = self
            .lost_at
            .iter()
            .filter(|(_, at)| **at <= self.now)
            .map(|(worker, _)| *worker)
            .collect();
        for worker in lost {
            self.expect_loss(worker);
        }
    }

    fn break_protocol(&mut self) {
        let up = self.hosts(SimStage::Up);
        if let Some(worker) = self.any(&up) {
            self.expect_loss(worker);
            self.event(|core, effects| core.part_with(worker, "simulated", effects));
        }
    }

    fn host_leaves(&mut self) {
        let up = self.hosts(SimStage::Up);
        let Some(worker) = self.any(&up).filter(|_| self.chance_to_leave()) else {
            return;
        };
        let call = CallId::new(0, 0);
        self.event(|core, effects| {
            let message = HostMessage::Leaving;
            core.on_host_message(worker, call, message, effects)
                .expect("it makes sense");
            core.on_frames_over(effects);
        });
    }

    fn chance_to_leave(&self) -> bool {
        self.model.workers.len() > 2
    }

    fn measure(&mut self) {
        let up = self.hosts(SimStage::Up);
        let micros = u64::try_from(self.below(5_000)).expect("a small number");
        if let Some(worker) = self.any(&up) {
            let took = Duration::from_micros(micros);
            self.event(|core, effects| core.on_round_trip(worker, took, effects));
        }
    }

    // -- answers

    fn host_answer(&mut self) {
        let up = self.hosts(SimStage::Up);
        let Some(worker) = self.any(&up) else { return };
        let running = self.model.worker(worker).running.clone();
        let Some(call) = self.any(&running) else {
            return;
        };
        let entry = self.model.call(call);
        let (stop, twice) = (entry.stop.clone(), entry.wishes.twice);
        let ending = self.ending();
        match (stop, &ending) {
            (Some(reason), _) => self.model.must_end(call, outcome_of(&reason)),
            (None, RemoteOutcome::Done) => self.model.must_end(call, "done"),
            (None, RemoteOutcome::Failed(_)) => self.model.charge(call, "failed", false),
            (None, RemoteOutcome::Panicked(_)) => self.model.charge(call, "panicked", false),
            (None, RemoteOutcome::Crashed(_)) => self.model.charge(call, "crashed", true),
            (None, RemoteOutcome::Lost(_)) => self.model.charge(call, "lost", false),
            (None, RemoteOutcome::TimedOut(_)) => self.model.must_end(call, "timed out"),
            (None, RemoteOutcome::Passed(_)) => self.model.pass(call, worker),
            (
                None,
                RemoteOutcome::Stopped {
                    report: Some(_), ..
                },
            ) if !twice => {
                self.model.must_end(call, "lost");
            }
            (None, RemoteOutcome::Returned | RemoteOutcome::Stopped { .. }) => {
                self.model.give_back(call)
            }
            (None, RemoteOutcome::Refused { .. }) => self.model.must_end(call, "rejected"),
        }
        self.event(|core, effects| {
            let message = HostMessage::Answer {
                ending,
                output: None,
                cost: None,
                result: Bytes::new(),
            };
            core.on_host_message(worker, call, message, effects)
                .expect("it makes sense");
            core.on_frames_over(effects);
        });
    }

    fn ending(&mut self) -> RemoteOutcome {
        match self.below(100) {
            0..60 => RemoteOutcome::Done,
            60..70 => RemoteOutcome::Failed(Box::new(Failure::new("simulated"))),
            70..74 => RemoteOutcome::Panicked(report(
                AttemptOutcome::Panicked {
                    message: String::new(),
                    location: String::new(),
                },
                None,
            )),
            74..80 => RemoteOutcome::Crashed(report(
                AttemptOutcome::Signalled,
                Some(Exit::Signal(libc::SIGSEGV)),
            )),
            80..82 => RemoteOutcome::Lost(report(AttemptOutcome::Neighbour, None)),
            82..84 => RemoteOutcome::TimedOut(report(AttemptOutcome::TimedOut, None)),
            84..90 => RemoteOutcome::Passed(vec!["simulated".to_owned()]),
            90..93 => RemoteOutcome::Stopped {
                report: Some(report(AttemptOutcome::Shutdown, None)),
                step: Step::Asked,
            },
            93..97 => RemoteOutcome::Returned,
            _ => RemoteOutcome::Refused {
                why: RefusalKind::UnknownTask,
                text: String::new(),
            },
        }
    }
}

/// How a call ends that was to be stopped and never reached its host.
fn entry_stop(stop: Option<StopReason>) -> Option<&'static str> {
    stop.map(|reason| outcome_of(&reason))
}

fn report(ended: AttemptOutcome, exit: Option<Exit>) -> Box<AttemptReport> {
    let mut report = AttemptReport::new(String::new(), 1, ended);
    (report.worker, report.pid) = (1, 7);
    report.call = 1;
    report.exit = exit;
    Box::new(report)
}

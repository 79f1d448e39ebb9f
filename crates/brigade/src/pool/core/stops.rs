//! Stops: what becomes of a call that somebody, a clock or a limit wants to end.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::super::worker_conn::WorkerConn;
use super::calls::Entry;
use super::{Core, Effects, Ended, Phase};
use crate::attempt_report::{Step, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled};

/// Why an attempt is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum StopReason {
    Timeout,
    Cancel(String),
    Memory,
    Shutdown,
}

impl StopReason {
    /// What an attempt is told that is asked to stop.
    pub(in super::super) fn told(&self) -> &str {
        match self {
            Self::Cancel(reason) => reason,
            Self::Timeout => "it ran out of time",
            Self::Memory | Self::Shutdown => "the pool is shutting down",
        }
    }
}

pub(in super::super) struct Stop {
    pub(super) why: StopReason,
    pub(super) step: Step,
    pub(super) ended: Ended,
    /// Cancelled when nobody wants to wait for the softer steps any more.
    #[cfg_attr(
        not(any(feature = "broker", feature = "remote")),
        expect(
            dead_code,
            reason = "only workers of a broker and hosts are in such a hurry"
        )
    )]
    pub(super) hurry: CancellationToken,
    pub(super) asked_at: Instant,
}

/// An attempt to take up the kill ladder.
pub(in super::super) struct StopOrder {
    pub(in super::super) call: u64,
    pub(in super::super) why: StopReason,
    pub(in super::super) conn: WorkerConn,
    pub(in super::super) ended: Ended,
    pub(in super::super) hurry: CancellationToken,
}

impl Core {
    /// Stops a call because its caller wants that; who waited behind it may go on.
    pub(in super::super) fn cancel(&mut self, call: u64, reason: String, effects: &mut Effects) {
        self.stop(call, StopReason::Cancel(reason), effects);
        self.settle(effects);
    }

    /// Stops a call wherever it is. If it runs, an order to take up the ladder comes out.
    pub(in super::super) fn stop(&mut self, call: u64, why: StopReason, effects: &mut Effects) {
        let Some(entry) = self.entry(call) else {
            return;
        };
        let Phase::Running { slot, .. } = entry.phase else {
            let outcome = match why {
                StopReason::Cancel(reason) => CallError::Cancelled(Cancelled {
                    reason,
                    report: None,
                }),
                StopReason::Shutdown => CallError::Rejected(Error::new(
                    ErrorKind::Closed,
                    "run a call: the pool was shut down before its turn",
                )),
                StopReason::Timeout | StopReason::Memory => return,
            };
            let receipt = StopReceipt::new(Step::NotStarted, Duration::ZERO);
            return self.end(call, Err(outcome), Some(receipt), effects);
        };
        if entry.stop.is_some() {
            return;
        }
        #[cfg(feature = "remote")]
        if why == StopReason::Shutdown && self.is_away(slot) {
            // Nobody is there to be asked, and the pool ends before it may come back.
            return self.lose(call, "the pool was shut down while it was away", effects);
        }
        let Some(entry) = self.entry(call) else {
            return;
        };
        let (ended, hurry) = (Ended::new(), CancellationToken::new());
        let stop = Stop {
            why: why.clone(),
            step: Step::Asked,
            ended: ended.clone(),
            hurry: hurry.clone(),
            asked_at: Instant::now(),
        };
        entry.stop = Some(Box::new(stop));
        if let Some(conn) = self.conn(slot) {
            effects.stops.push(StopOrder {
                call,
                why,
                conn,
                ended,
                hurry,
            });
        }
    }

    /// Makes a stop that is under way take its last step at once.
    #[cfg(any(feature = "broker", feature = "remote"))]
    pub(in super::super) fn hurry(&mut self, call: u64) {
        if let Some(stop) = self.entry(call).and_then(|entry| entry.stop.as_ref()) {
            stop.hurry.cancel();
        }
    }

    /// Ends every call at once, because nothing of the pool will run any more.
    pub(in super::super) fn give_up(&mut self, error: &Error, effects: &mut Effects) {
        self.stage = super::Stage::Closed;
        self.has_runtime = false;
        let keys: Vec<usize> = self.calls.iter().map(|(key, _)| key).collect();
        for call in keys
            .into_iter()
            .filter_map(|key| self.call_at(key))
            .collect::<Vec<_>>()
        {
            let error = Error::new(error.kind(), error.to_string());
            self.end(call, Err(CallError::Rejected(error)), None, effects);
        }
        // Their processes are ended and reaped when the last that holds them drops them.
        effects.dropped.extend(
            self.slots
                .iter_mut()
                .flatten()
                .filter_map(|slot| slot.conn.take()),
        );
        self.slots.clear();
        self.free.clear();
        self.counts_are_stale();
        effects.changed = true;
    }

    /// Why nothing is taken any more.
    pub(in super::super) fn closed(&self) -> Error {
        if self.has_runtime {
            Error::new(ErrorKind::Closed, "call a pool that was shut down")
        } else {
            Self::runtime_ended()
        }
    }

    /// Stops every call.
    pub(in super::super) fn stop_all(&mut self, effects: &mut Effects) {
        let keys: Vec<usize> = self.calls.iter().map(|(key, _)| key).collect();
        for call in keys
            .into_iter()
            .filter_map(|key| self.call_at(key))
            .collect::<Vec<_>>()
        {
            self.stop(call, StopReason::Shutdown, effects);
        }
    }

    /// Stops the calls that wait; returns how many.
    pub(in super::super) fn cancel_waiting(
        &mut self,
        reason: &str,
        effects: &mut Effects,
    ) -> usize {
        let waits = |(_, entry): &(usize, &Entry)| !matches!(entry.phase, Phase::Running { .. });
        let calls: Vec<u64> = self
            .calls
            .iter()
            .filter(waits)
            .filter_map(|(key, _)| self.call_at(key))
            .collect();
        for call in &calls {
            self.stop(*call, StopReason::Cancel(reason.to_owned()), effects);
        }
        self.settle(effects);
        calls.len()
    }

    /// Notes that a harder step is being taken. `false` if the attempt has ended.
    pub(in super::super) fn take_step(&mut self, call: u64, step: Step) -> bool {
        let stop = self.entry(call).and_then(|entry| entry.stop.as_mut());
        stop.map(|stop| stop.step = step).is_some()
    }

    /// Whether the call's attempt runs on that very process.
    pub(in super::super) fn runs_on(&mut self, call: u64, epoch: u64) -> bool {
        match self.entry(call).map(|entry| entry.phase) {
            Some(Phase::Running { slot, .. }) => self.epoch(slot) == Some(epoch),
            _ => false,
        }
    }
}

//! What a step of the dispatcher asks the shell around it to do, after the lock is released.
//!
//! [`Effects`] is filled by the dispatcher and emptied by `Shared::carry_out`, which knows the
//! order in which its parts must be done. Nothing in here is carried out by the dispatcher itself.
//! Two parts lead to another step: `preparations` and `health_check`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::answered::AnsweredAttempt;
use super::super::cell::{Cell, EncodedOutcome, EndFacts};
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::super::worker_conn::{OwnProcess, WorkerConn};
use super::attempt_span::{EndedSpan, SpanRequest};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::{Step, StopReceipt};
use crate::event::Event;
use crate::outcome::CallError;
use crate::output::Output;
use crate::progress::Progress;

type Conn = Arc<dyn WorkerConn>;

/// What is to be done outside of the lock. `Shared::carry_out` does it, in an order of its own.
#[derive(Default)]
pub(in super::super) struct Effects {
    pub(in super::super) ends: Vec<CallEnd>,
    /// Workers whose frames are to be written.
    pub(in super::super) writes: Vec<Write>,
    /// Many calls come in one step: each worker is written to once, at its end, by the caller.
    pub(in super::super) at_once: bool,
    /// Worker processes to start.
    pub(in super::super) starts: Vec<WorkerId>,
    /// Workers that have nothing more to do.
    pub(in super::super) let_go: Vec<Conn>,
    /// Workers that must be ended at once, and why.
    pub(in super::super) breaks: Vec<(Conn, String)>,
    /// Workers that nothing looks after any more. Dropping a process may take a moment.
    pub(in super::super) dropped: Vec<Conn>,
    /// Attempts that begin to be stopped.
    pub(in super::super) stops: Vec<StopOrder>,
    /// Attempts whose worker may not have received that they are to be stopped.
    pub(in super::super) stop_requests: Vec<StopRequest>,
    pub(in super::super) updates: Vec<(Arc<Cell>, Progress)>,
    /// Attempts that are measured for the memory budget.
    pub(in super::super) memory_measures: Vec<MemoryMeasure>,
    /// Calls to send once their attempt is prepared.
    pub(in super::super) preparations: Vec<Preparation>,
    /// Spans to record and to drop.
    pub(in super::super) spans: Vec<EndedSpan>,
    /// Workers whose health is to be looked at.
    pub(in super::super) health_check: Option<HealthCheck>,
    /// Events that are logged as well.
    pub(in super::super) logged: Vec<Event>,
    /// Places of the queue that became free.
    pub(in super::super) room: usize,
    /// The first deadline is earlier than before.
    pub(in super::super) clock: bool,
    /// Something that `ready`, `recycle` or `shutdown` may wait for.
    pub(in super::super) changed: bool,
}

/// The end of a call, for its caller.
pub(in super::super) struct CallEnd {
    pub(in super::super) cell: Arc<Cell>,
    pub(in super::super) outcome: EncodedOutcome,
    pub(in super::super) details: EndDetails,
}

/// What comes with an outcome.
#[derive(Default)]
pub(in super::super) struct EndDetails {
    /// By which step a stop succeeded, and how long it took.
    pub(in super::super) stopped: Option<(Step, Duration)>,
    /// What the attempt wrote, if that was captured.
    pub(in super::super) output: Option<Output>,
    /// The attempt that its worker answered with this outcome.
    pub(in super::super) attempt: Option<AnsweredAttempt>,
    /// The worker whose last lines belong into the attempt's report.
    pub(in super::super) stderr_of: Option<Conn>,
}

/// Frames of a worker to be written.
pub(in super::super) struct Write {
    pub(in super::super) conn: Conn,
    /// Now, by this thread; otherwise soon, with what is appended until then.
    pub(in super::super) is_now: bool,
}

/// An attempt to stop, by one step of the kill ladder after the other.
pub(in super::super) struct StopOrder {
    pub(in super::super) call: CallId,
    /// Which start of the call it is: a later one is none of its business.
    pub(in super::super) start: u32,
    pub(in super::super) reason: StopReason,
    pub(in super::super) conn: Conn,
    /// Cancelled when the attempt has ended.
    pub(in super::super) ended: CancellationToken,
    /// Cancelled when the last step is to be taken at once.
    pub(in super::super) hurry: CancellationToken,
}

/// An attempt whose worker is asked once more to stop it.
pub(in super::super) struct StopRequest {
    pub(in super::super) conn: Conn,
    pub(in super::super) call: CallId,
    pub(in super::super) reason: StopReason,
    pub(in super::super) hurry: bool,
}

/// An attempt that is measured for the memory budget.
pub(in super::super) struct MemoryMeasure {
    pub(in super::super) conn: Conn,
    pub(in super::super) call: CallId,
    /// Which start of the call it is.
    pub(in super::super) start: u32,
}

/// What has to be done before a call is sent: its worker's output is captured, its limits are held,
/// or its attempt gets a span. It is sent by `Core::on_prepared`.
pub(in super::super) struct Preparation {
    pub(in super::super) conn: Conn,
    pub(in super::super) call: CallId,
    pub(in super::super) worker: WorkerId,
    /// Keep what the attempt writes, up to so many bytes.
    pub(in super::super) capture: Option<usize>,
    /// Limits to hold in place of those of the worker's last attempt.
    pub(in super::super) limits: Option<AttemptLimits>,
    pub(in super::super) span: Option<SpanRequest>,
}

/// Workers to look at; `Core::on_health` takes what was found.
pub(in super::super) struct HealthCheck {
    /// The check comes at its time, so that a worker's silence says something about the worker.
    pub(in super::super) is_in_time: bool,
    pub(in super::super) workers: Vec<(WorkerId, Conn)>,
}

impl CallEnd {
    /// Adds the worker's last lines to the attempt's report.
    pub(in super::super) fn read_stderr(&mut self) {
        let Some(conn) = self.details.stderr_of.take() else {
            return;
        };
        if let Some(report) = self.outcome.as_mut().err().and_then(CallError::report_mut) {
            report.stderr = conn
                .process()
                .map_or_else(String::new, OwnProcess::stderr_tail);
        }
    }

    /// Hands the outcome to the caller.
    pub(in super::super) fn finish(self) {
        let EndDetails {
            stopped,
            output,
            attempt,
            ..
        } = self.details;
        let facts = EndFacts {
            receipt: stopped.map(|(step, took)| StopReceipt::new(step, took)),
            output,
            attempt,
        };
        self.cell.finish(self.outcome, facts);
    }
}

impl Effects {
    /// Has a worker's frames written.
    pub(super) fn write(&mut self, conn: &Conn, is_now: bool) {
        let is_known = self
            .writes
            .last()
            .is_some_and(|last| Arc::ptr_eq(&last.conn, conn) && last.is_now >= is_now);
        if !is_known {
            let conn = Arc::clone(conn);
            self.writes.push(Write { conn, is_now });
        }
    }
}

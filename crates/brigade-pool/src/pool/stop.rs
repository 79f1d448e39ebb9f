//! The kill ladder: ask, SIGTERM, SIGKILL, each with its own bound, always over the whole process
//! tree.
//!
//! A remote host has a ladder of its own: it is only asked.
//!
//! An attempt that goes over a limit on memory or processes has no time to be asked: its process
//! tree is killed at once, by the thread that watches limits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::Neighbours;
use super::core::StopOrder;
use super::ids::{CallId, WorkerId};
use super::shared::Shared;
use super::stop_reason::StopReason;
use super::worker_conn::{OwnProcess, WorkerConn};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::{LimitHit, MemoryHold, Step};
use crate::error::Error;
use crate::process::LimitedAttempt;

/// Stops an attempt.
pub(super) async fn stop(shared: Arc<Shared>, order: StopOrder) {
    match order.conn.process() {
        Some(process) => escalate(&shared, &order, process).await,
        None => ask_host(&order).await,
    }
}

/// Asks a remote host, which takes the steps itself; its answer says which one succeeded. What it
/// does not receive, because its connection is down, it is sent again when it is back.
async fn ask_host(order: &StopOrder) {
    let StopOrder {
        call,
        reason,
        conn,
        ended,
        hurry,
        ..
    } = order;
    conn.ask_to_stop(*call, reason, hurry.is_cancelled());
    tokio::select! {
        () = ended.cancelled() => {}
        () = hurry.cancelled() => conn.ask_to_stop(*call, reason, true),
    }
}

/// Takes one step after the other until the attempt has ended.
async fn escalate(shared: &Arc<Shared>, order: &StopOrder, process: &dyn OwnProcess) {
    let StopOrder {
        call,
        start,
        reason,
        conn,
        ended,
        hurry,
    } = order;
    let (call, start) = (*call, *start);
    // Memory or processes that run out leave no time to ask.
    let ask = if reason.is_urgent() {
        Duration::ZERO
    } else {
        shared.config.ask
    };
    if !ask.is_zero() {
        conn.ask_to_stop(call, reason, false);
        if ended_within(ask, ended, hurry).await {
            return;
        }
    }
    let spare = shared.config.neighbours == Neighbours::Spare;
    let mut when_alone = None;
    shared.step(|core, effects| when_alone = core.schedule_kill(call, start, spare, effects));
    let Some(when_alone) = when_alone else { return };
    tokio::select! {
        biased;
        () = ended.cancelled() => return,
        _ = when_alone => {}
    }
    if !reason.is_urgent() && !hurry.is_cancelled() {
        if !shared.peek(|core| core.take_step(call, start, Step::Terminated)) {
            return;
        }
        process.signal(Signal::TERM);
        if ended_within(shared.config.terminate, ended, hurry).await {
            return;
        }
    }
    if shared.peek(|core| core.take_step(call, start, Step::Killed)) {
        // Where even that does not end it, it is given up, and the attempt ends with it.
        process.kill().await;
        ended.cancelled().await;
    }
}

/// `false` if it takes longer than that, or if a hurry ends the wait.
async fn ended_within(
    bound: Duration,
    ended: &CancellationToken,
    hurry: &CancellationToken,
) -> bool {
    timeout(bound, hurry.run_until_cancelled(ended.cancelled()))
        .await
        .is_ok_and(|ended| ended.is_some())
}

/// Has a worker hold the limits of an attempt that it is about to be sent. Returns what holds its
/// memory.
///
/// # Errors
///
/// `Unsupported` if a limit cannot be held on this host.
pub(super) fn hold_limits(
    shared: &Arc<Shared>,
    conn: &Arc<dyn WorkerConn>,
    (call, worker): (CallId, WorkerId),
    limits: AttemptLimits,
) -> Result<Option<MemoryHold>, Error> {
    let Some(process) = conn.process() else {
        return Ok(None);
    };
    let attempt = Limited {
        shared: Arc::downgrade(shared),
        conn: Arc::downgrade(conn),
        call,
        worker,
        start: shared.peek(|core| core.start_of(call)),
    };
    process.hold_limits(limits, Box::new(attempt))
}

/// An attempt whose limits are watched.
struct Limited {
    shared: Weak<Shared>,
    conn: Weak<dyn WorkerConn>,
    call: CallId,
    worker: WorkerId,
    /// Which start of the call it is.
    start: u32,
}

impl LimitedAttempt for Limited {
    fn is_running(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|shared| shared.peek(|core| core.is_attempt(self.call, self.start)))
    }

    /// The ladder has one step for what is urgent, which is taken here at once: the runtime of the
    /// pool may be busy.
    fn over(&self, hit: LimitHit) -> bool {
        let (Some(shared), Some(conn)) = (self.shared.upgrade(), self.conn.upgrade()) else {
            return false;
        };
        let mut is_running = false;
        let attempt = (self.call, self.worker);
        shared.step(|core, effects| {
            is_running =
                core.is_attempt(self.call, self.start) && core.on_over_limit(attempt, hit, effects);
        });
        if is_running
            && StopReason::Limit(hit).is_urgent()
            && shared.peek(|core| core.take_step(self.call, self.start, Step::Killed))
            && let Some(process) = conn.process()
        {
            process.signal(Signal::KILL);
        }
        is_running
    }
}

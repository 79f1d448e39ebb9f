//! The kill ladder: ask, SIGTERM, SIGKILL, each with its own bound, always over the whole process
//! tree.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::config::Neighbours;
use super::core::StopOrder;
use super::ids::CallId;
use super::stop_reason::StopReason;
#[cfg(feature = "remote")]
use super::worker_conn::RemoteHost;
use super::worker_conn::WorkerConn as _;
use super::worker_conn::process::WorkerProcess;
use crate::attempt_report::Step;

/// How often the memory of a limited attempt is measured.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Stops an attempt on a remote host, which takes the steps itself.
#[cfg(feature = "remote")]
pub(super) async fn escalate_remote(order: StopOrder, host: Arc<RemoteHost>) {
    let StopOrder {
        call,
        reason,
        ended,
        hurry,
        ..
    } = order;
    host.ask_to_stop(call, &reason, hurry.is_cancelled());
    tokio::select! {
        () = ended.cancelled() => {}
        () = hurry.cancelled() => host.ask_to_stop(call, &reason, true),
    }
}

/// Takes one step after the other until the attempt has ended.
pub(super) async fn escalate(shared: Arc<Shared>, order: StopOrder, worker: Arc<WorkerProcess>) {
    let StopOrder {
        call,
        reason,
        ended,
        hurry,
        ..
    } = order;
    // Memory that runs out leaves no time to ask.
    let ask = if reason == StopReason::Memory {
        Duration::ZERO
    } else {
        shared.config.ask
    };
    if !ask.is_zero() {
        worker.ask_to_stop(call, &reason, false);
        if ended_within(ask, &ended, &hurry).await {
            return;
        }
    }
    let spare = shared.config.neighbours == Neighbours::Spare;
    let mut when_alone = None;
    shared.step(|core, effects| when_alone = core.schedule_kill(call, spare, effects));
    let Some(when_alone) = when_alone else { return };
    tokio::select! {
        _ = when_alone => {}
        () = ended.cancelled() => return,
    }
    if reason != StopReason::Memory && !hurry.is_cancelled() {
        if !shared.peek(|core| core.take_step(call, Step::Terminated)) {
            return;
        }
        worker.signal(Signal::TERM);
        if ended_within(shared.config.terminate, &ended, &hurry).await {
            return;
        }
    }
    if shared.peek(|core| core.take_step(call, Step::Killed)) {
        // Where even that does not end it, it is given up, and the attempt ends with it.
        worker.kill().await;
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

/// Measures the resident memory of a limited attempt's worker while it runs, and stops it over the
/// limit.
pub(super) async fn check_memory(
    shared: Arc<Shared>,
    call: CallId,
    worker: Arc<WorkerProcess>,
    limit: u64,
) {
    while shared.peek(|core| core.runs_on(call, worker.id())) {
        if worker.resident_bytes() > limit {
            return shared.step(|core, effects| core.stop(call, StopReason::Memory, effects));
        }
        tokio::select! {
            () = sleep(MEMORY_CHECK_INTERVAL) => {}
            () = worker.gone() => return,
        }
    }
}

//! The kill ladder: ask, SIGTERM, SIGKILL, each with its own bound, always over the whole process
//! tree.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::builder::Neighbours;
use super::core::{Ended, StopOrder, StopReason};
#[cfg(feature = "remote")]
use super::worker_conn::RemoteHost;
use super::worker_conn::{WorkerConn, WorkerProcess};
use crate::attempt_report::Step;
use crate::process::proc_fs::resident_bytes;

/// How often a limited attempt is weighed.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Takes an attempt up the ladder until it has ended.
pub(super) async fn escalate(shared: Arc<Shared>, order: StopOrder) {
    match order.conn.clone() {
        WorkerConn::Process(child) => escalate_process(shared, order, &child).await,
        #[cfg(feature = "remote")]
        WorkerConn::Remote(host) => escalate_remote(order, &host).await,
    }
}

/// The host climbs; its answer says which step did it. What it does not hear, because its
/// connection is down, it is told when it is back.
#[cfg(feature = "remote")]
async fn escalate_remote(order: StopOrder, host: &RemoteHost) {
    let StopOrder {
        call,
        why,
        ended,
        hurry,
        ..
    } = order;
    host.stop(call, why.told(), hurry.is_cancelled());
    tokio::select! {
        () = ended.cancelled() => {}
        () = hurry.cancelled() => host.stop(call, why.told(), true),
    }
}

async fn escalate_process(shared: Arc<Shared>, order: StopOrder, child: &WorkerProcess) {
    let StopOrder {
        call,
        why,
        ended,
        hurry,
        ..
    } = order;
    // Memory that runs out leaves no time to ask.
    let ask = if why == StopReason::Memory {
        Duration::ZERO
    } else {
        shared.config.ask
    };
    if !ask.is_zero() {
        child.ask_to_stop(call, why.told());
        if ended_within(ask, &ended, &hurry).await {
            return;
        }
    }
    let spare = shared.config.neighbours == Neighbours::Spare;
    let mut alone = None;
    shared.step(|core, effects| alone = core.schedule_kill(call, spare, effects));
    let Some(alone) = alone else { return };
    tokio::select! {
        _ = alone => {}
        () = ended.cancelled() => return,
    }
    if why != StopReason::Memory && !hurry.is_cancelled() {
        if !shared.peek(|core| core.take_step(call, Step::Terminated)) {
            return;
        }
        child.signal(Signal::TERM);
        if ended_within(shared.config.terminate, &ended, &hurry).await {
            return;
        }
    }
    if shared.peek(|core| core.take_step(call, Step::Killed)) {
        // Where even that does not end it, it is given up, and the attempt ends with it.
        child.kill().await;
        ended.cancelled().await;
    }
}

/// `false` if it takes longer than that, or than somebody wants to wait.
async fn ended_within(bound: Duration, ended: &Ended, hurry: &CancellationToken) -> bool {
    timeout(bound, hurry.run_until_cancelled(ended.cancelled()))
        .await
        .is_ok_and(|ended| ended.is_some())
}

/// Watches the resident memory of a limited attempt while it runs, against what its worker had
/// before it.
pub(super) async fn check_memory(
    shared: Arc<Shared>,
    call: u64,
    child: Arc<WorkerProcess>,
    before: u64,
    bytes_max: u64,
) {
    let limit = before.saturating_add(bytes_max);
    while shared.peek(|core| core.runs_on(call, child.epoch)) {
        if resident_bytes(child.shown) > limit {
            return shared.step(|core, effects| core.stop(call, StopReason::Memory, effects));
        }
        tokio::select! {
            () = sleep(MEMORY_CHECK_INTERVAL) => {}
            () = child.process.gone.cancelled() => return,
        }
    }
}

//! The kill ladder: ask, SIGTERM, SIGKILL, each with its own bound, always over the whole process
//! tree.
//!
//! A remote host has a ladder of its own: it is only asked.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::config::Neighbours;
use super::core::{MemoryWatch, StopOrder};
use super::shared::Shared;
use super::stop_reason::StopReason;
use super::worker_conn::OwnProcess;
use crate::attempt_report::Step;

/// How often the memory of a limited attempt is measured.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(10);

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
        reason,
        conn,
        ended,
        hurry,
    } = order;
    let call = *call;
    // Memory that runs out leaves no time to ask.
    let ask = if reason.is_for_memory() {
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
    shared.step(|core, effects| when_alone = core.schedule_kill(call, spare, effects));
    let Some(when_alone) = when_alone else { return };
    tokio::select! {
        _ = when_alone => {}
        () = ended.cancelled() => return,
    }
    if !reason.is_for_memory() && !hurry.is_cancelled() {
        if !shared.peek(|core| core.take_step(call, Step::Terminated)) {
            return;
        }
        process.signal(Signal::TERM);
        if ended_within(shared.config.terminate, ended, hurry).await {
            return;
        }
    }
    if shared.peek(|core| core.take_step(call, Step::Killed)) {
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

/// Watches the memory of an attempt. Its worker's own is measured when this is called, before the
/// call is written, so that nothing of what the call takes is taken for the worker's own.
pub(super) fn watch_memory(shared: &Arc<Shared>, watch: MemoryWatch) {
    if let Some(process) = watch.conn.process() {
        let limit = process.used_bytes().saturating_add(watch.bytes_max);
        shared
            .scope
            .spawn(check_memory(Arc::clone(shared), watch, limit));
    }
}

/// Measures the memory of a limited attempt's worker while it runs, and stops it over the limit.
async fn check_memory(shared: Arc<Shared>, watch: MemoryWatch, limit: u64) {
    let (call, worker) = (watch.call, watch.worker);
    let Some(process) = watch.conn.process() else {
        return;
    };
    let mut gone = process.gone();
    while shared.peek(|core| core.runs_on(call, worker)) {
        if process.used_bytes() > limit {
            return shared.step(|core, effects| core.stop(call, StopReason::Memory, effects));
        }
        tokio::select! {
            () = sleep(MEMORY_CHECK_INTERVAL) => {}
            () = &mut gone => return,
        }
    }
}

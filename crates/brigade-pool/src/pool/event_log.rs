//! Log lines of a pool: one for each event that a person who operates it wants to read.

use crate::event::Event;

/// Logs an event, if there is a line for it.
pub(super) fn log(event: &Event) {
    match event {
        Event::WorkerReady { worker, pid, took } => {
            tracing::debug!(worker, pid, ?took, "worker ready");
        }
        Event::WorkerStartFailed { worker, reason } => {
            tracing::warn!(worker, %reason, "a worker could not be started");
        }
        Event::Degraded { reason, retry_in } => {
            tracing::warn!(%reason, ?retry_in, "workers cannot be started");
        }
        Event::Recovered => tracing::info!("workers start again"),
        Event::WorkerStopped { worker, pid, by } => {
            tracing::warn!(worker, pid, %by, "a worker is stopped");
        }
        Event::WorkerGone {
            worker,
            pid,
            exit,
            expected,
        } => tracing::debug!(worker, pid, %exit, expected, "worker gone"),
        Event::ProcessesLeft { worker, pids } => tracing::warn!(
            worker,
            ?pids,
            "processes of a worker could not be ended: they run as another user, or the kernel \
             holds them"
        ),
        Event::OverMemoryBudget {
            call,
            task,
            worker,
            used,
            total,
            budget,
            ..
        } => tracing::warn!(
            call,
            %task,
            worker,
            used,
            total,
            budget,
            "over the memory budget: the largest attempt was stopped"
        ),
        _ => log_host(event),
    }
}

fn log_host(event: &Event) {
    match event {
        Event::HostJoined {
            worker,
            host,
            identity,
            pid,
            slots,
            resumed,
            stale,
        } => {
            tracing::info!(worker, %host, %identity, pid, slots, resumed, stale, "host joined");
        }
        Event::HostAway {
            worker,
            host,
            reason,
        } => tracing::debug!(worker, %host, %reason, "host away"),
        Event::HostLeft {
            worker,
            host,
            reason,
            lost,
        } if *lost > 0 => tracing::warn!(worker, %host, %reason, lost, "host lost"),
        Event::HostLeft {
            worker,
            host,
            reason,
            ..
        } => tracing::info!(worker, %host, %reason, "host left"),
        _ => {}
    }
}

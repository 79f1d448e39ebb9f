//! The end of a worker process: reaping, and its report to the dispatcher.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::super::super::core::WorkerExit;
use super::super::super::shared::Shared;
use super::service::ServiceEnd;
use super::{WorkerProcess, control};
use crate::attempt_report::Exit;
use crate::process;
use crate::sync::lock;
use crate::wire::Decoder;

/// Reads of a dead worker's control channel.
const LAST_READS_MAX: usize = 1024;

/// Reaps the process and reports its exit to the dispatcher. All that the worker wrote before it
/// died is taken first.
pub(super) async fn finish(
    shared: &Arc<Shared>,
    worker: &Arc<WorkerProcess>,
    reading: &CancellationToken,
    mut decoder: Decoder,
    service: ServiceEnd,
) {
    reading.cancelled().await;
    // A descendant that holds the socket may write for ever; a dying worker has little left to say.
    for _ in 0..LAST_READS_MAX {
        if worker.control.read_now(&mut decoder) == 0 {
            break;
        }
        control::recv_all(shared, worker, &mut decoder);
    }
    worker.limits.kill();
    tokio::join!(worker.stdout.rest(), worker.stderr.rest());
    let exit = worker_exit(worker, service);
    let is_alive = exit.death.exit == Exit::Alive;
    // The caller who stopped an attempt gets its receipt when nothing of the attempt is left; the
    // caller of an attempt that crashed need not wait for that.
    let swept = if shared.peek(|core| core.is_stopping(worker.id)) {
        Some(process::sweep(&worker.process).await)
    } else {
        None
    };
    shared.step(|core, effects| core.on_gone(worker.id, exit, effects));
    let swept = match swept {
        Some(swept) => swept,
        None => process::sweep(&worker.process).await,
    };
    let mut left = swept.left;
    if is_alive && !left.contains(&worker.pid()) {
        left.push(worker.pid());
    }
    let mut is_news = false;
    shared.step(|core, effects| {
        is_news = core.note_left(worker.id, &left, swept.is_unknown, effects);
    });
    if is_news {
        tracing::warn!(
            "descendants of workers cannot be looked for: /proc is not mounted, or is that of \
             another PID namespace"
        );
    }
    worker.process.gone.cancel();
}

fn worker_exit(worker: &WorkerProcess, service: ServiceEnd) -> WorkerExit {
    let mut death = worker.process.reap();
    let reports = std::mem::take(&mut *lock(&worker.reports));
    if let Some(signal) = reports
        .signal
        .filter(|signal| says_more(death.exit, *signal))
    {
        death.exit = Exit::Signal(signal);
    }
    WorkerExit {
        pid: worker.pid(),
        death,
        crash_note: reports.crash_note,
        thread: reports.thread,
        stopped_by: reports.stopped_by,
        panic: reports.panic,
        // A process that ended by itself closed its channels by that; then its end is what counts.
        broken: reports
            .broken
            .filter(|_| matches!(service, ServiceEnd::BrokenOff) || !reports.closed),
        oom_kill: worker.limits.oom_kill(),
        stderr: worker.stderr.tail(),
        output: worker.end_capture(),
        unread: worker.unread.load(Ordering::Relaxed),
        expected: matches!(service, ServiceEnd::LetGo),
    }
}

/// Whether the signal that a worker said it dies of says more than the system does of the process
/// that we started: where another part of this program reaped it, or where that process is a
/// program between (a shell exits with 128 and the signal).
fn says_more(exit: Exit, signal: i32) -> bool {
    exit == Exit::Unknown || exit == Exit::Code(128 + signal)
}

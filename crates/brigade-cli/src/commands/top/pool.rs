//! The pool of a running program, as its monitor socket gives it: one JSON document per line, the
//! newest last ([`MonitorLine`], `brigade::Builder::monitor`).

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use brigade::{MonitorLine, MonitoredCall, MonitoredStats, MonitoredWorker};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;

use super::cells::{Row, brief, cell, number, numbered, time};
use super::columns::Column;

/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Connects to the socket of a pool.
pub(super) async fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(path).await.with_context(|| {
        format!(
            "cannot watch a pool at {}: it is the path that a running program gave to \
             Pool::builder().monitor()",
            path.display()
        )
    })
}

/// The state of the pool now: the first line of a new connection.
pub(super) async fn read(path: &Path) -> anyhow::Result<MonitorLine> {
    let mut line = String::new();
    let stream = BufReader::new(connect(path).await?);
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    if line.is_empty() {
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
        return Err(ended).context("the pool gives no answer to this user");
    }
    let state: MonitorLine =
        serde_json::from_str(&line).context("the pool's answer is no state")?;
    let (written, read) = (state.version, MonitorLine::VERSION);
    if written != read {
        bail!("the pool writes states of version {written}, and this command reads {read}");
    }
    Ok(state)
}

/// The pool in one line.
pub(super) fn summary(state: &MonitorLine) -> String {
    let MonitoredStats {
        workers,
        busy,
        idle,
        starting,
        waiting,
        running,
        done,
        failed,
        crashed,
        degraded,
        run_p50_seconds,
        run_p99_seconds,
        wait_p99_seconds,
        utilization,
        ..
    } = &state.stats;
    let seconds = |seconds: &f64| brief(duration(*seconds));
    let degraded = degraded.as_ref().map_or_else(String::new, |reason| {
        format!("; DEGRADED: {}", cell(reason).text)
    });
    format!(
        "pid {}: {workers} workers ({busy} busy, {idle} idle, {starting} starting), {running} \
         running, {waiting} waiting; {done} done, {failed} failed, {crashed} crashed; run p50 {} \
         p99 {}, wait p99 {}, {:.0} % used{degraded}",
        state.pid,
        seconds(run_p50_seconds),
        seconds(run_p99_seconds),
        seconds(wait_p99_seconds),
        utilization * 100.0,
    )
}

/// A number of seconds from another program.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

pub(super) const WORKERS: [Column; 9] = [
    Column::number("worker", 0),
    Column::text("host", 7, 24),
    Column::number("pid", 2),
    Column::text("state", 0, 9),
    Column::number("runs", 1),
    Column::number("done", 3),
    Column::number("failed", 4),
    Column::number("age", 5),
    Column::text("task", 1, 40),
];

pub(super) fn worker_rows(state: &MonitorLine) -> Vec<Row> {
    let row = |worker: &MonitoredWorker| {
        let pid = worker
            .pid
            .map_or_else(|| numbered("-".to_owned(), 0.0), |pid| number(pid.into()));
        let cells = vec![
            number(worker.id.into()),
            cell(worker.host.as_deref().unwrap_or("-")),
            pid,
            cell(&worker.state),
            numbered(
                format!("{}/{}", worker.running, worker.slots),
                worker.running.into(),
            ),
            number(worker.done),
            number(worker.failed),
            time(Some(duration(worker.age_seconds))),
            cell(worker.task.as_deref().unwrap_or("-")),
        ];
        Row::new(worker.id.to_string(), cells, None)
    };
    state.workers.iter().map(row).collect()
}

pub(super) const CALLS: [Column; 5] = [
    Column::text("task", 0, 40),
    Column::number("runs", 0),
    Column::number("worker", 1),
    Column::number("attempt", 3),
    Column::text("progress", 2, 40),
];

pub(super) fn call_rows(state: &MonitorLine) -> Vec<Row> {
    let row = |call: &MonitoredCall| {
        let progress = call.progress.as_ref().map_or_else(
            || numbered("-".to_owned(), -1.0),
            |(part, text)| numbered(cell(&format!("{:.0} % {text}", part * 100.0)).text, *part),
        );
        let cells = vec![
            cell(&call.task),
            time(Some(duration(call.seconds))),
            number(call.worker.into()),
            number(call.attempt.into()),
            progress,
        ];
        Row::new(call.number.to_string(), cells, None)
    };
    state.calls.iter().map(row).collect()
}

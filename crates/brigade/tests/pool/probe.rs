//! What tests ask of the operating system, and waits for its facts.

use std::future::Future;
use std::time::Duration;

use brigade::{CallHandle, Event, Events, Pool};
use rustix::process::{Pid, Signal};

/// Fails a test that hangs. Far longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn soon<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(PATIENCE, test)
        .await
        .expect("the test does not hang")
}

pub(crate) async fn pool_of(workers: usize) -> Pool {
    Pool::builder()
        .workers(workers)
        .start()
        .await
        .expect("the pool starts")
}

/// A process that has not been reaped.
pub(crate) fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// A process that is neither dead nor a zombie that its adopted parent has yet to reap.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Waits for a fact of which no event comes.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}

/// Waits until the process has been reaped.
pub(crate) async fn gone(pid: u32) {
    until("the process is gone", || !exists(pid)).await;
}

pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process is ours");
}

pub(crate) fn kill(pid: u32) {
    send_signal(pid, Signal::KILL);
}

/// Process ids of the pool's workers, by number.
pub(crate) fn pids(pool: &Pool) -> Vec<u32> {
    pool.workers()
        .iter()
        .filter_map(|worker| worker.pid)
        .collect()
}

/// Waits for the first progress of a call.
pub(crate) async fn begun<T>(handle: &CallHandle<T>) {
    handle
        .progress()
        .next()
        .await
        .expect("the call reports that it has begun");
}

/// Waits for an event that `pick` wants.
pub(crate) async fn event<T>(events: &mut Events, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the pool lives");
        if let Some(picked) = pick(event) {
            return picked;
        }
    }
}

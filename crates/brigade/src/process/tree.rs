//! Descendants of a worker that left its process group, found by the cookie in the environment that they
//! inherited.
//!
//! A process that also replaces its whole environment cannot be found in this way; a control group
//! (`Builder::cgroup`) holds those too. Scanning `/proc` blocks for a millisecond or so, hence a thread of its own.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

use crate::shutdown::spawn_thread;

type Order = (String, oneshot::Sender<()>);

/// Scans that may wait; a pool that ends more workers at once waits in turn.
const ORDERS_MAX: usize = 256;
/// A tree that forks faster than it is killed is given up after this many scans; its group and its leader are
/// dead by then.
const SCANS_MAX: usize = 100;

/// Unlike any other tree's on this host: a process id, its clock at the first use, a count.
pub(crate) fn cookie() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}{:09}-{count}", std::process::id(), now.tv_sec, now.tv_nsec)
}

/// Kills every process that carries the cookie and returns when there is none.
pub(crate) async fn sweep(cookie: &str) {
    let (reply, swept) = oneshot::channel();
    let Ok(sweeper) = sweeper() else { return };
    if sweeper.send((cookie.to_owned(), reply)).await.is_ok() {
        swept.await.ok();
    }
}

fn sweeper() -> Result<&'static mpsc::Sender<Order>, &'static io::Error> {
    static SWEEPER: OnceLock<io::Result<mpsc::Sender<Order>>> = OnceLock::new();
    let sweeper = SWEEPER.get_or_init(|| {
        let (orders, mut inbox) = mpsc::channel::<Order>(ORDERS_MAX);
        spawn_thread("brigade-sweeper", 256 << 10, move || serve(&mut inbox))?;
        Ok(orders)
    });
    sweeper.as_ref()
}

/// Lives as long as the process. One pass serves all that wait.
fn serve(inbox: &mut mpsc::Receiver<Order>) {
    while let Some(first) = inbox.blocking_recv() {
        let orders: Vec<Order> = std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok())).collect();
        let cookies: Vec<&str> = orders.iter().map(|(cookie, _)| cookie.as_str()).collect();
        for _ in 0..SCANS_MAX {
            if kill_marked(&cookies) == 0 {
                break;
            }
        }
        for (_, reply) in orders {
            reply.send(()).ok();
        }
    }
}

/// One pass: returns how many were found alive.
fn kill_marked(cookies: &[&str]) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let own = std::process::id();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && is_marked(*pid, cookies) && kill(*pid, cookies)).count()
}

fn is_marked(pid: u32, cookies: &[&str]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mark = environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(super::TREE_VARIABLE.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    });
    mark.is_some_and(|mark| mark.split('/').any(|cookie| cookies.contains(&cookie)))
}

/// Kills it if it is still the marked one once a pidfd holds its number.
fn kill(pid: u32, cookies: &[&str]) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { return false };
    // The environment of a zombie is empty, so what is found here lives.
    is_marked(pid, cookies) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

//! Descendants of a worker that left its process group, found by the cookie in the environment that they
//! inherited.
//!
//! A process that also replaces its whole environment cannot be found in this way; a control group
//! (`Builder::cgroup`) holds those too. Scanning `/proc` blocks for a millisecond or so, hence a thread of its own.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

use super::exit::Process;
use super::mark::mark_of;
use crate::shutdown::spawn_thread;

/// A worker's descendants.
struct Tree {
    cookie: String,
    /// The worker's process group, which has been killed.
    group: i32,
}

type Order = (Tree, oneshot::Sender<()>);

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

/// Kills every descendant of a worker that has been reaped, and returns when there is none.
pub(crate) async fn sweep(process: &Process) {
    let (reply, swept) = oneshot::channel();
    let Ok(sweeper) = sweeper() else { return };
    let tree = Tree { cookie: process.cookie.clone(), group: process.pid.as_raw_nonzero().get() };
    if sweeper.send((tree, reply)).await.is_ok() {
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
        let (trees, replies): (Vec<Tree>, Vec<_>) = orders.into_iter().unzip();
        for _ in 0..SCANS_MAX {
            if kill_marked(&trees) == 0 {
                break;
            }
        }
        for reply in replies {
            reply.send(()).ok();
        }
    }
}

/// One pass: kills what carries a cookie and waits until that, and what a signal to a group is ending already, is dead.
/// Returns how many were killed.
fn kill_marked(trees: &[Tree]) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let own = std::process::id();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    let (mut ending, mut killed) = (Vec::new(), 0);
    for pid in pids {
        let marked = is_marked(pid, trees);
        if !marked && !is_in_group(pid, trees) {
            continue;
        }
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        // Looked at again now that a pidfd holds the number. The environment of a process that is ending is empty.
        if marked && is_marked(pid, trees) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            killed += 1;
        }
        ending.push(pidfd);
    }
    for pidfd in ending {
        // A killed process lives on for a moment, and whoever waits for us counts on its being gone.
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&END_BOUND)).ok();
    }
    killed
}

/// How long a killed process may take to end before it is left alone: one in an uninterruptible sleep cannot be waited for.
const END_BOUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Whether it belongs to the process group of a tree's worker, which has been killed, and is not a zombie yet.
fn is_in_group(pid: u32, trees: &[Tree]) -> bool {
    // The state and the group are fields 3 and 5, after the name in parentheses (proc_pid_stat(5)).
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let (state, group) = (fields.next(), fields.nth(1).and_then(|group| group.parse::<i32>().ok()));
    !matches!(state, Some("Z" | "X")) && trees.iter().any(|tree| Some(tree.group) == group)
}

fn is_marked(pid: u32, trees: &[Tree]) -> bool {
    mark_of(pid).is_some_and(|mark| mark.split('/').any(|cookie| trees.iter().any(|tree| tree.cookie == cookie)))
}

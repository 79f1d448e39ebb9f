//! Descendants of a worker that left its process group, found by the cookie in the environment that
//! they inherited.
//!
//! A process that also replaces its whole environment cannot be found in this way; a control group
//! (`Builder::cgroup`) holds those too. Scanning `/proc` blocks for a millisecond or so, hence a
//! thread of its own. Only the environment of processes that are younger than the worker is read:
//! no other can descend from it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid,
};
use tokio::sync::{mpsc, oneshot};

use super::exit::Process;
use super::orphans::{Orphans, adopts_orphans, note_session};
use super::proc_fs::{self, Stat, View};
use crate::shutdown::spawn_thread;
use brigade_runtime::mark::mark_of;

/// A worker's descendants.
struct Tree {
    cookie: String,
    /// The worker's process group, which has been killed.
    group: i32,
    /// When the worker was started, in ticks since boot.
    since: u64,
    /// What is in the group is the kernel's affair.
    spare_group: bool,
}

/// What a sweep came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Processes that could not be ended: they run as another user, or the kernel holds them.
    pub(crate) left: Vec<u32>,
    /// `/proc` does not show the processes of this namespace, so it is not known what is left.
    pub(crate) is_unknown: bool,
}

enum SweepOrder {
    Sweep(Tree, oneshot::Sender<Swept>),
    /// The same of a program that is no worker: what is orphaned is not reaped then, because the
    /// program's own end is waited for elsewhere.
    EndProgram(Tree, oneshot::Sender<Swept>),
    ReapOrphans,
}

/// Scans that may wait; a pool that ends more workers at once waits in turn.
const ORDERS_MAX: usize = 256;
/// A tree that forks faster than it is killed is given up after this many scans, or this much time;
/// its group and its leader are dead by then.
const SCANS_MAX: usize = 100;
const SWEEP_BOUND: Duration = Duration::from_secs(5);
/// Processes that are reported as left.
const LEFT_MAX: usize = 64;

/// Unlike any other tree's on this host: a process id, its clock at the first use, a count.
pub(crate) fn cookie() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{}-{}{:09}-{count}",
        std::process::id(),
        now.tv_sec,
        now.tv_nsec
    )
}

/// Kills every descendant of a worker that has been reaped, and returns when there is none, or with
/// those that could not be ended.
pub(crate) async fn sweep(process: &Process) -> Swept {
    let tree = Tree {
        cookie: process.cookie.clone(),
        group: process.pid.as_raw_nonzero().get(),
        since: process.started,
        spare_group: false,
    };
    sweep_by(|reply| SweepOrder::Sweep(tree, reply)).await
}

/// Kills every process with this mark, and returns when there is none, or with those that could not
/// be ended. The leader of the group has ended.
pub(super) async fn end_program(mark: String, group: i32, since: u64) -> Swept {
    let tree = Tree {
        cookie: mark,
        group,
        since,
        spare_group: false,
    };
    sweep_by(|reply| SweepOrder::EndProgram(tree, reply)).await
}

async fn sweep_by(order: impl FnOnce(oneshot::Sender<Swept>) -> SweepOrder) -> Swept {
    let unknown = Swept {
        is_unknown: true,
        ..Swept::default()
    };
    let (reply, swept) = oneshot::channel();
    let Ok(sweeper) = sweeper() else {
        return unknown;
    };
    match sweeper.send(order(reply)).await {
        Ok(()) => swept.await.unwrap_or(unknown),
        Err(_) => unknown,
    }
}

/// Kills the descendants of this process, a worker, that carry its own cookie and are in other
/// groups: its pool may not signal those of other users.
pub(crate) fn end_own_strays() {
    let Some(mark) = mark_of("self") else { return };
    let Some(cookie) = mark.rsplit('/').next() else {
        return;
    };
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    kill_all(&[Tree {
        cookie: cookie.to_owned(),
        group,
        since: 0,
        spare_group: true,
    }]);
}

/// Has the descendants of workers reaped that were orphaned to this process and have ended, where
/// it is the first of a container or a subreaper. No other process would.
pub(crate) fn reap_orphans() {
    if adopts_orphans()
        && let Ok(sweeper) = sweeper()
    {
        // Where the sweeper is behind it does so anyway.
        sweeper.try_send(SweepOrder::ReapOrphans).ok();
    }
}

fn sweeper() -> Result<&'static mpsc::Sender<SweepOrder>, &'static io::Error> {
    static SWEEPER: OnceLock<io::Result<mpsc::Sender<SweepOrder>>> = OnceLock::new();
    let sweeper = SWEEPER.get_or_init(|| {
        let (orders, mut inbox) = mpsc::channel::<SweepOrder>(ORDERS_MAX);
        spawn_thread("brigade-sweeper", 256 << 10, move || serve(&mut inbox))?;
        Ok(orders)
    });
    sweeper.as_ref()
}

/// Lives as long as the process. One pass serves all that wait.
fn serve(inbox: &mut mpsc::Receiver<SweepOrder>) {
    let mut orphans = Orphans::default();
    while let Some(first) = inbox.blocking_recv() {
        let orders = std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok()));
        let mut reaps = false;
        let sweeps = orders.filter_map(|order| {
            reaps |= !matches!(order, SweepOrder::EndProgram(..));
            match order {
                SweepOrder::Sweep(tree, reply) | SweepOrder::EndProgram(tree, reply) => {
                    Some((tree, reply))
                }
                SweepOrder::ReapOrphans => None,
            }
        });
        let (trees, replies): (Vec<Tree>, Vec<_>) = sweeps.unzip();
        let mut swept: Vec<Swept> = trees.iter().map(|_| Swept::default()).collect();
        let left = if trees.is_empty() {
            Some(Vec::new())
        } else {
            kill_all(&trees)
        };
        if reaps {
            orphans.reap();
        }
        match left {
            Some(left) => left
                .into_iter()
                .for_each(|(tree, pid)| swept[tree].left.push(pid)),
            None => swept.iter_mut().for_each(|swept| swept.is_unknown = true),
        }
        for (reply, swept) in replies.into_iter().zip(swept) {
            reply.send(swept).ok();
        }
    }
}

/// Kills what carries the cookies. Returns what is left, with the index of its tree; `None` if that
/// cannot be seen.
fn kill_all(trees: &[Tree]) -> Option<Vec<(usize, u32)>> {
    if proc_fs::view() == View::Unusable {
        return None;
    }
    let until = Instant::now() + SWEEP_BOUND;
    let mut left = Vec::new();
    for _ in 0..SCANS_MAX {
        let scan = kill_marked(trees, until)?;
        left = scan.left;
        if scan.killed == 0 || Instant::now() >= until {
            break;
        }
    }
    Some(left)
}

/// What one pass did.
#[derive(Default)]
struct Scan {
    killed: usize,
    left: Vec<(usize, u32)>,
}

/// One pass: kills what carries a cookie and waits until that, and what a signal to a group is
/// ending already, is dead.
fn kill_marked(trees: &[Tree], until: Instant) -> Option<Scan> {
    let own = std::process::id();
    let oldest = trees.iter().map(|tree| tree.since).min().unwrap_or(0);
    let (mut scan, mut ending) = (Scan::default(), Vec::new());
    for shown in proc_fs::all()? {
        let Some(found) = find(shown, trees, oldest) else {
            continue;
        };
        let Some(pid) = proc_fs::to_own(shown).filter(|pid| *pid != own) else {
            continue;
        };
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        let handle = Handle::open(number);
        if matches!(handle, Handle::Gone) {
            continue;
        }
        // Looked at again now that a pidfd holds the number. The environment of a process that is
        // ending is empty.
        if found.is_marked && find(shown, trees, oldest).is_some_and(|again| again.is_marked) {
            match handle.kill() {
                Ok(()) => scan.killed += 1,
                Err(Errno::SRCH) => continue,
                Err(_) => {
                    scan.left.push((found.tree, pid));
                    continue;
                }
            }
        }
        ending.push((handle, found.tree, pid, shown));
    }
    for (handle, tree, pid, shown) in ending {
        // A killed process lives on for a moment, and a caller that waits for us counts on its
        // being gone.
        if !handle.ends(shown, until) && scan.left.len() < LEFT_MAX {
            scan.left.push((tree, pid));
        }
    }
    Some(scan)
}

/// How long a killed process may take to end before it is left alone: one in an uninterruptible
/// sleep cannot be waited for.
const END_BOUND: Duration = Duration::from_secs(1);

/// A process that is to end.
enum Handle {
    Pidfd(OwnedFd),
    /// Where a sandbox forbids `pidfd_open`.
    Number(Pid),
    Gone,
}

impl Handle {
    fn open(pid: Pid) -> Self {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Self::Pidfd(pidfd),
            Err(Errno::PERM | Errno::NOSYS | Errno::ACCESS) => Self::Number(pid),
            Err(_) => Self::Gone,
        }
    }

    fn kill(&self) -> Result<(), Errno> {
        match self {
            Self::Pidfd(pidfd) => pidfd_send_signal(pidfd, Signal::KILL),
            Self::Number(pid) => kill_process(*pid, Signal::KILL),
            Self::Gone => Err(Errno::SRCH),
        }
    }

    /// Waits for its end, and reaps it if it was orphaned to us (the first process of a container,
    /// or a subreaper).
    #[expect(
        clippy::disallowed_methods,
        reason = "without a pidfd, the end of a process that is no child of ours gives no notice"
    )]
    fn ends(&self, shown: u32, until: Instant) -> bool {
        let until = until.min(Instant::now() + END_BOUND);
        match self {
            Self::Pidfd(pidfd) => {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
                    tv_nsec: i64::from(left.subsec_nanos()),
                };
                let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left))
                    .is_ok_and(|ended| ended > 0);
                if ended {
                    use std::os::fd::AsFd as _;
                    waitid(
                        WaitId::PidFd(pidfd.as_fd()),
                        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
                    )
                    .ok();
                }
                ended
            }
            Self::Number(_) => loop {
                if Stat::of(shown).is_none_or(|stat| stat.is_over()) {
                    break true;
                }
                if Instant::now() >= until {
                    break false;
                }
                std::thread::sleep(Duration::from_millis(1));
            },
            Self::Gone => true,
        }
    }
}

/// A process that belongs to a tree.
struct FoundProcess {
    tree: usize,
    /// It carries the cookie. Otherwise it is in the group of the tree's worker, which is dead, and
    /// being ended with it.
    is_marked: bool,
}

fn find(shown: u32, trees: &[Tree], oldest: u64) -> Option<FoundProcess> {
    let stat = Stat::of(shown).filter(|stat| !stat.is_over() && stat.started >= oldest)?;
    let group = proc_fs::own_group(shown, &stat);
    let is_in_group = |tree: &Tree| Some(tree.group) == group;
    let found = match mark_of(&shown.to_string()) {
        Some(mark) => trees
            .iter()
            .position(|tree| mark.split('/').any(|cookie| tree.cookie == cookie))
            .map(|tree| (tree, true)),
        None => None,
    };
    if found.is_some() {
        note_session(&stat);
    }
    let (tree, is_marked) =
        found.or_else(|| trees.iter().position(is_in_group).map(|tree| (tree, false)))?;
    (!(trees[tree].spare_group && is_in_group(&trees[tree])))
        .then_some(FoundProcess { tree, is_marked })
}

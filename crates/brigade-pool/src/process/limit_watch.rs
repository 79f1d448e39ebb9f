//! Holds the limits of attempts while they run: on memory, CPU time and processes, over the whole
//! process tree of a worker.
//!
//! One thread of this process looks at all trees that have limits. It is a thread and no task of
//! the async runtime, so that nothing that the program runs there can delay a look. Where a control
//! group holds the memory, the thread looks whether the kernel had to end something in it: the
//! kernel may choose a child of the worker, and the attempt ends with it.
//!
//! When a tree is looked at next depends on how near it is to its limits: a tree is never given
//! more time than it needs, at [`FAULT_RATE`], to go beyond its memory limit by a twentieth. That
//! leaves another twentieth for the time from the look to the end of its processes.
//!
//! Each attempt has an entry of its own ([`watch`]), by the key of its worker, which ends with it.

#![expect(unsafe_code, reason = "sched_setattr(2), which no safe wrapper offers")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::{ControlGroup, GroupCounts};
use super::proc_fs::{self, Stat};
use super::tree_use::{Member, TreeUse};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::LimitHit;
use crate::shutdown::spawn_thread;
use crate::sync::lock;

/// Bytes per second at which a tree may fill memory: what several threads reach on fast machines,
/// each page being cleared.
const FAULT_RATE: u64 = 8 << 30;
/// Processes per second that a tree may start on one CPU.
const FORK_RATE: u64 = 10_000;
/// Pauses between two looks at a tree.
const PAUSE_MIN: Duration = Duration::from_micros(300);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// A tree that has no limit but on its CPU time.
const CPU_PAUSE_MAX: Duration = Duration::from_millis(500);
const CPU_PAUSE_MIN: Duration = Duration::from_millis(2);
/// Before the trees that it looks at.
const NICENESS: i32 = -10;
const SLICE_NANOS: u64 = 100_000;
/// Looks at the events of a control group.
const GROUP_PAUSE: Duration = Duration::from_millis(5);

/// An attempt with limits, as its owner sees it.
pub(crate) trait LimitedAttempt: Send + Sync {
    /// Whether it still runs; otherwise nothing looks at its tree any more.
    fn is_running(&self) -> bool;

    /// It went over a limit: ends it. Called by the thread of the watch, at most once for its CPU
    /// time, after which it may take a while to end, and once for another limit. `false` if it had
    /// ended before.
    fn over(&self, hit: LimitHit) -> bool;
}

/// The tree of one attempt.
pub(crate) struct WatchedTree {
    /// The worker, by its number in `/proc`.
    root: u32,
    limits: AttemptLimits,
    group: Option<Arc<ControlGroup>>,
    before: Before,
    attempt: Box<dyn LimitedAttempt>,
    /// Its CPU time is over, and it is asked to stop. The other limits hold until it has ended.
    is_asked: AtomicBool,
}

/// What the tree used before the attempt.
#[derive(Debug, Default)]
struct Before {
    memory: u64,
    cpu: Duration,
    tasks: u32,
    counts: GroupCounts,
}

impl WatchedTree {
    /// To be made before the attempt begins: what the tree has used by now is not the attempt's.
    pub(crate) fn new(
        root: u32,
        limits: AttemptLimits,
        group: Option<Arc<ControlGroup>>,
        attempt: Box<dyn LimitedAttempt>,
    ) -> Self {
        let used = TreeUse::of(root);
        let (counts, cpu) = match &group {
            Some(group) => (group.counts(), group.cpu()),
            None => (GroupCounts::default(), None),
        };
        let before = Before {
            memory: used.memory_shared_out(),
            cpu: cpu.unwrap_or(used.cpu),
            tasks: used.tasks,
            counts,
        };
        Self {
            root,
            limits,
            group,
            before,
            attempt,
            is_asked: AtomicBool::new(false),
        }
    }

    /// Of a program that the caller starts with its own group: all that it uses counts.
    pub(crate) fn of_program(
        root: u32,
        limits: AttemptLimits,
        group: Option<Arc<ControlGroup>>,
        attempt: Box<dyn LimitedAttempt>,
    ) -> Self {
        Self {
            root,
            limits,
            group,
            before: Before::default(),
            attempt,
            is_asked: AtomicBool::new(false),
        }
    }

    /// The limit that the tree is over, or the pause until the next look.
    fn look(&self) -> Result<Duration, (LimitHit, TreeUse)> {
        let mut pause = CPU_PAUSE_MAX;
        let mut used = None;
        let in_group = |of: fn(&ControlGroup) -> bool| self.group.as_deref().is_some_and(of);
        if let Some(allowed) = self.limits.memory {
            if in_group(|group| group.memory_hold().is_some()) {
                self.look_at_group(allowed)?;
                pause = pause.min(GROUP_PAUSE);
            } else {
                let used = used.get_or_insert_with(|| TreeUse::of(self.root));
                pause = pause.min(self.look_at_memory(allowed, used)?);
            }
        }
        if let Some(allowed) = self.limits.processes
            && !in_group(ControlGroup::holds_processes)
        {
            let used = used.get_or_insert_with(|| TreeUse::of(self.root));
            pause = pause.min(self.look_at_tasks(allowed, used)?);
        }
        if let Some(allowed) = self.limits.cpu
            && !self.is_asked.load(Ordering::Relaxed)
        {
            pause = pause.min(self.look_at_cpu(allowed, used)?);
        }
        Ok(pause)
    }

    /// Whether the kernel ended a process of the group.
    fn look_at_group(&self, allowed: u64) -> Result<(), (LimitHit, TreeUse)> {
        let kills = self
            .group
            .as_ref()
            .map_or(0, |group| group.counts().oom_kills);
        if kills <= self.before.counts.oom_kills {
            return Ok(());
        }
        // The kernel gave it all that it may have, and no more.
        let used = allowed;
        Err((LimitHit::Memory { allowed, used }, TreeUse::of(self.root)))
    }

    fn look_at_memory(
        &self,
        allowed: u64,
        used: &TreeUse,
    ) -> Result<Duration, (LimitHit, TreeUse)> {
        let most = self.before.memory.saturating_add(allowed);
        // What several processes share is counted once only where it matters: that is slow.
        let bytes = if used.memory <= most {
            used.memory
        } else {
            used.memory_shared_out()
        };
        if bytes > most {
            let used_bytes = bytes.saturating_sub(self.before.memory);
            let hit = LimitHit::Memory {
                allowed,
                used: used_bytes,
            };
            return Err((hit, used.clone()));
        }
        let room = (most - bytes).saturating_add(allowed / 20);
        let pause = Duration::from_micros(room / (FAULT_RATE / 1_000_000));
        Ok(pause.clamp(PAUSE_MIN, PAUSE_MAX))
    }

    fn look_at_tasks(&self, allowed: u32, used: &TreeUse) -> Result<Duration, (LimitHit, TreeUse)> {
        let more = used.tasks.saturating_sub(self.before.tasks);
        if more > allowed {
            let hit = LimitHit::Processes {
                allowed,
                used: more,
            };
            return Err((hit, used.clone()));
        }
        let room = u64::from(allowed - more) + 1;
        let pause = Duration::from_micros(room * 1_000_000 / FORK_RATE);
        Ok(pause.clamp(PAUSE_MIN, PAUSE_MAX))
    }

    fn look_at_cpu(
        &self,
        allowed: Duration,
        used: Option<TreeUse>,
    ) -> Result<Duration, (LimitHit, TreeUse)> {
        let counted = self.group.as_ref().and_then(|group| group.cpu());
        let cpu = match counted {
            Some(cpu) => cpu,
            None => used.unwrap_or_else(|| TreeUse::of(self.root)).cpu,
        };
        let spent = cpu.saturating_sub(self.before.cpu);
        if spent >= allowed {
            let hit = LimitHit::Cpu {
                allowed,
                used: spent,
            };
            return Err((hit, TreeUse::default()));
        }
        // As if it ran on all CPUs from now on.
        let pause = (allowed - spent) / cpus();
        Ok(pause.clamp(CPU_PAUSE_MIN, CPU_PAUSE_MAX))
    }
}

fn cpus() -> u32 {
    static CPUS: OnceLock<u32> = OnceLock::new();
    *CPUS.get_or_init(|| {
        std::thread::available_parallelism()
            .ok()
            .and_then(|cpus| u32::try_from(cpus.get()).ok())
            .unwrap_or(1)
    })
}

/// A tree and when it is looked at next.
struct WatchEntry {
    tree: Arc<WatchedTree>,
    at: Instant,
}

#[derive(Default)]
struct LimitWatch {
    /// By the key of the worker.
    entries: Mutex<HashMap<u64, WatchEntry>>,
    changed: Condvar,
}

/// Has a tree watched from now on, in place of the last one of this worker.
///
/// # Errors
///
/// Where the thread cannot be started.
pub(crate) fn watch(key: u64, tree: WatchedTree) -> std::io::Result<()> {
    static WATCH: OnceLock<Result<Arc<LimitWatch>, std::io::ErrorKind>> = OnceLock::new();
    let watch = WATCH.get_or_init(|| {
        let watch = Arc::new(LimitWatch::default());
        let serving = Arc::clone(&watch);
        spawn_thread("brigade-limits", 256 << 10, move || serving.serve())
            .map(|()| watch)
            .map_err(|e| e.kind())
    });
    let watch = watch.as_ref().map_err(|kind| std::io::Error::from(*kind))?;
    let entry = WatchEntry {
        tree: Arc::new(tree),
        at: Instant::now(),
    };
    lock(&watch.entries).insert(key, entry);
    watch.changed.notify_one();
    Ok(())
}

impl LimitWatch {
    /// Lives as long as the process.
    fn serve(&self) {
        run_before_others();
        loop {
            let (key, tree) = self.next_due();
            if !tree.attempt.is_running() {
                self.take_off(key, &tree);
                continue;
            }
            match tree.look() {
                Ok(pause) => {
                    if let Some(entry) = lock(&self.entries).get_mut(&key)
                        && Arc::ptr_eq(&entry.tree, &tree)
                    {
                        entry.at = Instant::now() + pause;
                    }
                }
                Err((hit @ LimitHit::Cpu { .. }, _)) => {
                    tree.is_asked.store(true, Ordering::Relaxed);
                    tree.attempt.over(hit);
                }
                Err((hit, used)) => {
                    self.take_off(key, &tree);
                    if tree.attempt.over(hit) {
                        // What left the group of the worker does not die with it.
                        used.members.iter().for_each(kill_member);
                    }
                }
            }
        }
    }

    /// Waits for the tree that is to be looked at next.
    fn next_due(&self) -> (u64, Arc<WatchedTree>) {
        let mut entries = lock(&self.entries);
        loop {
            let now = Instant::now();
            let first = entries
                .iter()
                .min_by_key(|(_, entry)| entry.at)
                .map(|(key, entry)| (*key, Arc::clone(&entry.tree), entry.at));
            let pause = match first {
                Some((key, tree, at)) if at <= now => return (key, tree),
                Some((.., at)) => at - now,
                None => Duration::from_secs(3600),
            };
            entries = match self.changed.wait_timeout(entries, pause) {
                Ok((entries, _)) => entries,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn take_off(&self, key: u64, tree: &Arc<WatchedTree>) {
        let mut entries = lock(&self.entries);
        if entries
            .get(&key)
            .is_some_and(|entry| Arc::ptr_eq(&entry.tree, tree))
        {
            entries.remove(&key);
        }
    }
}

/// Has this thread run as soon as it wakes up: what it looks at may keep all CPUs busy. A short
/// time slice is open to everyone and counts from Linux 6.12 on; a lower niceness takes rights.
fn run_before_others() {
    let mut attributes = SchedAttributes {
        size: u32::try_from(size_of::<SchedAttributes>()).unwrap_or(0),
        nice: NICENESS,
        runtime: SLICE_NANOS,
        ..SchedAttributes::default()
    };
    let set = |attributes: &SchedAttributes| {
        // SAFETY: the kernel reads as much as the structure says that it has, and changes nothing
        // but how this thread is scheduled.
        unsafe {
            libc::syscall(
                libc::SYS_sched_setattr,
                0,
                std::ptr::from_ref(attributes),
                0,
            ) == 0
        }
    };
    if !set(&attributes) {
        attributes.nice = rustix::process::getpriority_process(None).unwrap_or(0);
        set(&attributes);
    }
}

/// The kernel's `struct sched_attr` (sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct SchedAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Kills a process of a tree, if its number is still its own.
fn kill_member(member: &Member) {
    let pid = proc_fs::to_own(member.shown)
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if Stat::of(member.shown).is_some_and(|stat| stat.started == member.started) {
        // What has ended meanwhile is as wanted; the sweep after the worker's end gets the rest.
        pidfd_send_signal(&pidfd, Signal::KILL).ok();
    }
}

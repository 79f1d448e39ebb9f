//! The limits that a worker process is held to from outside: by its control group, or by the watch
//! over its tree.
//!
//! A worker has a control group of its own from its start on if the builder says so, or else from
//! its first attempt with limits on, where the host lets us make one. Where it does not, the watch
//! holds memory and processes alone. What the builder says of the group stays as long as the
//! worker; what an attempt may use is written before the attempt, and taken back before the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::{LimitHit, MemoryHold};
use crate::error::{Error, ErrorKind};
use crate::process::proc_fs::to_own;
use crate::process::{
    ControlGroup, GroupCounts, LimitedAttempt, Process, TreeUse, WatchedTree, watch,
};
use crate::sync::lock;

/// Holds the limits of a worker's attempts.
pub(super) struct LimitHolder {
    /// Of the worker among all that are watched.
    key: u64,
    /// Not made until it is needed.
    group: OnceLock<Option<Arc<ControlGroup>>>,
    /// What the running attempt may use, and what the group had counted before it.
    held: Mutex<(AttemptLimits, GroupCounts)>,
}

impl LimitHolder {
    pub(super) fn new(group: Option<ControlGroup>) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let known = OnceLock::new();
        if let Some(group) = group {
            known.get_or_init(|| Some(Arc::new(group)));
        }
        Self {
            key: KEYS.fetch_add(1, Ordering::Relaxed),
            group: known,
            held: Mutex::default(),
        }
    }

    fn group(&self) -> Option<&Arc<ControlGroup>> {
        self.group.get()?.as_ref()
    }

    /// Kills what is in the group.
    pub(super) fn kill(&self) {
        if let Some(group) = self.group() {
            group.kill();
        }
    }

    /// Holds the limits of the next attempt in place of those of the last one.
    pub(super) fn hold(
        &self,
        process: &Process,
        limits: AttemptLimits,
        attempt: Box<dyn LimitedAttempt>,
    ) -> Result<Option<MemoryHold>, Error> {
        let group = if limits.needs_a_watch() {
            self.group.get_or_init(|| group_of(process)).as_ref()
        } else {
            self.group()
        };
        let mut counts = GroupCounts::default();
        if let Some(group) = group {
            counts = group.counts();
            let written = group
                .hold_memory(limits.memory)
                .and_then(|()| group.hold_processes(limits.processes));
            written.map_err(|e| {
                let text = format!("set the limits of a control group: {e}");
                Error::new(ErrorKind::Unsupported, text).with_source(e)
            })?;
        }
        *lock(&self.held) = (limits, counts);
        let group_hold = group.and_then(|group| group.memory_hold());
        if limits.needs_a_watch() {
            let root = self.root(process, &limits)?;
            let tree = WatchedTree::new(root, limits, group.cloned(), attempt);
            watch(self.key, tree).map_err(|e| {
                let text = format!("start the thread that watches limits: {e}");
                Error::new(ErrorKind::Unsupported, text).with_source(e)
            })?;
        }
        Ok(match (limits.memory, limits.address_space) {
            (Some(_), _) => Some(group_hold.unwrap_or(MemoryHold::Watch)),
            (None, Some(_)) => Some(MemoryHold::AddressSpace),
            (None, None) => None,
        })
    }

    /// The process whose tree is watched, by its number in `/proc`; any where the group holds all.
    fn root(&self, process: &Process, limits: &AttemptLimits) -> Result<u32, Error> {
        let group_holds = |group: &Arc<ControlGroup>| {
            (limits.memory.is_none() || group.memory_hold().is_some())
                && (limits.processes.is_none() || group.holds_processes())
                && (limits.cpu.is_none() || group.cpu().is_some())
        };
        match process.shown {
            Some(shown) => Ok(shown),
            None if self.group().is_some_and(group_holds) => Ok(0),
            None => Err(Error::new(
                ErrorKind::Unsupported,
                "hold a limit on memory, CPU time or processes: no control group can be made and \
                    /proc does not show the worker; mount the /proc of this PID namespace, or \
                    delegate a control group",
            )),
        }
    }

    /// The limit on memory that the kernel has had to hold by ending a process of the group.
    pub(super) fn oom_kill(&self) -> Option<LimitHit> {
        let group = self.group()?;
        let (limits, before) = *lock(&self.held);
        if group.counts().oom_kills <= before.oom_kills {
            return None;
        }
        let allowed = limits.memory.or_else(|| group.memory_of_worker())?;
        Some(LimitHit::Memory {
            allowed,
            used: allowed,
        })
    }

    /// Whether the running attempt has limits that are held from outside.
    pub(super) fn is_held(&self) -> bool {
        lock(&self.held).0.needs_a_watch()
    }

    /// The limit that the running attempt has met, to be asked before its answer is taken: what the
    /// kernel did to a child of it may be why it answers so.
    pub(super) fn met(&self) -> Option<LimitHit> {
        let (limits, before) = *lock(&self.held);
        let counts = self.group()?.counts();
        match (limits.memory, limits.processes) {
            (Some(allowed), _) if counts.oom_kills > before.oom_kills => Some(LimitHit::Memory {
                allowed,
                used: allowed,
            }),
            (_, Some(allowed)) if counts.refused_forks > before.refused_forks => {
                Some(LimitHit::Processes {
                    allowed,
                    used: allowed,
                })
            }
            _ => None,
        }
    }
}

/// A group for a worker that runs already, with all that descends from it.
fn group_of(process: &Process) -> Option<Arc<ControlGroup>> {
    let group = ControlGroup::create_if_possible(&process.cookie)?;
    let own = process.pid.as_raw_nonzero().get().cast_unsigned();
    group.add(own).ok()?;
    let tree = process.shown.map(TreeUse::of).unwrap_or_default();
    let others = tree
        .members
        .iter()
        .filter_map(|member| to_own(member.shown))
        .filter(|pid| *pid != own);
    for pid in others {
        // It may have ended.
        group.add(pid).ok();
    }
    Some(Arc::new(group))
}

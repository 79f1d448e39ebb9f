//! The process tree of a program that the caller starts itself, as `brigade work` does: its limits,
//! and the end of all that it started.
//!
//! The caller gives the program a mark in `BRIGADE_TREE`, applies [`Confinement`] between fork and
//! exec, has the tree watched from then on, and ends it when the program has ended. Limits are held
//! as those of attempts in workers are, but count from nothing: the program's own memory, process
//! and descriptors beyond the standard streams are part of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use super::cgroup::ControlGroup;
use super::limit_watch::{LimitedAttempt, WatchedTree, watch};
use super::{proc_fs, tree};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::LimitHit;
use crate::error::{Error, ErrorKind};
use crate::policy::check_limits;
use crate::sync::lock;

/// The tree of one program.
#[derive(Debug)]
pub struct ProgramTree {
    mark: String,
    limits: AttemptLimits,
    group: Option<Arc<ControlGroup>>,
    watched: Arc<WatchedProgram>,
}

/// What to do in the new process before it executes its program.
#[derive(Debug)]
pub struct Confinement {
    /// Where the process moves itself into its control group.
    groups: Vec<File>,
    limits: AttemptLimits,
    core_dumps: bool,
}

#[derive(Debug, Default)]
struct WatchedProgram {
    has_ended: AtomicBool,
    hit: Mutex<Option<LimitHit>>,
    came: Notify,
}

impl LimitedAttempt for Arc<WatchedProgram> {
    fn is_running(&self) -> bool {
        !self.has_ended.load(Ordering::Acquire)
    }

    fn over(&self, hit: LimitHit) -> bool {
        let is_running = self.is_running();
        if is_running {
            lock(&self.hit).get_or_insert(hit);
            self.came.notify_one();
        }
        is_running
    }
}

impl ProgramTree {
    /// A tree whose processes have this mark as the last of their `BRIGADE_TREE`.
    ///
    /// # Errors
    ///
    /// `BadOption` for limits that contradict each other, `Unsupported` if a control group refuses
    /// them.
    pub fn new(mark: &str, limits: AttemptLimits) -> Result<Self, Error> {
        check_limits("start a program", &limits)?;
        let group = if limits.needs_a_watch() {
            ControlGroup::create_if_possible(mark)
        } else {
            None
        };
        if let Some(group) = &group {
            let held = group
                .hold_memory(limits.memory)
                .and_then(|()| group.hold_processes(limits.processes));
            held.map_err(|e| {
                let text = format!("set the limits of a control group: {e}");
                Error::new(ErrorKind::Unsupported, text).with_source(e)
            })?;
        }
        Ok(Self {
            mark: mark.to_owned(),
            limits,
            group: group.map(Arc::new),
            watched: Arc::default(),
        })
    }

    /// Its limits.
    pub fn limits(&self) -> &AttemptLimits {
        &self.limits
    }

    /// What is to be applied in the new process.
    ///
    /// # Errors
    ///
    /// `Unsupported` if its control group cannot be joined.
    pub fn confinement(&self, core_dumps: bool) -> Result<Confinement, Error> {
        let paths = self.group.iter().flat_map(|group| group.paths());
        let open = |path: &std::path::PathBuf| {
            let mut options = OpenOptions::new();
            options.write(true).open(path.join("cgroup.procs"))
        };
        let groups = paths.map(open).collect::<io::Result<Vec<_>>>();
        Ok(Confinement {
            groups: groups.map_err(|e| {
                let text = format!("open a control group: {e}");
                Error::new(ErrorKind::Unsupported, text).with_source(e)
            })?,
            limits: self.limits,
            core_dumps,
        })
    }

    /// Has the limits held that need a watch, from now on.
    ///
    /// # Errors
    ///
    /// `Unsupported` if `/proc` does not show the program, or the watch cannot be started.
    pub fn watch(&self, pid: u32) -> Result<(), Error> {
        static KEYS: AtomicU64 = AtomicU64::new(1 << 63);
        if !self.limits.needs_a_watch() {
            return Ok(());
        }
        let root = proc_fs::shown(pid, None::<std::os::fd::OwnedFd>).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "hold limits of a program: /proc does not show it; mount that of this PID namespace",
            )
        })?;
        let attempt = Box::new(Arc::clone(&self.watched));
        let tree = WatchedTree::of_program(root, self.limits, self.group.clone(), attempt);
        watch(KEYS.fetch_add(1, Ordering::Relaxed), tree).map_err(|e| {
            let text = format!("start the thread that watches limits: {e}");
            Error::new(ErrorKind::Unsupported, text).with_source(e)
        })
    }

    /// Waits until it is over a limit. Cancel safe.
    pub async fn over_limit(&self) -> LimitHit {
        loop {
            if let Some(hit) = *lock(&self.watched.hit) {
                return hit;
            }
            self.watched.came.notified().await;
        }
    }

    /// The limit that it has met by now: it went over it, or the kernel had to end a process of it
    /// or to refuse it one.
    pub fn limit_met(&self) -> Option<LimitHit> {
        let hit = *lock(&self.watched.hit);
        hit.or_else(|| {
            let counts = self.group.as_ref()?.counts();
            match (self.limits.memory, self.limits.processes) {
                (Some(allowed), _) if counts.oom_kills > 0 => Some(LimitHit::Memory {
                    allowed,
                    used: allowed,
                }),
                (_, Some(allowed)) if counts.refused_forks > 0 => Some(LimitHit::Processes {
                    allowed,
                    used: allowed,
                }),
                _ => None,
            }
        })
    }

    /// Kills all that is left of it, wherever it went. `group` is the process group of the program,
    /// which has ended and is not waited for yet. Returns the processes that could not be ended.
    pub async fn end(&self, group: i32) -> Vec<u32> {
        self.watched.has_ended.store(true, Ordering::Release);
        if let Some(group) = &self.group {
            group.kill();
        }
        let since = u32::try_from(group)
            .ok()
            .and_then(|pid| proc_fs::shown(pid, None::<std::os::fd::OwnedFd>))
            .and_then(proc_fs::Stat::of)
            .map_or(0, |stat| stat.started);
        tree::end_program(self.mark.clone(), group, since)
            .await
            .left
    }
}

impl Drop for ProgramTree {
    fn drop(&mut self) {
        self.watched.has_ended.store(true, Ordering::Release);
    }
}

impl Confinement {
    /// Applies it to this process. Nothing but system calls: it may be called between fork and
    /// exec.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn apply(&self) -> io::Result<()> {
        for group in &self.groups {
            // The process that writes.
            rustix::io::write(group.as_fd(), b"0")?;
        }
        if !self.core_dumps {
            limit(Resource::Core, 0)?;
        }
        let limits = &self.limits;
        let standard = 3;
        let of_process = [
            (
                Resource::Nofile,
                limits.files.map(|files| u64::from(files) + standard),
            ),
            (Resource::Fsize, limits.file_size),
            (Resource::As, limits.address_space),
        ];
        for (resource, most) in of_process {
            if let Some(most) = most {
                limit(resource, most)?;
            }
        }
        if limits.needs_a_watch() {
            // It adopts what its descendants leave, so that nothing leaves its tree.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        }
        Ok(())
    }
}

/// Sets a hard limit, unless a stricter one is in force.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let before = getrlimit(resource);
    let stricter = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    let limit = Rlimit {
        current: stricter(before.current),
        maximum: stricter(before.maximum),
    };
    Ok(setrlimit(resource, limit)?)
}

//! A control group for one worker, where the host lets us make one: a memory limit that the kernel
//! enforces, a limit on processes, and a kill that no descendant escapes.
//!
//! Version 2 first, version 1 for the controllers that version 2 does not have on this host. Groups
//! are made below our own and removed when their worker has ended, or, where this program was
//! killed before it could, by the next one that makes some.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;
use brigade_runtime::owner::{own_name, runs};

/// Limits of a worker's control group, see `Builder::cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLimits {
    /// Bytes of memory for the worker and its descendants together; the kernel ends one of them
    /// beyond it.
    pub memory: Option<u64>,
    /// Processes and threads, the worker's own included.
    pub processes: Option<u64>,
}

/// The control group of one worker. Removed when dropped, best effort: it must be empty by then.
pub(crate) struct ControlGroup {
    /// For `cgroup.kill`.
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    memory_is_v2: bool,
    pids: Option<PathBuf>,
}

impl ControlGroup {
    /// Makes a group for the worker of this cookie, with these limits. The first time, those that
    /// dead hosts left are removed.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the host does not let us make one that can enforce them.
    pub(crate) fn create(cookie: &str, limits: &GroupLimits) -> Result<Self, Error> {
        remove_left_over();
        // Unlike any other on this host, and it names its maker.
        let name = format!("{PREFIX}{}{SEPARATOR}{cookie}", own_name());
        Self::try_create(&name, limits).map_err(|e| {
            let text = format!(
                "make a control group: {e}; run as root or with a delegated control \
                group, or do without Builder::cgroup"
            );
            Error::new(ErrorKind::Unsupported, text).with_source(e)
        })
    }

    fn try_create(name: &str, limits: &GroupLimits) -> io::Result<Self> {
        let mounts = Mounts::read()?;
        let mut group = Self {
            unified: None,
            memory: None,
            memory_is_v2: false,
            pids: None,
        };
        if let Some(parent) = &mounts.unified {
            let path = parent.join(name);
            fs::create_dir(&path)?;
            group.unified = Some(path);
        }
        if let Some(bytes) = limits.memory {
            (group.memory, group.memory_is_v2) = group.limit(
                name,
                mounts.memory.as_deref(),
                ["memory.max", "memory.limit_in_bytes"],
                bytes,
            )?;
        }
        if let Some(count) = limits.processes {
            (group.pids, _) = group.limit(
                name,
                mounts.pids.as_deref(),
                ["pids.max", "pids.max"],
                count,
            )?;
        }
        Ok(group)
    }

    /// Writes a limit where its controller is: in the unified group or in one of version 1.
    fn limit(
        &self,
        name: &str,
        v1: Option<&Path>,
        [v2_file, v1_file]: [&str; 2],
        value: u64,
    ) -> io::Result<(Option<PathBuf>, bool)> {
        if let Some(unified) = &self.unified
            && unified.join(v2_file).exists()
        {
            fs::write(unified.join(v2_file), value.to_string())?;
            return Ok((Some(unified.clone()), true));
        }
        let Some(v1) = v1 else {
            return Err(io::Error::other(format!(
                "the controller of {v2_file} is not available"
            )));
        };
        let path = v1.join(name);
        fs::create_dir_all(&path)?;
        fs::write(path.join(v1_file), value.to_string())?;
        Ok((Some(path), false))
    }

    /// Moves a process in, with what it will start.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        for path in self.paths() {
            fs::write(path.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Kills everything in it, where the kernel can (5.14 and newer).
    pub(crate) fn kill(&self) {
        if let Some(unified) = &self.unified {
            fs::write(unified.join("cgroup.kill"), "1").ok();
        }
    }

    /// Whether the kernel's OOM killer ended something in it.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let Some(path) = &self.memory else {
            return false;
        };
        let file = if self.memory_is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let events = fs::read_to_string(path.join(file)).unwrap_or_default();
        events.lines().any(|line| {
            line.strip_prefix("oom_kill ")
                .is_some_and(|count| count.trim() != "0")
        })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let memory = self
            .memory
            .iter()
            .filter(|path| Some(*path) != self.unified.as_ref());
        let pids = self
            .pids
            .iter()
            .filter(|path| Some(*path) != self.unified.as_ref());
        self.unified.iter().chain(memory).chain(pids)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for path in self.paths() {
            fs::remove_dir(path).ok();
        }
    }
}

/// Names of groups: this, the name of the process that made it, the separator, the cookie of the
/// worker.
const PREFIX: &str = "brigade-";
const SEPARATOR: char = '.';
/// How often a group is tried that was just emptied, and the pause before that: what is killed in
/// it takes a moment to end.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Removes groups of other makers that are gone: killed, they could not. Once for this process,
/// by a thread of its own.
fn remove_left_over() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Where no thread can be had the next program does it.
        spawn_thread("brigade-groups", 128 << 10, || {
            let Ok(mounts) = Mounts::read() else { return };
            for parent in [mounts.unified, mounts.memory, mounts.pids]
                .into_iter()
                .flatten()
            {
                let entries = fs::read_dir(parent).into_iter().flatten().flatten();
                entries
                    .filter(|entry| entry.file_name().to_str().is_some_and(is_left_over))
                    .for_each(|entry| remove(&entry.path()));
            }
        })
        .ok();
    });
}

/// Whether a group was made by a process that has ended for certain. One of another PID namespace,
/// boot or version may be in use.
fn is_left_over(name: &str) -> bool {
    let maker = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once(SEPARATOR));
    maker.is_some_and(|(maker, _)| !runs(maker))
}

/// Ends what is in a group and removes it.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and there is no notice when a group becomes empty"
)]
fn remove(path: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                if fs::write(path.join("cgroup.kill"), "1").is_err() {
                    let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                    let members = members
                        .lines()
                        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
                    members.for_each(|pid| {
                        // What ended meanwhile is as wanted.
                        kill_process(pid, Signal::KILL).ok();
                    });
                }
            }
            _ => return,
        }
        std::thread::sleep(REMOVAL_PAUSE);
    }
}

/// Our own groups in each hierarchy.
struct Mounts {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl Mounts {
    /// From `/proc/self/mounts` and `/proc/self/cgroup` (cgroups(7)).
    fn read() -> io::Result<Self> {
        let (mounts, own) = (
            fs::read_to_string("/proc/self/mounts")?,
            fs::read_to_string("/proc/self/cgroup")?,
        );
        let of = |wanted: &str| {
            let mount = mounts.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
                let fits = match wanted {
                    "" => kind == "cgroup2",
                    controller => {
                        kind == "cgroup" && options.split(',').any(|option| option == controller)
                    }
                };
                fits.then(|| PathBuf::from(path))
            })?;
            let inside = own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                controllers
                    .split(',')
                    .any(|controller| controller == wanted)
                    .then_some(path)
            })?;
            Some(mount.join(inside.trim_start_matches('/')))
        };
        Ok(Self {
            unified: of(""),
            memory: of("memory"),
            pids: of("pids"),
        })
    }
}

//! A control group for one worker, where the host lets us make one: a memory limit that the kernel
//! enforces, a limit on processes, and a kill that no descendant escapes.
//!
//! Version 2 first, version 1 for the controllers that version 2 does not have on this host. Groups
//! are made below our own (`hierarchy`) and removed when their worker has ended, or, where this
//! program was killed before it could, by the next one that makes some (`left_over`).
//!
//! What a group holds is the sum of what the pool's builder says ([`GroupLimits`], for the worker's
//! whole life) and of what the running attempt may use, which the pool writes before each attempt
//! that has limits. Version 2's memory was written after the kernel's document and runs in tests
//! with ordinary files in place of the kernel's only.

mod hierarchy;
mod left_over;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::hierarchy::Hierarchies;
use self::left_over::{PREFIX, SEPARATOR, kill_members, remove_left_over, remove_soon};
use crate::attempt_report::MemoryHold;
use crate::error::{Error, ErrorKind};
use brigade_runtime::owner::own_name;

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

/// The control group of one worker. Removed when dropped.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    /// For `cgroup.kill` and `cpu.stat`.
    unified: Option<PathBuf>,
    memory: Option<Controller>,
    pids: Option<Controller>,
    /// For the worker's whole life.
    limits: GroupLimits,
}

/// Where the files of a controller are.
#[derive(Clone, Debug)]
struct Controller {
    path: PathBuf,
    is_v2: bool,
}

/// What a group says of the attempt that runs in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupCounts {
    /// Processes that the kernel ended for lack of memory, since the group was made.
    pub(crate) oom_kills: u64,
    /// How often the limit on processes refused one.
    pub(crate) refused_forks: u64,
}

impl ControlGroup {
    /// Makes a group for the worker of this cookie, with these limits. The first time, those that
    /// dead hosts left are removed.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the host does not let us make one that can enforce them.
    pub(crate) fn create(cookie: &str, limits: &GroupLimits) -> Result<Self, Error> {
        let made = Hierarchies::of_this_process().and_then(|found| {
            let group = Self::make(cookie, &found, limits)?;
            group.require(limits)?;
            Ok(group)
        });
        made.map_err(|e| {
            let text = format!(
                "make a control group: {e}; run as root or with a delegated control \
                group, or do without Builder::cgroup"
            );
            Error::new(ErrorKind::Unsupported, text).with_source(e)
        })
    }

    /// A group for an attempt with limits, if the host lets us make one that can hold its memory
    /// or its processes.
    pub(crate) fn create_if_possible(cookie: &str) -> Option<Self> {
        let found = Hierarchies::of_this_process().ok()?;
        Self::make(cookie, &found, &GroupLimits::default())
            .ok()
            .filter(|group| group.memory.is_some() || group.pids.is_some())
    }

    fn make(cookie: &str, found: &Hierarchies, limits: &GroupLimits) -> io::Result<Self> {
        remove_left_over();
        // Unlike any other on this host, and it names its maker.
        let name = format!("{PREFIX}{}{SEPARATOR}{cookie}", own_name());
        let mut group = Self {
            unified: None,
            memory: None,
            pids: None,
            limits: limits.clone(),
        };
        if let Some(parent) = &found.unified {
            let path = parent.join(&name);
            fs::create_dir(&path)?;
            group.unified = Some(path);
        }
        group.memory = group.controller(&name, "memory.max", found.memory.as_deref());
        group.pids = group.controller(&name, "pids.max", found.pids.as_deref());
        group.hold_memory(None)?;
        group.hold_processes(None)?;
        Ok(group)
    }

    /// Where a controller is: in the unified group, or in one of version 1, which is made.
    fn controller(&self, name: &str, file: &str, v1: Option<&Path>) -> Option<Controller> {
        if let Some(unified) = &self.unified
            && unified.join(file).exists()
        {
            return Some(Controller {
                path: unified.clone(),
                is_v2: true,
            });
        }
        let path = v1?.join(name);
        match fs::create_dir(&path) {
            // Two controllers may share a hierarchy.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        // An ordinary directory where the hierarchy was mounted holds nothing.
        if !path.join("cgroup.procs").exists() {
            fs::remove_dir(&path).ok();
            return None;
        }
        Some(Controller { path, is_v2: false })
    }

    /// Refuses limits whose controllers are not there.
    fn require(&self, limits: &GroupLimits) -> io::Result<()> {
        let missing = |file| {
            Err(io::Error::other(format!(
                "the controller of {file} is not available"
            )))
        };
        if limits.memory.is_some() && self.memory.is_none() {
            return missing("memory.max");
        }
        if limits.processes.is_some() && self.pids.is_none() {
            return missing("pids.max");
        }
        Ok(())
    }

    /// Moves a process in, with what it will start.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        for path in self.paths() {
            fs::write(path.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Kills everything in it.
    pub(crate) fn kill(&self) {
        self.paths().for_each(|path| kill_members(path));
    }

    /// What holds a memory limit here, if anything does.
    pub(crate) fn memory_hold(&self) -> Option<MemoryHold> {
        self.memory.as_ref().map(|memory| match memory.is_v2 {
            true => MemoryHold::ControlGroupV2,
            false => MemoryHold::ControlGroupV1,
        })
    }

    /// The memory that the worker may have at all.
    pub(crate) fn memory_of_worker(&self) -> Option<u64> {
        self.limits.memory
    }

    /// Whether it holds a limit on processes.
    pub(crate) fn holds_processes(&self) -> bool {
        self.pids.is_some()
    }

    /// Allows so many bytes beyond what is used now, and not more than the worker may have at all.
    pub(crate) fn hold_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let more = bytes.map(|bytes| memory.used_bytes().saturating_add(bytes));
        let most = [more, self.limits.memory].into_iter().flatten().min();
        memory.set_memory(most)
    }

    /// Allows so many processes and threads beyond those that are there now.
    pub(crate) fn hold_processes(&self, count: Option<u32>) -> io::Result<()> {
        let Some(pids) = &self.pids else {
            return Ok(());
        };
        let now = number_in(&pids.path.join("pids.current")).unwrap_or(0);
        let more = count.map(|count| now.saturating_add(count.into()));
        let most = [more, self.limits.processes].into_iter().flatten().min();
        fs::write(pids.path.join("pids.max"), text_of(most, "max"))
    }

    pub(crate) fn counts(&self) -> GroupCounts {
        let oom_kills = self.memory.as_ref().and_then(|memory| {
            let file = if memory.is_v2 {
                "memory.events"
            } else {
                "memory.oom_control"
            };
            field_in(&memory.path.join(file), "oom_kill")
        });
        let refused_forks = self
            .pids
            .as_ref()
            .and_then(|pids| field_in(&pids.path.join("pids.events"), "max"));
        GroupCounts {
            oom_kills: oom_kills.unwrap_or(0),
            refused_forks: refused_forks.unwrap_or(0),
        }
    }

    /// CPU time of all that is or was in it; `None` where it does not count that.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let micros = field_in(&self.unified.as_ref()?.join("cpu.stat"), "usage_usec")?;
        Some(Duration::from_micros(micros))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let v1 = [&self.memory, &self.pids]
            .into_iter()
            .flatten()
            .filter(|controller| !controller.is_v2)
            .map(|controller| &controller.path);
        self.unified.iter().chain(v1)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.paths().for_each(|path| remove_soon(path));
    }
}

impl Controller {
    /// The memory that is not the kernel's cache of files.
    fn used_bytes(&self) -> u64 {
        let of = |field: &str| field_in(&self.path.join("memory.stat"), field).unwrap_or(0);
        if self.is_v2 {
            return of("anon") + of("shmem") + of("kernel");
        }
        let kernel = number_in(&self.path.join("memory.kmem.usage_in_bytes")).unwrap_or(0);
        of("total_rss") + of("total_shmem") + kernel
    }

    /// Allows so many bytes of memory, and no swap in place of it.
    fn set_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        if self.is_v2 {
            let text = text_of(bytes, "max");
            let swap = if bytes.is_some() { "0" } else { "max" };
            // Not there where the kernel does not count swap by groups.
            fs::write(self.path.join("memory.swap.max"), swap).ok();
            // All of an attempt ends with any process of it.
            fs::write(self.path.join("memory.oom.group"), "1").ok();
            return fs::write(self.path.join("memory.max"), text);
        }
        let text = text_of(bytes, "-1");
        let (memory, both) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        if bytes.is_some() {
            fs::write(self.path.join("memory.swappiness"), "0").ok();
        }
        // Memory is never allowed more than memory and swap together, on the way up and down. The
        // second is not there where the kernel does not count swap.
        let first = fs::write(self.path.join(memory), &text);
        fs::write(self.path.join(both), &text).ok();
        match first {
            Ok(()) => Ok(()),
            Err(_) => fs::write(self.path.join(memory), &text),
        }
    }
}

/// A value as a file of a group takes it.
fn text_of(value: Option<u64>, unlimited: &str) -> String {
    value.map_or_else(|| unlimited.to_owned(), |value| value.to_string())
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A field of a file with a name and a number in each line.
fn field_in(path: &Path, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == field).then(|| number.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group of version 2 whose files are ordinary ones.
    fn group(root: &Path, limits: GroupLimits) -> ControlGroup {
        let files = [
            ("memory.max", "max"),
            (
                "memory.stat",
                "anon 1000\nfile 5000\nkernel 20\nshmem 300\n",
            ),
            ("memory.events", "low 0\nmax 3\noom 1\noom_kill 2\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max"),
            ("pids.events", "max 4\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 0\n"),
        ];
        for (name, text) in files {
            fs::write(root.join(name), text).unwrap();
        }
        let unified = Some(root.to_owned());
        let mut group = ControlGroup {
            unified,
            memory: None,
            pids: None,
            limits,
        };
        group.memory = group.controller("unused", "memory.max", None);
        group.pids = group.controller("unused", "pids.max", None);
        group
    }

    #[test]
    fn a_group_of_version_2_holds_what_its_files_say() {
        let root = tempfile::tempdir().unwrap();
        let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        let group = group(root.path(), GroupLimits::default());
        assert_eq!(group.memory_hold(), Some(MemoryHold::ControlGroupV2));
        group.hold_memory(Some(1 << 20)).unwrap();
        let most = (1320 + (1 << 20)).to_string();
        assert_eq!(
            (text("memory.max"), text("memory.swap.max")),
            (most, "0".into())
        );
        assert_eq!(text("memory.oom.group"), "1");
        group.hold_processes(Some(8)).unwrap();
        assert_eq!(text("pids.max"), "11");
        let counts = GroupCounts {
            oom_kills: 2,
            refused_forks: 4,
        };
        assert_eq!(group.counts(), counts);
        assert_eq!(group.cpu(), Some(Duration::from_millis(1500)));
        group.hold_memory(None).unwrap();
        group.hold_processes(None).unwrap();
        assert_eq!(
            (text("memory.max"), text("memory.swap.max")),
            ("max".into(), "max".into())
        );
        assert_eq!(text("pids.max"), "max");
    }

    #[test]
    fn the_limits_of_the_pool_are_never_widened_by_those_of_an_attempt() {
        let root = tempfile::tempdir().unwrap();
        let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        let limits = GroupLimits {
            memory: Some(5000),
            processes: Some(6),
        };
        let group = group(root.path(), limits);
        group.hold_memory(Some(1 << 20)).unwrap();
        group.hold_processes(Some(8)).unwrap();
        assert_eq!(
            (text("memory.max"), text("pids.max")),
            ("5000".into(), "6".into())
        );
        group.hold_memory(None).unwrap();
        assert_eq!(text("memory.max"), "5000");
    }
}

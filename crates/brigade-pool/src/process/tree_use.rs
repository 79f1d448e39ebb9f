//! What a process tree uses: memory, CPU time, processes and threads, read from `/proc`.
//!
//! The tree is what descends from a process now. A worker with limits adopts its orphans
//! (`PR_SET_CHILD_SUBREAPER`), so nothing leaves its tree, whatever group, session or environment
//! it gives itself. What has ended and was waited for counts by its CPU time alone.

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

use super::proc_fs::{self, Filled, Stat};

/// Processes of one tree that are looked at. The watch ends an attempt long before.
const PROCESSES_MAX: usize = 4096;
/// Threads of one process whose children are looked up; a process with more is looked up by the
/// parents of all processes.
const THREADS_MAX: usize = 64;

/// What a tree uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeUse {
    /// Bytes of memory that are of no file, and of swap. Pages that several of its processes share
    /// count once for each, unlike in [`TreeUse::memory_shared_out`].
    pub(crate) memory: u64,
    pub(crate) cpu: Duration,
    /// Processes and threads.
    pub(crate) tasks: u32,
    pub(crate) members: Vec<Member>,
}

/// A process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its number in `/proc`.
    pub(crate) shown: u32,
    /// When it was started, in ticks since boot.
    pub(crate) started: u64,
    memory: Filled,
    /// Where its stack, heap and arguments lie. They are at random places from its `execve` on, so
    /// only processes with the same places can share memory that is of no file.
    places: [u64; 3],
}

impl TreeUse {
    /// Of what descends from this process, and of itself.
    pub(crate) fn of(root: u32) -> Self {
        let mut used = Self::default();
        for shown in descendants(root) {
            used.add(shown);
        }
        used
    }

    fn add(&mut self, shown: u32) {
        let Ok(text) = fs::read_to_string(format!("/proc/{shown}/stat")) else {
            return;
        };
        let (Some(stat), Some(numbers)) = (Stat::parse(&text), Numbers::parse(&text)) else {
            return;
        };
        self.cpu = self.cpu.saturating_add(numbers.cpu);
        // Where only its first thread has ended, the others go on.
        if stat.is_over() && numbers.threads <= 1 {
            return;
        }
        self.tasks = self.tasks.saturating_add(numbers.threads);
        let memory = Filled::of(shown);
        self.memory = self.memory.saturating_add(memory.total());
        self.members.push(Member {
            shown,
            started: stat.started,
            memory,
            places: numbers.places,
        });
    }

    /// The memory, with what its processes share counted once. Processes that may share some are
    /// asked for their part of it, for which the kernel walks their pages.
    pub(crate) fn memory_shared_out(&self) -> u64 {
        self.members.iter().fold(0, |sum, member| {
            let own = if self.may_share(member) {
                proc_fs::share_of_memory(member.shown)
            } else {
                None
            };
            sum.saturating_add(own.unwrap_or_else(|| member.memory.total()))
        })
    }

    fn may_share(&self, member: &Member) -> bool {
        self.members.len() > 1
            && (member.memory.shared > 0
                || self
                    .members
                    .iter()
                    .any(|other| other.shown != member.shown && other.places == member.places))
    }
}

/// Fields of proc_pid_stat(5) that `Stat` does not need.
struct Numbers {
    /// Its own time, and that of children that it waited for.
    cpu: Duration,
    threads: u32,
    places: [u64; 3],
}

impl Numbers {
    fn parse(stat: &str) -> Option<Self> {
        // From field 3 on; 14 to 17 are times, 20 is the number of threads, and 28, 47 and 48 are
        // where stack, heap and arguments begin.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').take(46).collect();
        let place = |index: usize| {
            fields
                .get(index)
                .and_then(|at| at.parse().ok())
                .unwrap_or(0)
        };
        let ticks: u64 = fields
            .get(11..15)?
            .iter()
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        let per_second = clock_ticks_per_second().max(1);
        Some(Self {
            cpu: Duration::from_millis(ticks.saturating_mul(1000) / per_second),
            threads: fields.get(17)?.parse().ok()?,
            places: [25, 44, 45].map(place),
        })
    }
}

/// A process and all that descends from it now, parents before their children.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        let Some(children) = children(parent) else {
            return by_parents(root);
        };
        let room = PROCESSES_MAX.saturating_sub(found.len());
        found.extend(children.into_iter().take(room));
    }
    found
}

/// The children of a process; `None` where the kernel does not list them.
fn children(parent: u32) -> Option<Vec<u32>> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        // It has ended.
        return Some(Vec::new());
    };
    let mut found = Vec::new();
    for (count, thread) in threads.flatten().enumerate() {
        if count == THREADS_MAX {
            return None;
        }
        let mut path = thread.path();
        path.push("children");
        match fs::read_to_string(&path) {
            Ok(list) => found.extend(
                list.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            ),
            // The thread has ended, unless the kernel has no list.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

/// As [`descendants`], by the parents of all processes.
fn by_parents(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = proc_fs::all()
        .into_iter()
        .flatten()
        .filter_map(|shown| Some((shown, u32::try_from(Stat::of(shown)?.parent).ok()?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        let room = PROCESSES_MAX.saturating_sub(found.len());
        let children = all
            .iter()
            .filter(|(_, of)| *of == parent)
            .map(|(child, _)| *child);
        found.extend(children.take(room));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_tree_has_its_descendants_with_their_memory_and_threads() {
        let Some(own) = proc_fs::shown_self() else {
            return;
        };
        #[expect(clippy::disallowed_methods, reason = "a child to find")]
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let find = || {
            let used = TreeUse::of(child.id());
            (used.members.len() == 2).then_some(used)
        };
        let used = loop {
            if let Some(used) = find() {
                break used;
            }
            std::thread::yield_now();
        };
        assert_eq!(used.tasks, 2);
        assert!(
            used.memory > 0 && used.memory_shared_out() <= used.memory,
            "{used:?}"
        );
        let mut found: Vec<u32> = used.members.iter().map(|member| member.shown).collect();
        found.sort_unstable();
        let mut parents = by_parents(child.id());
        parents.sort_unstable();
        assert_eq!(found, parents, "both ways find the same");
        assert!(TreeUse::of(own).members.len() >= 3);
        for member in used.members {
            let pid = rustix::process::Pid::from_raw(member.shown.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_still_counts() {
        let script = format!(
            "import ctypes, threading, time\n\
             def hog():\n    held = bytearray(b'x' * (32 << 20))\n    time.sleep(600)\n\
             threading.Thread(target=hog).start()\n\
             ctypes.CDLL(None).syscall({}, 0)",
            libc::SYS_exit
        );
        #[expect(clippy::disallowed_methods, reason = "a child to find")]
        let mut child = std::process::Command::new("python3")
            .args(["-c", &script])
            .spawn()
            .unwrap();
        let began = Instant::now();
        let used = loop {
            let used = TreeUse::of(child.id());
            let is_over = Stat::of(child.id()).is_none_or(|stat| stat.is_over());
            if is_over && used.memory >= 32 << 20 || began.elapsed() > Duration::from_secs(60) {
                break used;
            }
            std::thread::yield_now();
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            used.memory >= 32 << 20 && used.members.len() == 1,
            "{used:?}"
        );
    }

    #[test]
    fn the_times_and_threads_of_a_process_are_read_from_its_line() {
        let text = "9 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 50 25 25 20 0 7 0 4242 0";
        let numbers = Numbers::parse(text).unwrap();
        let per_second = clock_ticks_per_second();
        assert_eq!(numbers.cpu, Duration::from_millis(200_000 / per_second));
        assert_eq!(numbers.threads, 7);
    }
}

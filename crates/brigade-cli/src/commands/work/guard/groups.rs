//! The process groups that the guard knows, and how it kills them without ever hitting another.
//!
//! A number is no process: when its process was reaped, the kernel may give it to another. So the
//! leader of each group is held by a pidfd. The pidfd is the right one if the worker was still the
//! guard's parent when it was opened, because the worker reaps a leader only after it said so; else
//! the leader is verified. The group is killed by its number only while its leader is not reaped,
//! since that keeps the number.
//!
//! Without a leader, the guard finds processes by their marks and kills them one by one, by pidfd.
//! A process counts only if it belongs to this user, because users can write anything into the
//! environment of their own processes. Marks are random, so that no user can know them before the
//! program runs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, geteuid, getpgid, getppid, kill_process_group, pidfd_open,
    pidfd_send_signal,
};

use super::super::program::TREE_VARIABLE;

const SWEEPS: u32 = 10;
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Groups {
    worker: Pid,
    /// Marks of programs that start.
    starting: HashSet<String>,
    /// Those that run: their marks, and their leaders if they could be held.
    running: HashMap<Pid, (String, Option<OwnedFd>)>,
}

impl Groups {
    pub(super) fn new(worker: Pid) -> Self {
        Self {
            worker,
            starting: HashSet::new(),
            running: HashMap::new(),
        }
    }

    /// `None` for a line that is none.
    pub(super) fn hear(&mut self, line: &str) -> Option<()> {
        let read = |group: &str| group.parse().ok().and_then(Pid::from_raw);
        match line.split_at_checked(1)? {
            ("?", mark) => drop(self.starting.insert(mark.to_owned())),
            ("+", started) => {
                let (mark, group) = started
                    .split_once(' ')
                    .map_or((started, None), |(mark, group)| (mark, Some(group)));
                self.starting.remove(mark);
                if let Some(group) = group {
                    let group = read(group)?;
                    self.running
                        .insert(group, (mark.to_owned(), self.hold(mark, group)));
                }
            }
            ("-", group) => drop(self.running.remove(&read(group)?)),
            _ => return None,
        }
        Some(())
    }

    /// A pidfd of the leader of a group.
    fn hold(&self, mark: &str, group: Pid) -> Option<OwnedFd> {
        let leader = pidfd_open(group, PidfdFlags::empty()).ok()?;
        let is_unreaped_child =
            parent_of(group) == Some(self.worker) && getppid() == Some(self.worker);
        let is_leader = || getpgid(Some(group)) == Ok(group);
        (is_unreaped_child || (is_leader() && has_mark(group, |of| of == mark))).then_some(leader)
    }

    /// Kills all that is left.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no event for a process that has got its environment, or that has forked"
    )]
    pub(super) fn kill(self) {
        let mut marks = self.starting;
        for (group, (mark, leader)) in self.running {
            match leader {
                Some(leader) if kill_group(&leader, group) => {}
                // Its members, if there are any, still have its mark.
                _ => drop(marks.insert(mark)),
            }
        }
        if marks.is_empty() {
            return;
        }
        // A process has no environment for a moment after it has closed the pipe.
        for _ in 0..SWEEPS {
            kill_marked(&marks);
            std::thread::sleep(SWEEP_PAUSE);
        }
    }
}

/// `false` if the leader was reaped, so that the number may be another's.
fn kill_group(leader: &OwnedFd, group: Pid) -> bool {
    // A process that is stopped does not end, and so keeps its number.
    pidfd_send_signal(leader, Signal::STOP).is_ok()
        && kill_process_group(group, Signal::KILL).is_ok()
}

fn kill_marked(marks: &HashSet<String>) {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in numbers.filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .parse()
            .ok()
            .and_then(Pid::from_raw)
    }) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if !has_mark(pid, |mark| marks.contains(mark)) {
            continue;
        }
        if getpgid(Some(pid)) == Ok(pid) && kill_group(&process, pid) {
            continue;
        }
        // It may have ended.
        pidfd_send_signal(&process, Signal::KILL).ok();
    }
}

/// Whether a process of this user has a mark in its environment.
fn has_mark(pid: Pid, is_one: impl Fn(&str) -> bool) -> bool {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    // The files of a program that may not be inspected, for example a setuid one, belong to root.
    let is_ours =
        fs::metadata(&directory).is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    let environment = if is_ours {
        fs::read(format!("{directory}/environ")).unwrap_or_default()
    } else {
        return false;
    };
    let mut variables = environment.split(|byte| *byte == 0);
    let path = variables.find_map(|variable| {
        variable
            .strip_prefix(TREE_VARIABLE.as_bytes())?
            .strip_prefix(b"=")
    });
    path.is_some_and(|path| String::from_utf8_lossy(path).split('/').any(is_one))
}

fn parent_of(pid: Pid) -> Option<Pid> {
    // `pid (name) state ppid ..`, see proc_pid_stat(5).
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?)
}

//! Ends the programs if `brigade work` itself is killed: their jobs are handed out again then, and no job may run twice at once.
//!
//! The guard is this program again, in a process group of its own. It is told of each process group that begins and ends, over a pipe, and
//! kills those that are left when the pipe ends, whatever the reason. A group is taken off its list before its leader is reaped, so
//! that a number that is used again is never hit.
//!
//! The mark of a program is told before it starts, its group afterwards. One that had started when the worker was killed in between is found by
//! its mark: the pipe, which a child holds until it executes its program, ends later than that.
//!
//! Lines: `?MARK` starts, `+MARK GROUP` has, `+MARK` could not; `-GROUP` has ended.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, stdin};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use super::program::TREE_VARIABLE;

/// The side of the worker.
pub(super) struct Guard {
    process: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg("work-guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the process that ends the programs with this one")?;
        let pipe = Mutex::new(process.stdin.take());
        Ok(Self { process, pipe })
    }

    /// A program with this mark is about to start.
    pub(super) async fn expect(&self, mark: &str) {
        self.tell(&format!("?{mark}\n")).await;
    }

    /// It has started, as this group, or could not.
    pub(super) async fn add(&self, mark: &str, group: Option<Pid>) {
        let group = group.map_or_else(String::new, |group| format!(" {}", group.as_raw_nonzero()));
        self.tell(&format!("+{mark}{group}\n")).await;
    }

    /// A program has ended and is about to be reaped.
    pub(super) async fn remove(&self, group: Pid) {
        self.tell(&format!("-{}\n", group.as_raw_nonzero())).await;
    }

    async fn tell(&self, line: &str) {
        let mut pipe = self.pipe.lock().await;
        // Somebody killed the guard: then the programs have none, and go on.
        if let Some(open) = &mut *pipe
            && open.write_all(line.as_bytes()).await.is_err()
        {
            eprintln!("brigade: the guard is gone: programs would outlive a kill of this process");
            *pipe = None;
        }
    }

    /// Every program has ended.
    pub(super) async fn end(mut self) {
        drop(self.pipe);
        // It ends with the pipe; if waiting for it fails, it is reaped with this process.
        self.process.wait().await.ok();
    }
}

/// The guard itself; `brigade work` starts it.
#[derive(clap::Args)]
pub(crate) struct WorkGuard {}

impl WorkGuard {
    #[expect(clippy::disallowed_methods, reason = "no event tells that a process has got its environment")]
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut programs = Programs::default();
        for line in stdin().lock().lines() {
            let Ok(line) = line else { break };
            programs.hear(&line).with_context(|| format!("a line that is none: {line}"))?;
        }
        kill_all(programs.groups);
        if !programs.starting.is_empty() {
            // A process has no environment for a moment after it has closed the pipe.
            for _ in 0..SWEEPS {
                kill_all(groups_of(&programs.starting));
                std::thread::sleep(SWEEP_PAUSE);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

const SWEEPS: u32 = 10;
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

fn kill_all(groups: impl IntoIterator<Item = Pid>) {
    for group in groups {
        // It may be gone already.
        kill_process_group(group, Signal::KILL).ok();
    }
}

#[derive(Default)]
struct Programs {
    starting: HashSet<String>,
    groups: HashSet<Pid>,
}

impl Programs {
    fn hear(&mut self, line: &str) -> Option<()> {
        let read = |group: &str| group.parse().ok().and_then(Pid::from_raw);
        match line.split_at_checked(1)? {
            ("?", mark) => drop(self.starting.insert(mark.to_owned())),
            ("+", told) => {
                let (mark, group) = told.split_once(' ').map_or((told, None), |(mark, group)| (mark, Some(group)));
                self.starting.remove(mark);
                if let Some(group) = group {
                    self.groups.insert(read(group)?);
                }
            }
            ("-", group) => drop(self.groups.remove(&read(group)?)),
            _ => return None,
        }
        Some(())
    }
}

/// The process groups of processes with one of these marks.
fn groups_of(marks: &HashSet<String>) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let has_mark = |environment: Vec<u8>| {
        let path = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(TREE_VARIABLE.as_bytes())?.strip_prefix(b"=").map(String::from_utf8_lossy));
        path.is_some_and(|path| path.rsplit('/').next().is_some_and(|mark| marks.contains(mark)))
    };
    let marked = processes.filter(|process| fs::read(process.path().join("environ")).is_ok_and(has_mark));
    marked.filter_map(|process| getpgid(Pid::from_raw(process.file_name().to_str()?.parse().ok()?)).ok()).collect()
}

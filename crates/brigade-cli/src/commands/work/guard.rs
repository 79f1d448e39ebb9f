//! Ends the programs if `brigade work` itself is killed: their jobs are handed out again then, and no job may run twice at once.
//!
//! The guard is this program again, in a process group of its own. It is told of each process group that begins and ends, over a pipe, and
//! kills those that are left when the pipe ends, whatever the reason. A group is taken off its list before its leader is reaped, so
//! that a number that is used again is never hit.

use std::collections::HashSet;
use std::io::{BufRead as _, stdin};
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

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

    /// A program has started.
    pub(super) async fn add(&self, group: Pid) {
        self.tell('+', group).await;
    }

    /// A program has ended and is about to be reaped.
    pub(super) async fn remove(&self, group: Pid) {
        self.tell('-', group).await;
    }

    async fn tell(&self, sign: char, group: Pid) {
        let mut pipe = self.pipe.lock().await;
        let line = format!("{sign}{}\n", group.as_raw_nonzero());
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
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut groups = HashSet::new();
        for line in stdin().lock().lines() {
            let Ok(line) = line else { break };
            let (sign, number) = line.split_at_checked(1).context("a line without a sign")?;
            let group = number.parse().ok().and_then(Pid::from_raw).context("a line without a process group")?;
            if sign == "+" {
                groups.insert(group)
            } else {
                groups.remove(&group)
            };
        }
        for group in groups {
            // It may be gone already.
            kill_process_group(group, Signal::KILL).ok();
        }
        Ok(ExitCode::SUCCESS)
    }
}

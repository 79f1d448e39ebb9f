//! Kills the programs if `brigade work` itself is killed: other consumers then get their jobs, and
//! no job may run twice at once.
//!
//! The guard is this program again, in a process group of its own, which only SIGKILL ends. The
//! command reports each process group that begins and ends to it, over a pipe. When the pipe ends,
//! for whatever reason, the guard kills the groups that are left (`guard::groups`). The command
//! takes a group off the list before it reaps the leader, so that a number that is used again is
//! never hit.
//!
//! The command reports the mark of a program before it starts, and its group afterwards. If the
//! command is killed in between, the guard finds the program by its mark: a child holds the pipe
//! until it executes its program, so the pipe ends later.
//!
//! Lines: `?MARK` starts, `+MARK GROUP` has started, `+MARK` could not start; `-GROUP` has ended.

mod groups;

use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::groups::Groups;
use super::stop::Listener;
use crate::connection::URL_VARIABLE;
use crate::show::note;

/// How long the guard may take to start.
const START_MAX: Duration = Duration::from_secs(30);
/// Its first line.
const READY: &str = "ready";

/// The side of `brigade work`.
pub(super) struct Guard {
    process: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Returns when the guard is ready.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let cannot = "cannot start the process that ends the programs with this one";
        let mut process = Command::new("/proc/self/exe")
            .args(["work-guard", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_remove(URL_VARIABLE)
            .process_group(0)
            .spawn()
            .context(cannot)?;
        let mut lines = BufReader::new(process.stdout.take().context(cannot)?).lines();
        match timeout(START_MAX, lines.next_line()).await {
            Ok(Ok(Some(line))) if line == READY => {}
            Ok(line) => bail!("{cannot}: it ended at once ({line:?})"),
            Err(_) => bail!("{cannot}: it was not ready within {START_MAX:?}"),
        }
        let pipe = Mutex::new(process.stdin.take());
        Ok(Self { process, pipe })
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.process
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    /// A program with this mark is about to start.
    pub(super) async fn expect(&self, mark: &str) {
        self.report(&format!("?{mark}\n")).await;
    }

    /// It has started, as this group, or could not.
    pub(super) async fn add(&self, mark: &str, group: Option<Pid>) {
        let group = group.map_or_else(String::new, |group| format!(" {}", group.as_raw_nonzero()));
        self.report(&format!("+{mark}{group}\n")).await;
    }

    /// A program has ended and is about to be reaped.
    pub(super) async fn remove(&self, group: Pid) {
        self.report(&format!("-{}\n", group.as_raw_nonzero())).await;
    }

    async fn report(&self, line: &str) {
        let mut pipe = self.pipe.lock().await;
        // The guard was killed: the programs go on without one.
        if let Some(open) = &mut *pipe
            && open.write_all(line.as_bytes()).await.is_err()
        {
            note!("the guard is gone: programs would outlive a kill of this process");
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
pub(crate) struct WorkGuard {
    /// The process that starts the programs
    #[arg(value_name = "PID", value_parser = pid)]
    worker: Pid,
}

fn pid(text: &str) -> Result<Pid, String> {
    text.parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| "not the number of a process".to_owned())
}

impl WorkGuard {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        // A stop of a whole unit or session signals the guard too, while programs may still run.
        let _deaf = Listener::new()?;
        writeln!(stdout(), "{READY}")?;
        let mut groups = Groups::new(self.worker);
        for line in stdin().lock().lines() {
            // A garbled line is no reason to let programs run on.
            if line.ok().and_then(|line| groups.hear(&line)).is_none() {
                break;
            }
        }
        groups.kill();
        Ok(ExitCode::SUCCESS)
    }
}

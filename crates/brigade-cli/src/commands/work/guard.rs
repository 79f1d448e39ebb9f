//! Ends the programs if `brigade work` itself is killed: their jobs are handed out again then, and
//! no job may run twice at once.
//!
//! The guard is this program again, in a process group of its own, which no signal but SIGKILL
//! ends. It is told of each process group that begins and ends, over a pipe, and kills those that
//! are left when the pipe ends, whatever the reason (`guard::groups`). A group is taken off its
//! list before its leader is reaped, so that a number that is used again is never hit.
//!
//! The mark of a program is told before it starts, its group afterwards. One that had started when
//! the worker was killed in between is found by its mark: the pipe, which a child holds until it
//! executes its program, ends later than that.
//!
//! Lines: `?MARK` starts, `+MARK GROUP` has, `+MARK` could not; `-GROUP` has ended.

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

/// The side of the worker.
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
        // Whoever stops a whole unit or session signals the guard too, while programs may still
        // run.
        let _deaf = Listener::new()?;
        writeln!(stdout(), "{READY}")?;
        let mut groups = Groups::new(self.worker);
        for line in stdin().lock().lines() {
            // A line that is none is no reason to let programs run on.
            if line.ok().and_then(|line| groups.hear(&line)).is_none() {
                break;
            }
        }
        groups.kill();
        Ok(ExitCode::SUCCESS)
    }
}

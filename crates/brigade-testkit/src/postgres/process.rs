//! The process of one PostgreSQL server, and its guardian.
//!
//! The server is the child of a small shell, its guardian, and ends with it (parent-death signal).
//! The guardian carries out orders that arrive on its standard input, and at their end, which is
//! the end of the test's process, whichever way that ends, it ends the server and removes what it
//! left: its directory, and the shared memory by which a server knows that an earlier one runs. The
//! guardian of the shared server waits instead until no process has its lock on the file `users`
//! any more: the kernel takes locks back, so the count of users ends at zero in any case.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::template::Programs;
use crate::facts;

/// Far beyond what a start or an end takes.
const BOUND: Duration = Duration::from_secs(60);

/// Arguments: directory, program, `own` or `shared`. Says the number of each process that it
/// starts.
const GUARDIAN: &str = r#"
cd "$1" || exit 1
program=$2
start() {
  setpriv --pdeathsig QUIT "$program" -D data </dev/null >>log 2>&1 &
  server=$!
  echo $server
}
start
if [ "$3" = own ]; then
  while read -r order; do
    case $order in
    start) start ;;
    reap) wait $server; echo ended ;;
    esac
  done
else
  # A while longer: the next test comes soon. A process that comes holds ../lock while it looks at ../current, and then has its lock on users.
  while flock -x users true; sleep 3
    ! flock -x ../lock flock -n -x users sh -c 'if [ "$(head -n 1 ../current)" = "$0" ]; then rm ../current; fi' "$1"
  do :; done
fi
kill -CONT $server
kill -QUIT $server
wait
# Of a server that was killed, the seventh line of this file names its shared memory.
segment=$(sed -n '7s/.* //p' data/postmaster.pid)
[ -z "$segment" ] || ipcrm -m "$segment"
rm -rf "$1"
"#;

/// Who ends a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The test that started it.
    Own,
    /// The end of its last user.
    Shared,
}

#[derive(Debug)]
pub(super) struct ServerProcess {
    guardian: Child,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
    pid: u32,
    kind: Kind,
}

impl ServerProcess {
    /// Starts the server on `data` in this directory; returns when it answers. A shared one
    /// outlives this process.
    pub(super) fn start(programs: &Programs, directory: &Path, kind: Kind) -> io::Result<Self> {
        let mut guardian = programs
            .command("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .args([directory, &programs.program("postgres")])
            .arg(match kind {
                Kind::Own => "own",
                Kind::Shared => "shared",
            })
            // What ends the test's process group must not end the guardian.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let answers = guardian.stdout.take();
        let answers = answers.ok_or_else(|| io::Error::other("the guardian has no output"))?;
        let mut this = Self {
            guardian,
            answers: BufReader::new(answers),
            directory: directory.to_owned(),
            pid: 0,
            kind,
        };
        this.wait_until_it_answers()?;
        Ok(this)
    }

    /// It and all of its processes, none of which can start another meanwhile.
    fn stopped_processes(&self) -> Vec<u32> {
        facts::signal(self.pid, Signal::STOP);
        facts::wait_until(BOUND, || facts::is_stopped(self.pid));
        let children = facts::children(self.pid);
        let children = children.into_iter().filter(|child| !child.is_zombie());
        [self.pid]
            .into_iter()
            .chain(children.map(|child| child.pid))
            .collect()
    }

    pub(super) fn stop(&self) {
        let all = self.stopped_processes();
        for pid in &all {
            facts::signal(*pid, Signal::STOP);
        }
        facts::wait_until(BOUND, || all.iter().all(|pid| facts::is_stopped(*pid)));
    }

    pub(super) fn cont(&self) {
        for child in facts::children(self.pid) {
            facts::signal(child.pid, Signal::CONT);
        }
        facts::signal(self.pid, Signal::CONT);
    }

    pub(super) fn kill(&mut self) -> io::Result<()> {
        let all = self.stopped_processes();
        for pid in &all {
            facts::signal(*pid, Signal::KILL);
        }
        facts::wait_until(BOUND, || all.iter().all(|pid| !facts::is_alive(*pid)))
            .ok_or_else(|| io::Error::other("processes of the server outlive SIGKILL"))?;
        self.reap()
    }

    /// Sends it this signal and waits until it has ended.
    pub(super) fn end(&mut self, signal: Signal) -> io::Result<()> {
        facts::signal(self.pid, signal);
        self.reap()
    }

    fn reap(&mut self) -> io::Result<()> {
        self.order("reap")?;
        self.answer().map(drop)
    }

    pub(super) fn start_again(&mut self) -> io::Result<()> {
        self.order("start")?;
        self.wait_until_it_answers()
    }

    fn order(&mut self, order: &str) -> io::Result<()> {
        let input = self.guardian.stdin.as_mut();
        let input = input.ok_or_else(|| io::Error::other("the guardian has no input"))?;
        input.write_all(format!("{order}\n").as_bytes())
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Its number comes first; then the server says in a file of its own how far it is.
    fn wait_until_it_answers(&mut self) -> io::Result<()> {
        self.pid = self.answer()?.parse().map_err(io::Error::other)?;
        let file = self.directory.join("data/postmaster.pid");
        let pid = self.pid.to_string();
        let is_ready = || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines();
            lines.next() == Some(pid.as_str())
                && lines
                    .nth(6)
                    .is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
        };
        let mut ended = false;
        facts::wait_until(BOUND, || {
            ended = !facts::is_alive(self.pid);
            ended || is_ready()
        });
        if !ended && is_ready() {
            return Ok(());
        }
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        Err(io::Error::other(format!(
            "the PostgreSQL server does not answer: {log}"
        )))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.kind == Kind::Shared {
            return;
        }
        // Stopped processes would have to be killed after a while.
        self.cont();
        drop(self.guardian.stdin.take());
        // It ends the server first. That it is gone is all that matters.
        self.guardian.wait().ok();
    }
}

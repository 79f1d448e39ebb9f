//! A job file and the binary that works on it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Desk {
    directory: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        // Programs find the files of their test as $DESK.
        command
            .args(arguments)
            .env("DESK", self.directory.path())
            .env_remove("RUST_BACKTRACE");
        command.env(
            "BRIGADE_URL",
            format!("sqlite:{}", self.path("jobs.db").display()),
        );
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end without reading all of it.
        stdin.write_all(input).ok();
        drop(stdin);
        Ran::new(&child.wait_with_output().unwrap())
    }

    /// Runs a command that has to go well; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    pub(crate) fn job(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["job", id, "--json"])).unwrap()
    }

    /// Pushes a payload; the id of its job.
    pub(crate) fn push(&self, arguments: &[&str]) -> String {
        self.ok(&[&["push"], arguments].concat()).trim().to_owned()
    }

    /// Starts `brigade work`, which is killed in the end, if it has not ended.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Self::start_command(self.command(arguments))
    }

    pub(crate) fn start_command(mut command: Command) -> Running {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stderr }
    }

    /// Waits until a program has written this file; what it wrote.
    pub(crate) fn wait_for_file(&self, name: &str) -> String {
        let mut text = String::new();
        wait_until(name, || {
            text = fs::read_to_string(self.path(name)).unwrap_or_default();
            text.ends_with('\n')
        });
        text.trim().to_owned()
    }

    /// Whether a process has this desk in its environment.
    pub(crate) fn is_in_use(&self) -> bool {
        let variable = format!("DESK={}", self.directory.path().display());
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|of| of == variable.as_bytes())
        })
    }

    /// Waits until the leader of a process group has written its number here.
    pub(crate) fn wait_for_group(&self, name: &str) -> Pid {
        Pid::from_raw(self.wait_for_file(name).parse().unwrap()).unwrap()
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Its output as one document per line.
    pub(crate) fn documents(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

pub(crate) struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The process that ends its programs if it is killed.
    pub(crate) fn guard(&self) -> Pid {
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id())).unwrap();
        let is_guard = |pid: &&str| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(10).any(|at| at == b"work-guard"))
        };
        Pid::from_raw(
            children
                .split_whitespace()
                .find(is_guard)
                .unwrap()
                .parse()
                .unwrap(),
        )
        .unwrap()
    }

    /// Waits for a line of its standard error.
    pub(crate) fn wait_for_line(&mut self, with: &str) {
        let mut line = String::new();
        while !line.contains(with) {
            line.clear();
            assert_ne!(
                self.stderr.read_line(&mut line).unwrap(),
                0,
                "it ended without {with:?}"
            );
        }
    }

    pub(crate) fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended. Its guard ends its programs.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// For facts without an event.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For a count that grows step by step: the wait ends without success only when no step comes.
pub(crate) fn wait_until_more_than(least: usize, what: &str, mut count: impl FnMut() -> usize) {
    let mut last = count();
    while last <= least {
        let before = last;
        wait_until(what, || {
            last = count();
            last > before
        });
    }
}

pub(crate) fn wait_until_gone(group: Pid) {
    wait_until("the end of a process group", || !is_alive(group));
}

/// Whether a process of the group runs. One that has ended and waits for the process that reaps
/// orphans here does not.
pub(crate) fn is_alive(group: Pid) -> bool {
    let group = group.as_raw_nonzero().to_string();
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        // `pid (name) state ppid pgrp ..`, see proc_pid_stat(5).
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut fields = stat
            .rsplit_once(") ")
            .map_or("", |(_, rest)| rest)
            .split(' ');
        let state = fields.next();
        state != Some("Z") && fields.nth(1) == Some(&group)
    })
}

pub(crate) fn exists(path: &Path) -> bool {
    fs::exists(path).unwrap()
}

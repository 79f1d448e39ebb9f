//! This test binary, started again as a program of its own.
//!
//! What counts processes, descriptors or memory needs a process to itself, because under `cargo
//! test` all tests of a file share one; what kills the parent needs a parent that may die. This
//! program is this binary with [`ROLE_VARIABLE`] set; a constructor in the test file looks for it
//! before the harness begins.
//!
//! All its descendants inherit a mark, by which whatever outlives it is found.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::facts;

/// Names what the program should do.
pub const ROLE_VARIABLE: &str = "BRIGADE_FAULT_ROLE";
/// A directory of its own for the program and those who watch it.
pub const DIRECTORY_VARIABLE: &str = "BRIGADE_FAULT_DIRECTORY";
/// The arguments of the program, one per line.
pub const ARGUMENTS_VARIABLE: &str = "BRIGADE_FAULT_ARGUMENTS";
/// What a pool marks its workers with; it adds to what it finds, so a mark of ours is inherited by
/// all of them.
const MARK_VARIABLE: &str = "BRIGADE_TREE";

/// The arguments that [`Program::start_with`] gave to this program.
pub fn arguments() -> Vec<String> {
    let all = std::env::var(ARGUMENTS_VARIABLE).unwrap_or_default();
    all.lines().map(str::to_owned).collect()
}

/// A running program. Dropping it kills it and all its descendants.
#[derive(Debug)]
pub struct Program {
    child: Child,
    mark: String,
    directory: tempfile::TempDir,
}

impl Program {
    /// Starts this binary in a role.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the kit that starts programs"
    )]
    pub fn start(role: &str) -> io::Result<Self> {
        Self::start_by(Command::new(std::env::current_exe()?), role)
    }

    /// Starts this binary in a role, with arguments for it: see [`arguments`].
    ///
    /// # Errors
    ///
    /// What the operating system says.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the kit that starts programs"
    )]
    pub fn start_with(role: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ARGUMENTS_VARIABLE, arguments.join("\n"));
        Self::start_by(command, role)
    }

    /// Starts this binary in a role where it may mount: in a mount namespace of its own, which ends
    /// with it, and, without root, in a user namespace too.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the kit that starts programs"
    )]
    pub fn start_with_mounts(role: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new("unshare");
        let flags: &[&str] = if rustix::process::geteuid().is_root() {
            &["--mount"]
        } else {
            &["--mount", "--map-root-user"]
        };
        command
            .args(flags)
            .arg("--")
            .arg(std::env::current_exe()?)
            .env(ARGUMENTS_VARIABLE, arguments.join("\n"));
        Self::start_by(command, role)
    }

    /// Starts a command that ends up in this binary, or in a copy of it.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn start_by(mut command: Command, role: &str) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let directory = tempfile::Builder::new()
            .prefix("brigade-fault-")
            .tempdir()?;
        // Behind the mark of the program that starts it, if that is one of these: who ends that one
        // ends this one too.
        let outer = std::env::var(MARK_VARIABLE).unwrap_or_default();
        let mark = format!(
            "mark-{}-{}-{role}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let log = File::create(directory.path().join("log"))?;
        let child = command
            .env(ROLE_VARIABLE, role)
            .env(DIRECTORY_VARIABLE, directory.path())
            .env(MARK_VARIABLE, format!("{outer}/{mark}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self {
            child,
            mark,
            directory,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it and its workers wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("log")).unwrap_or_default()).into_owned()
    }

    /// Waits, bounded, until it has written a line that begins so; returns the rest of the line.
    pub fn line(&self, beginning: &str, bound: Duration) -> Option<String> {
        let find = || {
            let log = self.log();
            // The last line may not be whole yet.
            let whole = &log[..log.rfind('\n')?];
            whole
                .lines()
                .find_map(|line| line.strip_prefix(beginning).map(str::to_owned))
        };
        facts::wait_until(bound, || find().is_some())?;
        find()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> bool {
        facts::signal(self.child.id(), signal)
    }

    /// Waits, bounded, until it has ended.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let mut status = None;
        facts::wait_until(bound, || {
            status = self.child.try_wait().unwrap_or(None);
            status.is_some()
        });
        status
    }

    /// Its living descendants, wherever they went.
    pub fn descendants(&self) -> Vec<u32> {
        let own = self.child.id();
        facts::marked(MARK_VARIABLE, &self.mark)
            .into_iter()
            .filter(|pid| *pid != own)
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        facts::wait_until(Duration::from_secs(2), || {
            let left = self.descendants();
            let hit = left
                .iter()
                .filter(|pid| facts::signal(**pid, Signal::KILL))
                .count();
            hit == 0
        });
    }
}

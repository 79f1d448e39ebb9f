//! One running program: the leader of a process group of its own.
//!
//! The leader is reaped last. Until then no other process can get its number, which is also the
//! group's, so a signal to the group hits only this group.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use brigade::{Confinement, Exit, PreparedSandbox};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, setpgid};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::stop::Signals;
use crate::connection::URL_VARIABLE;

/// Marks a process and all its descendants: a path of marks, each of which begins with the number
/// of the process that made it. If this process is killed, other consumers get its jobs only when
/// no process with its mark runs any more.
pub(super) const TREE_VARIABLE: &str = "BRIGADE_TREE";

/// The mark of one program; the last of its path. It is random, so that no other process can have
/// it.
pub(super) fn new_mark() -> io::Result<String> {
    let mut random = [0; 16];
    // So few bytes come whole.
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!(
        "{}-work-{:032x}",
        std::process::id(),
        u128::from_ne_bytes(random)
    ))
}

fn path_to(mark: &str) -> String {
    std::env::var(TREE_VARIABLE).map_or(mark.to_owned(), |outer| format!("{outer}/{mark}"))
}

pub(super) struct Program {
    child: Child,
    group: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

/// The ends of a program's pipes.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// What a program may do and use.
pub(super) struct Containment {
    pub(super) confinement: Confinement,
    /// All of them hold.
    pub(super) sandboxes: Vec<Arc<PreparedSandbox>>,
}

/// Why a program could not be started.
pub(super) enum Refusal {
    /// Its arguments are too long: no consumer can start it for this job.
    Job(io::Error),
    /// The system has no room now.
    Later(io::Error),
    /// The program does not exist, or may not be executed.
    Ever(io::Error),
}

impl Refusal {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            // NUL in the name of its queue or in its id.
            io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => Self::Job(error),
            io::ErrorKind::WouldBlock
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::ExecutableFileBusy => Self::Later(error),
            _ => match error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error)
            {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Self::Later(error),
                _ => Self::Ever(error),
            },
        }
    }
}

impl Program {
    pub(super) fn start<'a>(
        program: &std::ffi::OsStr,
        arguments: &[OsString],
        environment: impl IntoIterator<Item = (&'a str, String)>,
        mark: &str,
        containment: Containment,
    ) -> Result<(Self, Pipes), Refusal> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_remove(URL_VARIABLE)
            .envs(environment)
            .env(TREE_VARIABLE, path_to(mark));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        lead_a_group(&mut command, containment.confinement);
        for sandbox in containment.sandboxes {
            confine(&mut command, sandbox);
        }
        let mut child = command.spawn().map_err(Refusal::of)?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pidfd = group
            .ok_or_else(|| io::Error::other("a child without a number"))
            .and_then(watch);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        match (group, pidfd, pipes) {
            (Some(group), Ok(pidfd), (Some(stdin), Some(stdout), Some(stderr))) => Ok((
                Self {
                    child,
                    group,
                    pidfd,
                },
                Pipes {
                    stdin,
                    stdout,
                    stderr,
                },
            )),
            (_, pidfd, _) => {
                // tokio reaps what is dropped. It has hardly begun, and its job is given back.
                child.start_kill().ok();
                Err(Refusal::Later(pidfd.err().unwrap_or_else(|| {
                    io::Error::other("a child without pipes")
                })))
            }
        }
    }

    pub(super) fn group(&self) -> Pid {
        self.group
    }

    /// Waits until the leader has ended. It is not reaped. Cancel safe.
    pub(super) async fn ended(&self) {
        if self.pidfd.ready(Interest::READABLE).await.is_err() {
            // The runtime ends, and with it the task that waits here.
            std::future::pending().await
        }
    }

    /// The signals that the leader handles, or handled until its end.
    pub(super) fn handled_signals(&self) -> Signals {
        Signals::handled_by(self.group)
    }

    /// Sends a signal to whatever is left of the group.
    pub(super) fn signal(&self, signal: Signal) {
        // No process is left.
        kill_process_group(self.group, signal).ok();
    }

    pub(super) async fn reap(mut self) -> io::Result<Exit> {
        self.child.wait().await.map(exit_of)
    }
}

/// Has the program lead a process group of its own from its first instruction on, and sets its
/// limits.
///
/// A signal to our own group in the moment between fork and setpgid is not the program's: the child
/// still has our handlers then, which do nothing in it. `process_group` would make it a
/// `posix_spawn`, which resets the handlers first, and the signal would kill the program.
#[expect(
    unsafe_code,
    reason = "there is no other way to run code between fork and exec"
)]
fn lead_a_group(command: &mut Command, confinement: Confinement) {
    // SAFETY: both are bare system calls: they take no lock and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            setpgid(None, None)?;
            confinement.apply()
        })
    };
}

/// Has the program begin in a sandbox. The group comes first: a sandbox lets nothing leave it.
#[expect(
    unsafe_code,
    reason = "there is no other way to run code between fork and exec"
)]
fn confine(command: &mut Command, sandbox: Arc<PreparedSandbox>) {
    // SAFETY: it makes a few system calls; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(move || sandbox.apply()) };
}

/// A descriptor that becomes readable when the process ends.
#[expect(
    unsafe_code,
    reason = "the registration trusts a descriptor to stay the same"
)]
fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives, and the `AsyncFd` owns
    // it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}

//! Starting a child, on the one thread that may.
//!
//! The parent-death signal of a child is bound to the thread that started it, so children are
//! started by one thread that never ends. It takes one order after the other; a caller that waits
//! no more loses only the child, which notices that its control socket is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::posix_spawn::{Standard, posix_spawn};
use super::watch::Watch;
use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;

/// A child that has just been started. Dropping it without reaping leaves a zombie.
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) watch: Watch,
    pub(crate) control: UnixStream,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

type SpawnOrder = (Command, oneshot::Sender<io::Result<Spawned>>);

/// Spawns that may wait for the thread before their pools wait in turn.
const ORDERS_MAX: usize = 64;

/// Starts a child.
///
/// # Errors
///
/// `CannotStart` with the system's reason.
pub(crate) async fn spawn(command: Command) -> Result<Spawned, Error> {
    let (program, directory) = (command.program.clone(), command.directory.clone());
    let (reply, spawned) = oneshot::channel();
    let sent = spawner()?
        .send((command, reply))
        .await
        .map_err(io::Error::other);
    let spawned = match sent {
        Ok(()) => spawned
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the spawning thread is gone"))),
        Err(full) => Err(full),
    };
    spawned.map_err(|e| {
        Error::new(
            ErrorKind::CannotStart,
            failure(&program, directory.as_deref(), &e),
        )
        .with_source(e)
    })
}

/// What keeps a program from being started, of which the system gives but a number.
fn failure(program: &Path, directory: Option<&Path>, error: &io::Error) -> String {
    let may_enter = |directory: &Path| accessat(CWD, directory, Access::EXEC_OK, AtFlags::EACCESS);
    if let Some(directory) = directory
        && let Some(e) = may_enter(directory)
            .err()
            .or_else(|| (!directory.is_dir()).then_some(rustix::io::Errno::NOTDIR))
    {
        return format!(
            "enter the working directory {} (Builder::directory): {}",
            directory.display(),
            io::Error::from(e)
        );
    }
    let is_own = program.starts_with("/proc/self");
    match error.kind() {
        io::ErrorKind::NotFound if is_own && !Path::new("/proc/self").exists() => {
            "start this program again by /proc/self/exe: /proc is not mounted; mount it, or name \
                the program with Builder::program"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied if is_own => {
            let file = std::fs::read_link(program).unwrap_or_default();
            format!(
                "start this program again ({}): {error}; the user that this process runs as \
                may not execute it",
                file.display()
            )
        }
        _ => format!("start {}: {error}", program.display()),
    }
}

fn spawner() -> Result<&'static mpsc::Sender<SpawnOrder>, Error> {
    static SPAWNER: OnceLock<io::Result<mpsc::Sender<SpawnOrder>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, mut inbox) = mpsc::channel::<SpawnOrder>(ORDERS_MAX);
        spawn_thread("brigade-spawner", 256 << 10, move || serve(&mut inbox))?;
        Ok(orders)
    });
    spawner.as_ref().map_err(|e| {
        Error::new(
            ErrorKind::CannotStart,
            format!("start the spawning thread: {e}"),
        )
    })
}

/// Lives as long as the process: the sender is never dropped.
fn serve(inbox: &mut mpsc::Receiver<SpawnOrder>) {
    while let Some((command, reply)) = inbox.blocking_recv() {
        // If its start was given up, the child finds its control socket closed and ends; it
        // is reaped here.
        if let Err(Ok(orphan)) = reply.send(start(&command)) {
            drop(orphan.control);
            super::exit::kill_and_reap(orphan.pid, orphan.watch);
        }
    }
}

fn start(command: &Command) -> io::Result<Spawned> {
    let (control, stdin) = UnixStream::pair()?;
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = posix_spawn(
        command,
        &Standard {
            stdin: stdin.into(),
            stdout: child_stdout,
            stderr: child_stderr,
        },
    )?;
    match Watch::open(pid) {
        Ok(watch) => Ok(Spawned {
            pid,
            watch,
            control,
            stdout,
            stderr,
        }),
        Err(e) => {
            // Not where it is no child of ours any more.
            if matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)) {
                kill_process(pid, Signal::KILL)?;
                waitpid(Some(pid), WaitOptions::empty())?;
            }
            Err(e)
        }
    }
}

//! Starting a child, on the one thread that may.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use tokio::sync::{mpsc, oneshot};

use super::posix_spawn::{Standard, posix_spawn};
use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    /// The program's own name for itself: a Python interpreter finds its virtual environment by it.
    pub(crate) argv0: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
}

/// A child that has just been started. Whoever drops it without reaping leaves a zombie.
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: UnixStream,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

type Order = (Command, oneshot::Sender<io::Result<Spawned>>);

/// Spawns that may wait for the thread before their pools wait in turn.
const ORDERS_MAX: usize = 64;

/// Starts a child.
///
/// # Errors
///
/// `CannotStart` with the system's reason.
pub(crate) async fn spawn(command: Command) -> Result<Spawned, Error> {
    let program = command.program.clone();
    let (reply, spawned) = oneshot::channel();
    let sent = spawner()?.send((command, reply)).await.map_err(io::Error::other);
    let spawned = match sent {
        Ok(()) => spawned.await.unwrap_or_else(|_| Err(io::Error::other("the spawning thread is gone"))),
        Err(full) => Err(full),
    };
    spawned.map_err(|e| Error::new(ErrorKind::CannotStart, format!("start {}: {e}", program.display())).with_source(e))
}

fn spawner() -> Result<&'static mpsc::Sender<Order>, Error> {
    static SPAWNER: OnceLock<io::Result<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, mut inbox) = mpsc::channel::<Order>(ORDERS_MAX);
        spawn_thread("brigade-spawner", 256 << 10, move || serve(&mut inbox))?;
        Ok(orders)
    });
    spawner.as_ref().map_err(|e| Error::new(ErrorKind::CannotStart, format!("start the spawning thread: {e}")))
}

/// Lives as long as the process: the sender is never dropped.
fn serve(inbox: &mut mpsc::Receiver<Order>) {
    while let Some((command, reply)) = inbox.blocking_recv() {
        // If nobody waits for it any more, the child finds its control socket closed and ends; it is reaped here.
        if let Err(Ok(orphan)) = reply.send(start(&command)) {
            drop(orphan.control);
            super::exit::kill_and_reap(&orphan.pidfd);
        }
    }
}

fn start(command: &Command) -> io::Result<Spawned> {
    let (control, stdin) = UnixStream::pair()?;
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = posix_spawn(command, &Standard { stdin: stdin.into(), stdout: child_stdout, stderr: child_stderr })?;
    // It cannot have been reaped, so its number is still its own.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Spawned { pid, pidfd, control, stdout, stderr }),
        Err(e) => {
            kill_process(pid, Signal::KILL)?;
            waitpid(Some(pid), WaitOptions::empty())?;
            Err(e.into())
        }
    }
}

//! Starting a child, on the one thread that may.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) title: String,
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

#[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
fn start(command: &Command) -> io::Result<Spawned> {
    let (control, child_end) = UnixStream::pair()?;
    // No pre_exec hook, so that the standard library uses posix_spawn, whose cost does not grow with our memory.
    let mut child = std::process::Command::new(&command.program)
        .arg0(&command.title)
        .args(&command.args)
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(command.directory.as_deref().unwrap_or(std::path::Path::new(".")))
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(child_end)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_child(&child);
    // It cannot have been reaped, so its number is still its own.
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(e) => {
            child.kill()?;
            child.wait()?;
            return Err(e.into());
        }
    };
    match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => Ok(Spawned { pid, pidfd, control, stdout: stdout.into(), stderr: stderr.into() }),
        _ => Err(io::Error::other("the child has no pipes")),
    }
}

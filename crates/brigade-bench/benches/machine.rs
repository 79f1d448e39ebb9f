//! What the machine itself can do: the figures that those of the pool are divided by.
//!
//! Some need a second process, which is this program with an argument: [`enter_if_child`] comes
//! first in `main`.

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::tasks;

const PONG: &str = "--answer-pings";
const READY: &str = "--say-ready";

/// Plays the other process of a measurement, if this one was started for that; then it never
/// returns.
pub(crate) fn enter_if_child() {
    match std::env::args().nth(1).as_deref() {
        Some(PONG) => answer_pings().unwrap_or_default(),
        Some(READY) => io::stdout().write_all(b"ready\n").unwrap_or_default(),
        _ => return,
    }
    std::process::exit(0);
}

fn answer_pings() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut message = [0; 64];
    while socket.read_exact(&mut message).is_ok() {
        socket.write_all(&message)?;
    }
    Ok(())
}

/// Two processes that send a message of 64 bytes to and fro over a blocking socket pair: what a
/// wake of another process costs, twice.
pub(crate) struct PingPong {
    socket: UnixStream,
    child: Child,
}

impl PingPong {
    #[expect(
        clippy::disallowed_methods,
        reason = "measures what the library is compared with"
    )]
    pub(crate) fn start() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(PONG)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, child })
    }

    pub(crate) fn once(&mut self) -> io::Result<()> {
        let mut message = [1; 64];
        self.socket.write_all(&message)?;
        self.socket.read_exact(&mut message)
    }
}

impl Drop for PingPong {
    /// The child ends at the end of the stream.
    fn drop(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).ok();
        self.child.wait().ok();
    }
}

/// Starts a small program of the system and waits for its first output.
pub(crate) fn spawn_small() -> io::Result<Duration> {
    spawn("/bin/echo", "ready")
}

/// Starts this very program and waits for its first output.
pub(crate) fn spawn_self() -> io::Result<Duration> {
    spawn("/proc/self/exe", READY)
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures what the library is compared with"
)]
fn spawn(program: &str, argument: &str) -> io::Result<Duration> {
    let began = Instant::now();
    let mut child = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut word = [0; 6];
    child
        .stdout
        .take()
        .ok_or(io::ErrorKind::NotFound)?
        .read_exact(&mut word)?;
    let took = began.elapsed();
    assert_eq!(&word, b"ready\n");
    child.wait()?;
    Ok(took)
}

/// Copies of a buffer to one that was written before.
pub(crate) struct Memcpy {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Memcpy {
    pub(crate) fn new(length: usize) -> Self {
        Self {
            from: tasks::bytes(length, 1),
            to: vec![1; length],
        }
    }

    pub(crate) fn once(&mut self) {
        black_box(&mut self.to).copy_from_slice(black_box(&self.from));
    }
}

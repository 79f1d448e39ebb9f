//! The monitor of a pool: a private Unix socket that shows what the pool does, for `brigade top
//! --pool`.
//!
//! Each connection gets the state of the pool as a line of JSON ([`MonitorLine`]), at once and then
//! every second, until it closes or the pool does. It takes no commands.
//! Only processes of this user (and root) are let in: the file is theirs alone, and the kernel's
//! word for the user of each connection is checked as well.
//!
//! [`Monitor`] owns the socket and its file; the pool's scope owns the tasks. The number of
//! connections is bounded, and so is the time for one that does not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::builder::Builder;
use super::monitor_line::MonitorLine;
use super::shared::Shared;
use crate::codec::Codec;
use crate::error::Error;
use crate::link::SocketFile;

/// Connections at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 16;
/// Time between two lines.
const EVERY: Duration = Duration::from_secs(1);
/// How long a line may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before accepting again after the system had no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl Builder {
    /// Shows the pool at a Unix socket of this path, to processes of this user alone: `brigade top
    /// --pool PATH` draws it. A stale socket file is replaced, and the file goes with the pool; a
    /// file `PATH.lock` stays. Default: none.
    ///
    /// ```no_run
    /// # use brigade::Pool;
    /// # #[brigade::main]
    /// # async fn main() -> Result<(), brigade::Error> {
    /// let pool = Pool::builder().monitor("/run/user/1000/thumbnails").start().await?;
    /// # Ok(()) }
    /// ```
    pub fn monitor(self, path: impl Into<PathBuf>) -> Self {
        self.set(|config| config.monitor = Some(path.into()))
    }
}

/// A socket that is ready to be served.
pub(super) struct Monitor {
    listener: UnixListener,
    _file: SocketFile,
}

impl Monitor {
    pub(super) fn listen(path: &Path) -> Result<Self, Error> {
        let (listener, file) = SocketFile::listen(path)?;
        Ok(Self {
            listener,
            _file: file,
        })
    }

    /// Lets connections in until the pool closes.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                continue;
            };
            if !is_of_this_user(&stream) {
                continue;
            }
            let connection = show(Arc::clone(&shared), stream);
            shared.scope.spawn_until_closed(async move {
                connection.await;
                drop(permit);
            });
        }
    }
}

fn is_of_this_user(stream: &UnixStream) -> bool {
    let user = geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == user || peer.uid() == 0)
}

/// Writes a line every second, until the other side closes or does not read.
async fn show(shared: Arc<Shared>, mut stream: UnixStream) {
    let mut byte = [0];
    loop {
        let Ok(line) = line(&shared) else { return };
        let written = timeout(WRITE_TIMEOUT, stream.write_all(line.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        tokio::select! {
            // It has closed, or sends what it has no business to send.
            _ = stream.read(&mut byte) => return,
            () = sleep(EVERY) => {}
        }
    }
}

fn line(shared: &Shared) -> Result<String, Error> {
    let (stats, workers, calls) = shared.peek(|core| {
        let workers = core.workers(SystemTime::now());
        (core.stats(), workers, core.running_calls())
    });
    let json = Codec::json_text(&MonitorLine::new(stats, workers, calls))?;
    Ok(format!("{json}\n"))
}

//! Waking consumers when another process changed the file, without polling.
//!
//! Each commit appends to the write-ahead log, `jobs.db-wal`. The directory is watched, because the log comes and goes with the
//! connections. A wake-up says only that something may have changed.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, ErrorKind};
use crate::link::readable;
use crate::shutdown::Scope;

pub(super) struct Wake {
    changed: Arc<Notify>,
    watching: bool,
    /// Ends the watching task.
    _stop: DropGuard,
}

impl Wake {
    /// Tells `changed` of other processes' commits too. Must be called within the runtime.
    pub(super) fn watch(path: Option<&Path>, changed: Arc<Notify>) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let mut watching = true;
        if let Some(path) = path {
            let scope =
                Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "open a broker outside of an async runtime (tokio)"))?;
            match watch(path) {
                Ok(fd) => {
                    let (stop, changed) = (stop.clone(), Arc::clone(&changed));
                    scope.spawn(async move {
                        stop.run_until_cancelled(pass_on(&fd, &changed)).await;
                    });
                }
                // The limit of inotify instances is reached, or the filesystem has none.
                Err(error) => {
                    watching = false;
                    tracing::warn!(%error, "cannot watch the job file: consumers look once a second");
                }
            }
        }
        Ok(Self { changed, watching, _stop: stop.drop_guard() })
    }

    /// Whether commits of other processes wake consumers at once.
    pub(super) fn is_watching(&self) -> bool {
        self.watching
    }

    /// A future that ends at the next change after this call, polled by then or not.
    pub(super) fn next(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }
}

fn watch(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, directory, WatchFlags::MODIFY | WatchFlags::CREATE)?;
    readable(fd)
}

async fn pass_on(fd: &AsyncFd<OwnedFd>, changed: &Notify) {
    while let Ok(mut ready) = fd.readable().await {
        let mut buffer = [0; 4096];
        while rustix::io::read(fd.get_ref(), &mut buffer).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
        changed.notify_waiters();
    }
}

//! Waking consumers when another process changed the file, without polling.
//!
//! Each commit appends to the write-ahead log, `jobs.db-wal`. The directory is watched, because the
//! log comes and goes with the connections. A wake-up means only that something may have changed.
//!
//! Only waiting consumers read the kernel's events, so that a busy process is not woken by each
//! page that it writes itself. The one that reads events passes them on to the others that wait.

use std::ffi::OsString;
use std::future::{Future, pending};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::error::{Error, ErrorKind};
use brigade_runtime::ready::readable;

/// Commits; and that the file or its directory is not where it was, which the next look finds.
const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

pub(super) struct ChangeWatch {
    /// Commits of this process, and what a waiter learned of those of others.
    changed: Arc<Notify>,
    others: OtherProcesses,
}

/// Commits of other processes.
enum OtherProcesses {
    /// There can be none: the database is in memory.
    None,
    /// The kernel does not report them.
    Unseen,
    Watched(LogWatch),
}

struct LogWatch {
    fd: AsyncFd<OwnedFd>,
    /// The file's name, with which those of its log begin.
    name: OsString,
}

impl ChangeWatch {
    /// Wakes for each notification of `changed`, and for commits of other processes. Must be called
    /// within the runtime.
    pub(super) fn watch(path: Option<&Path>, changed: Arc<Notify>) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Self {
                changed,
                others: OtherProcesses::None,
            });
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "open a broker outside of an async runtime (tokio)",
            ));
        }
        let others = match LogWatch::open(path) {
            Ok(watch) => OtherProcesses::Watched(watch),
            // The limit of inotify instances is reached, or the filesystem has none.
            Err(error) => {
                tracing::warn!(%error, "cannot watch the job file: consumers look once a second");
                OtherProcesses::Unseen
            }
        };
        Ok(Self { changed, others })
    }

    /// Whether commits of other processes wake consumers at once.
    pub(super) fn is_watching(&self) -> bool {
        !matches!(self.others, OtherProcesses::Unseen)
    }

    /// A future that ends at the next change after this call, polled by then or not.
    pub(super) fn next(&self) -> impl Future<Output = ()> + '_ {
        // A look after this call sees what happened before.
        self.read();
        let changed = self.changed.notified();
        async move {
            tokio::select! {
                () = changed => {}
                () = self.by_others() => {}
            }
        }
    }

    async fn by_others(&self) {
        let OtherProcesses::Watched(watch) = &self.others else {
            return pending().await;
        };
        while let Ok(mut ready) = watch.fd.readable().await {
            if self.read() {
                return;
            }
            ready.clear_ready();
        }
        pending().await
    }

    /// Reads the kernel's events. Returns whether one was of the file; then all that wait are
    /// woken.
    fn read(&self) -> bool {
        let OtherProcesses::Watched(watch) = &self.others else {
            return false;
        };
        let changed = watch.read();
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }
}

impl LogWatch {
    fn open(path: &Path) -> std::io::Result<Self> {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, directory, EVENTS)?;
        Ok(Self {
            fd: readable(fd)?,
            name: path.file_name().unwrap_or_default().to_owned(),
        })
    }

    /// Reads all events; whether one was of our file.
    fn read(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
        let mut changed = false;
        while let Ok(event) = events.next() {
            // Events that were dropped, as there were too many, have no name.
            changed |= event
                .file_name()
                .is_none_or(|name| name.to_bytes().starts_with(self.name.as_bytes()));
        }
        changed
    }
}

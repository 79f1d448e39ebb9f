//! How the end of a child is noticed: by its pidfd, or, where a sandbox forbids `pidfd_open` (old
//! container runtimes answer EPERM to what they do not know), by a thread that waits for it without
//! reaping it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::shutdown::spawn_thread;

/// A descriptor that is readable once a child has ended.
pub(crate) enum Watch {
    Pidfd(OwnedFd),
    /// Its other end is closed by the thread that waits.
    Pipe(OwnedFd),
}

/// What a child is waited for by.
pub(super) enum Id<'a> {
    Pidfd(&'a OwnedFd),
    /// Its own until it is reaped.
    Number(Pid),
}

impl Id<'_> {
    pub(super) fn for_wait(&self) -> WaitId<'_> {
        match self {
            Self::Pidfd(pidfd) => WaitId::PidFd(pidfd.as_fd()),
            Self::Number(pid) => WaitId::Pid(*pid),
        }
    }
}

impl Watch {
    /// Watches a child that is not reaped yet.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self::Pidfd(pidfd)),
            Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Self::by_thread(pid),
            Err(Errno::SRCH) => Err(io::Error::other(
                "it was reaped by another part of this program before it could be watched (a wait \
                    for any child, or SIGCHLD ignored)",
            )),
            Err(e) => Err(e.into()),
        }
    }

    fn by_thread(pid: Pid) -> io::Result<Self> {
        let (watch, end) = pipe_with(PipeFlags::CLOEXEC)?;
        spawn_thread("brigade-waiter", 64 << 10, move || {
            // Until it has ended, or is no child of ours any more.
            while let Err(Errno::INTR) = waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            ) {}
            drop(end);
        })?;
        Ok(Self::Pipe(watch))
    }

    /// The descriptor, and whether it is a pidfd.
    pub(super) fn into_parts(self) -> (OwnedFd, bool) {
        match self {
            Self::Pidfd(pidfd) => (pidfd, true),
            Self::Pipe(watch) => (watch, false),
        }
    }
}

//! The end of a child: signalling, waiting, reaping.

#![expect(unsafe_code, reason = "waitid(2) with rusage, which no safe wrapper offers")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::certificate::Exit;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

/// How a process ended and what it cost, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) exit: Exit,
    pub(crate) cpu_user: Duration,
    pub(crate) cpu_system: Duration,
    pub(crate) memory_peak: u64,
}

/// A child that is signalled only while its number is its own.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Marks its descendants.
    pub(crate) cookie: String,
    pidfd: AsyncFd<OwnedFd>,
    reaped: Mutex<bool>,
    /// Cancelled once it has been reaped and its tree is gone.
    pub(crate) gone: CancellationToken,
}

impl Process {
    /// Must be called within the runtime.
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd, cookie: String) -> io::Result<Self> {
        let pidfd = crate::link::readable(pidfd)?;
        Ok(Self { pid, cookie, pidfd, reaped: Mutex::new(false), gone: CancellationToken::new() })
    }

    /// Waits until it has ended; it is a zombie then. Cancel safe.
    pub(crate) async fn ended(&self) {
        // Readiness of a pidfd never goes back, so the guard is not cleared.
        if self.pidfd.readable().await.is_err() {
            // The runtime is shutting down and takes this task with it.
            std::future::pending::<()>().await;
        }
    }

    /// Signals its process group, and itself in case it moved to another group.
    pub(crate) fn signal(&self, signal: Signal) {
        let reaped = lock(&self.reaped);
        if !*reaped {
            // ESRCH: the group is empty or the process has ended, which is what was wanted.
            kill_process_group(self.pid, signal).ok();
            pidfd_send_signal(self.pidfd.get_ref(), signal).ok();
        }
    }

    /// Reaps it after it ended, having killed what is left of its group: the zombie still holds the number.
    pub(crate) fn reap(&self) -> Death {
        let mut reaped = lock(&self.reaped);
        assert!(!*reaped, "a process is reaped once");
        kill_process_group(self.pid, Signal::KILL).ok();
        *reaped = true;
        wait(self.pidfd.get_ref())
    }
}

impl Drop for Process {
    /// The task that owned it was dropped with its runtime, or it never became a worker: no zombie stays. Blocks for the
    /// instant that SIGKILL takes.
    fn drop(&mut self) {
        if !*lock(&self.reaped) {
            kill_process_group(self.pid, Signal::KILL).ok();
            kill_and_reap(self.pidfd.get_ref());
            self.gone.cancel();
        }
    }
}

/// How long a killed process may take to end before it is left to be a zombie: one that the kernel holds in an
/// uninterruptible sleep cannot be waited for.
const KILL_BOUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Ends a child that nobody wants and waits for it.
pub(super) fn kill_and_reap(pidfd: &OwnedFd) {
    pidfd_send_signal(pidfd, Signal::KILL).ok();
    let fd = PollFd::new(pidfd, PollFlags::IN);
    while let Err(Errno::INTR) = poll(&mut [fd.clone()], Some(&KILL_BOUND)) {}
    wait(pidfd);
}

/// Whether the kernel keeps ended children until they are waited for.
///
/// # Errors
///
/// `Unsupported` if this program ignores SIGCHLD: then children vanish unseen, and their numbers may be anybody's.
pub(crate) fn check_children_are_kept() -> Result<(), Error> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the disposition into a local, for which zero is valid.
    let action = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
        let text = "start a pool where SIGCHLD is ignored: how workers end could not be told; set it back to its default";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

fn wait(pidfd: &OwnedFd) -> Death {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the raw system call, whose fifth argument the C library hides: it fills the two structures, which live
    // here and are plain data for which zero is valid.
    let (result, info, usage) = unsafe {
        let result = libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG,
            usage.as_mut_ptr(),
        );
        (result, info.assume_init(), usage.assume_init())
    };
    // SAFETY: `waitid` fills these fields of every child's siginfo; they are zero where it failed.
    let (status, pid) = unsafe { (info.si_status(), info.si_pid()) };
    let exit = match info.si_code {
        // Somebody else reaped it (a program that ignores SIGCHLD, or waits for any child): how it ended is not known.
        _ if result != 0 || pid == 0 => Exit::Code(-1),
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    };
    Death {
        exit,
        cpu_user: duration(usage.ru_utime),
        cpu_system: duration(usage.ru_stime),
        memory_peak: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

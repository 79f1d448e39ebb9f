//! The end of a child: signalling, waiting, reaping.
//!
//! [`Process`] owns a child from its start on. It is signalled by number only while it is an
//! unreaped child of ours, so that a number which is used again is never hit; a program that reaps
//! every child (`waitpid(-1)`) is noticed. No wait lasts for ever: what SIGKILL does not end is
//! [given up](Process::give_up), and a thread of its own reaps it should it end later.

#![expect(
    unsafe_code,
    reason = "waitid(2) with rusage, which no safe wrapper offers"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitIdOptions, kill_process, kill_process_group, pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::proc_fs::{self, Stat};
use super::watch::{Id, Watch};
use crate::attempt_report::Exit;
use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;
use crate::sync::lock;

/// How a process ended and what it cost, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) exit: Exit,
    /// CPU time in user mode and in the kernel; `None` if that is not known.
    pub(crate) cpu: Option<Duration>,
    /// `None` if it is not known.
    pub(crate) memory_peak: Option<u64>,
}

/// What keeps a process from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// By a signal of job control: a terminal's (SIGTTIN, SIGTTOU, SIGTSTP) or a SIGSTOP.
    Stopped(Option<i32>),
    /// By a debugger or another tracer.
    Traced,
}

/// A child that is signalled only while its number is its own.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Marks its descendants.
    pub(crate) cookie: String,
    /// Its number in `/proc`, if that shows it.
    pub(crate) shown: Option<u32>,
    /// When it was started, in ticks since boot; zero if that is not known.
    pub(crate) started: u64,
    watch: AsyncFd<OwnedFd>,
    has_pidfd: bool,
    reaped: Mutex<bool>,
    /// What the kernel counts as its peak from the start: that of the process which spawned it
    /// (`ru_maxrss` survives `execve`).
    inherited_peak: u64,
    /// The largest peak that was read while it lived.
    seen_peak: AtomicU64,
    /// What it reported itself at its end.
    reported_peak: AtomicU64,
    /// Cancelled once it has been reaped and its tree is gone.
    pub(crate) gone: CancellationToken,
    given_up: CancellationToken,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped(Some(signal)) => write!(f, "{}", Exit::Signal(*signal)),
            Self::Stopped(None) => f.write_str("a signal"),
            Self::Traced => f.write_str("a debugger"),
        }
    }
}

/// How long a process may take to end after SIGKILL: all but those that the kernel holds in an
/// uninterruptible sleep are gone in milliseconds, and a core of many GiB is unmapped in this time.
pub(crate) const KILL_BOUND: Duration = Duration::from_secs(5);

/// We may not signal it: it runs as another user.
#[derive(Debug)]
pub(crate) struct Denied;

impl Process {
    /// Must be called within the runtime.
    pub(crate) fn new(pid: Pid, watch: Watch, cookie: String) -> io::Result<Self> {
        let (watch, has_pidfd) = watch.into_parts();
        super::orphans::note_group(pid.as_raw_nonzero().get());
        let shown = proc_fs::shown(
            pid.as_raw_nonzero().get().cast_unsigned(),
            has_pidfd.then_some(&watch),
        );
        Ok(Self {
            pid,
            cookie,
            shown,
            started: shown.and_then(Stat::of).map_or(0, |stat| stat.started),
            watch: crate::link::readable(watch)?,
            has_pidfd,
            reaped: Mutex::new(false),
            // Not less than when it was spawned, for a peak only grows.
            inherited_peak: proc_fs::own_peak_bytes().unwrap_or(u64::MAX),
            seen_peak: AtomicU64::new(0),
            reported_peak: AtomicU64::new(0),
            gone: CancellationToken::new(),
            given_up: CancellationToken::new(),
        })
    }

    /// Waits until it has ended, when it is a zombie, or was given up. Cancel safe.
    pub(crate) async fn ended(&self) {
        // Readiness never goes back, so the guard is not cleared.
        let ended = self
            .given_up
            .run_until_cancelled(self.watch.readable())
            .await;
        if ended.is_some_and(|ended| ended.is_err()) {
            // The runtime is shutting down and takes this task with it.
            std::future::pending::<()>().await;
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(
            &mut [PollFd::new(self.watch.get_ref(), PollFlags::IN)],
            Some(&now),
        )
        .is_ok_and(|ended| ended > 0)
    }

    /// Signals its process group, and itself in case it moved to another group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Denied> {
        let reaped = lock(&self.reaped);
        if *reaped || self.is_reaped_by_others() {
            return Ok(());
        }
        // ESRCH: the group is empty or the process has ended, which is what was wanted.
        kill_process_group(self.pid, signal).ok();
        match self.signal_itself(signal) {
            Err(Errno::PERM) => Err(Denied),
            _ => Ok(()),
        }
    }

    fn signal_itself(&self, signal: Signal) -> Result<(), Errno> {
        if self.has_pidfd {
            match pidfd_send_signal(self.watch.get_ref(), signal) {
                // A sandbox may forbid the call, not the signal.
                Err(Errno::PERM | Errno::NOSYS) => {}
                sent => return sent,
            }
        }
        kill_process(self.pid, signal)
    }

    /// Ends it at once. `false` if it has not ended in time, and was given up. `ask` is the last
    /// resort where we may not signal it.
    pub(crate) async fn kill(&self, ask: impl FnOnce()) -> bool {
        if self.signal(Signal::KILL).is_err() {
            ask();
        }
        let ended = timeout(KILL_BOUND, self.ended()).await.is_ok();
        if !ended {
            self.give_up();
        }
        ended && !self.given_up.is_cancelled()
    }

    /// Lets go of a process that cannot be ended: everything that waits for its end goes on.
    pub(crate) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Notes the most memory that it has had by now.
    pub(crate) fn look_at_peak(&self, shown: Option<u32>) {
        self.seen_peak
            .fetch_max(proc_fs::peak_bytes(shown), Ordering::Relaxed);
    }

    /// Notes its own report of its peak, from when it ended.
    pub(crate) fn note_reported_peak(&self, bytes: u64) {
        self.reported_peak.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Whether a signal or a tracer keeps it from running.
    pub(crate) fn held(&self) -> Option<Held> {
        match Stat::of(self.shown?)?.state {
            't' => Some(Held::Traced),
            'T' => {
                let _unreaped = lock(&self.reaped);
                let options =
                    WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                let status = waitid(self.id().for_wait(), options).ok().flatten();
                Some(Held::Stopped(
                    status.and_then(|status| status.stopping_signal()),
                ))
            }
            _ => None,
        }
    }

    /// Whether another part of this program waited for it.
    fn is_reaped_by_others(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(self.id().for_wait(), options), Err(Errno::CHILD))
    }

    fn id(&self) -> Id<'_> {
        if self.has_pidfd {
            Id::Pidfd(self.watch.get_ref())
        } else {
            Id::Number(self.pid)
        }
    }

    /// Reaps it after it ended, having killed what is left of its group: the zombie still holds the
    /// number.
    pub(crate) fn reap(&self) -> Death {
        let mut reaped = lock(&self.reaped);
        assert!(!*reaped, "a process is reaped once");
        if !self.is_reaped_by_others() {
            kill_process_group(self.pid, Signal::KILL).ok();
        }
        *reaped = true;
        let mut death = wait(&self.id());
        let peak = self.peak(death.memory_peak.unwrap_or(0));
        death.memory_peak = (peak > 0).then_some(peak);
        if death.exit == Exit::Alive {
            self.reap_later();
        }
        death
    }

    /// Its own peak: what it said, or else what the kernel counted if that is its own by being more
    /// than what it began with, or else the most that was seen.
    fn peak(&self, counted: u64) -> u64 {
        let (reported, seen) = (
            self.reported_peak.load(Ordering::Relaxed),
            self.seen_peak.load(Ordering::Relaxed),
        );
        match reported {
            0 if counted > self.inherited_peak => counted.max(seen),
            0 => seen,
            reported => reported.max(seen),
        }
    }

    fn reap_later(&self) {
        if let Ok(watch) = self.watch.get_ref().try_clone() {
            reap_when_it_ends(self.pid, watch, self.has_pidfd);
        }
    }
}

impl Drop for Process {
    /// The task that owned it was dropped with its runtime, or it never became a worker: no zombie
    /// stays. Blocks for the instant that SIGKILL takes.
    fn drop(&mut self) {
        if !*lock(&self.reaped) {
            if !self.is_reaped_by_others() {
                kill_process_group(self.pid, Signal::KILL).ok();
                self.signal_itself(Signal::KILL).ok();
                await_end(self.watch.get_ref());
                if wait(&self.id()).exit == Exit::Alive {
                    self.reap_later();
                }
            }
            self.gone.cancel();
        }
    }
}

/// How long a dropped process may block us.
const DROP_BOUND: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

fn await_end(watch: &OwnedFd) {
    let fd = PollFd::new(watch, PollFlags::IN);
    while let Err(Errno::INTR) = poll(&mut [fd.clone()], Some(&DROP_BOUND)) {}
}

/// Ends a child that is not wanted any more and waits for it.
pub(super) fn kill_and_reap(pid: Pid, watch: Watch) {
    let (watch, has_pidfd) = watch.into_parts();
    kill_process(pid, Signal::KILL).ok();
    await_end(&watch);
    let id = if has_pidfd {
        Id::Pidfd(&watch)
    } else {
        Id::Number(pid)
    };
    if wait(&id).exit == Exit::Alive {
        reap_when_it_ends(pid, watch, has_pidfd);
    }
}

/// Processes that could not be ended and are waited for at one time; more of them stay zombies
/// until this process ends.
const LATE_MAX: usize = 64;

/// Leaves a child that SIGKILL did not end to a thread that reaps it when it does.
fn reap_when_it_ends(pid: Pid, watch: OwnedFd, has_pidfd: bool) {
    static LATE: AtomicUsize = AtomicUsize::new(0);
    if LATE.fetch_add(1, Ordering::Relaxed) >= LATE_MAX {
        LATE.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let started = spawn_thread("brigade-reaper", 64 << 10, move || {
        let fd = PollFd::new(&watch, PollFlags::IN);
        while let Err(Errno::INTR) = poll(&mut [fd.clone()], None) {}
        wait(&if has_pidfd {
            Id::Pidfd(&watch)
        } else {
            Id::Number(pid)
        });
        LATE.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        LATE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the kernel keeps ended children until they are waited for.
///
/// # Errors
///
/// `Unsupported` if this program ignores SIGCHLD: then children vanish unseen, and their numbers
/// may belong to other processes.
pub(crate) fn check_children_are_kept() -> Result<(), Error> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the disposition into a local, for which zero is valid.
    let action = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
        let text = "start a pool where SIGCHLD is ignored: how workers end could not be known; set \
            it back to its default";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

/// Reaps a child of ours if it has ended.
fn wait(id: &Id<'_>) -> Death {
    let (kind, number) = match id {
        Id::Pidfd(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd()),
        Id::Number(pid) => (libc::P_PID, pid.as_raw_nonzero().get()),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the raw system call, whose fifth argument the C library hides: it fills the two
    // structures, which live here and are plain data for which zero is valid.
    let (result, info, usage) = unsafe {
        let result = libc::syscall(
            libc::SYS_waitid,
            kind,
            number,
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG,
            usage.as_mut_ptr(),
        );
        (result, info.assume_init(), usage.assume_init())
    };
    // SAFETY: `waitid` fills these fields of every child's siginfo; they are zero where it failed.
    let (status, ended) = unsafe { (info.si_status(), info.si_pid() != 0) };
    let exit = match info.si_code {
        // Another part of this program reaped it (a program that ignores SIGCHLD, or waits for any
        // child).
        _ if result != 0 => Exit::Unknown,
        _ if !ended => Exit::Alive,
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    };
    let is_counted = !matches!(exit, Exit::Unknown | Exit::Alive);
    Death {
        exit,
        cpu: is_counted.then(|| duration(usage.ru_utime) + duration(usage.ru_stime)),
        memory_peak: u64::try_from(usage.ru_maxrss)
            .ok()
            .filter(|_| is_counted)
            .map(|kib| kib.saturating_mul(1024)),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

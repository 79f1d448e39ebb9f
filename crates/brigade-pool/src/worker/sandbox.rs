//! A worker takes a sandbox on, with all of its threads.
//!
//! The filters of seccomp(2) reach all threads at once. Landlock restricts the thread that asks
//! (from Linux 7.0 on it can reach all, which is not used here yet), and a worker has other
//! threads: its monitor, its async runtime, those of the init hook. Therefore each of them is sent
//! a signal, one after the other, whose handler restricts its thread, until a look at
//! `/proc/self/task` finds no thread that was not restricted. What a restricted thread starts is
//! restricted too, so there is no way past that. No attempt runs meanwhile.
//!
//! A thread that blocks every signal cannot be restricted. Then the call is refused, nothing more
//! is begun here, and the worker is replaced: one unrestricted thread in the same memory would be a
//! way out for all.
//!
//! The threads get one landlock domain each. A signal within the process passes between them; one
//! to a child of another thread does not, see `monitor`.

#![expect(
    unsafe_code,
    reason = "sigaction and tgkill, which no safe wrapper offers"
)]

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::gettid;

use crate::confinement::{Confined, PreparedSandbox, restrict_thread};
use crate::error::{Error, ErrorKind};
use crate::sandbox::Sandbox;

/// How long one thread may take to heed the signal.
const THREAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a thread that has not answered is looked for: it may have ended.
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// What the handler restricts its thread by, and says that it has.
static RULESET: AtomicI32 = AtomicI32::new(-1);
static ANSWERS: AtomicI32 = AtomicI32::new(-1);

/// Applies a sandbox to this process, for the rest of its life.
///
/// # Errors
///
/// `Unsupported` if the host cannot keep it or a thread blocks all signals, `BadOption` if a path
/// cannot be opened. The process must run no attempt then.
pub(super) fn take_on(sandbox: &Sandbox) -> Result<(), Error> {
    let prepared = PreparedSandbox::new(sandbox, Confined::OwnProcess)?;
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Unsupported,
            format!("take on the sandbox {sandbox}: {what}: {e}"),
        )
    };
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("set no_new_privs", &e))?;
    restrict_other_threads(&prepared).map_err(|e| failed("restrict the worker's threads", &e))?;
    restrict_thread(prepared.ruleset()).map_err(|e| failed("landlock_restrict_self(2)", &e))?;
    prepared
        .filter_all_threads()
        .map_err(|e| failed("seccomp(2)", &e))
}

fn restrict_other_threads(prepared: &PreparedSandbox) -> io::Result<()> {
    let own = gettid().as_raw_nonzero().get();
    let mut seen = BTreeSet::from([own]);
    let others = |seen: &BTreeSet<i32>| -> io::Result<Vec<i32>> {
        Ok(threads()?
            .into_iter()
            .filter(|thread| !seen.contains(thread))
            .collect())
    };
    let mut left = others(&seen)?;
    if left.is_empty() {
        return Ok(());
    }
    let answers = eventfd(0, EventfdFlags::CLOEXEC)?;
    let handler = Handler::install(prepared, &answers)?;
    while !left.is_empty() {
        for thread in left {
            handler.restrict(thread, &answers)?;
            seen.insert(thread);
        }
        left = others(&seen)?;
    }
    Ok(())
}

/// The numbers of all threads of this process.
fn threads() -> io::Result<Vec<i32>> {
    let number = |entry: io::Result<fs::DirEntry>| {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        number.ok_or_else(|| io::Error::other("/proc/self/task has an entry that is no number"))
    };
    fs::read_dir("/proc/self/task")?.map(number).collect()
}

/// A real-time signal whose handler restricts the thread that gets it; back to what it was when
/// this is dropped.
struct Handler {
    signal: c_int,
    before: libc::sigaction,
}

impl Handler {
    fn install(prepared: &PreparedSandbox, answers: &OwnedFd) -> io::Result<Self> {
        RULESET.store(prepared.ruleset(), Ordering::Release);
        ANSWERS.store(answers.as_raw_fd(), Ordering::Release);
        let unused = (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .rev()
            .find_map(|signal| {
                let mut before = MaybeUninit::<libc::sigaction>::zeroed();
                // SAFETY: only reads the disposition into a local, for which zero is valid.
                let before = unsafe {
                    libc::sigaction(signal, ptr::null(), before.as_mut_ptr());
                    before.assume_init()
                };
                (before.sa_sigaction == libc::SIG_DFL).then_some(Self { signal, before })
            });
        let handler = unused.ok_or_else(|| {
            io::Error::other("the init hook has taken all real-time signals, one is needed")
        })?;
        // SAFETY: zero is a valid `sigaction`; the handler has the signature of one without flags
        // for more, and does only what is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_restrict as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(handler.signal, &raw const action, ptr::null_mut())
        };
        if result == 0 {
            Ok(handler)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Has one thread restrict itself, or end.
    fn restrict(&self, thread: i32, answers: &OwnedFd) -> io::Result<()> {
        // SAFETY: a system call with three numbers.
        let sent =
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, self.signal) };
        if sent != 0 {
            let error = io::Error::last_os_error();
            let has_ended = error.raw_os_error() == Some(libc::ESRCH);
            return if has_ended { Ok(()) } else { Err(error) };
        }
        let until = Instant::now() + THREAD_TIMEOUT;
        loop {
            let mut answer = [PollFd::from_borrowed_fd(answers.as_fd(), PollFlags::IN)];
            match poll(&mut answer, Some(&LOOK_AGAIN)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return read_answer(answers),
                Err(e) => return Err(e.into()),
            }
            let Ok(name) = fs::read_to_string(format!("/proc/self/task/{thread}/comm")) else {
                return Ok(());
            };
            if Instant::now() >= until {
                let text = format!(
                    "thread {:?} blocks all signals; start it without that, or after the worker \
                        has its sandbox",
                    name.trim()
                );
                return Err(io::Error::other(text));
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: restores what was read before.
        unsafe { libc::sigaction(self.signal, &raw const self.before, ptr::null_mut()) };
        RULESET.store(-1, Ordering::Release);
        ANSWERS.store(-1, Ordering::Release);
    }
}

/// What a thread said: 1, or 2 and the number of its error.
fn read_answer(answers: &OwnedFd) -> io::Result<()> {
    let mut count = [0; 8];
    rustix::io::read(answers, &mut count)?;
    match u64::from_ne_bytes(count) {
        1 => Ok(()),
        error => Err(io::Error::from_raw_os_error(
            i32::try_from(error - 1).unwrap_or(libc::EINVAL),
        )),
    }
}

/// Restricts the thread that it runs on.
extern "C" fn on_restrict(_signal: c_int) {
    // SAFETY: `errno` of this thread is always there; prctl with these arguments changes only this
    // thread; `write` reads what lives here. All are async-signal-safe.
    unsafe {
        let errno = *libc::__errno_location();
        let restricted = if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            restrict_thread(RULESET.load(Ordering::Acquire))
        } else {
            Err(io::Error::last_os_error())
        };
        let answer = match restricted {
            Ok(()) => 1,
            Err(error) => 1 + u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs()),
        };
        let answer = answer.to_ne_bytes();
        libc::write(
            ANSWERS.load(Ordering::Acquire),
            answer.as_ptr().cast(),
            answer.len(),
        );
        *libc::__errno_location() = errno;
    }
}

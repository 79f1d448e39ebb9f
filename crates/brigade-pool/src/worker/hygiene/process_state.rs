//! Parts of the process's state that both checks ask for.

#![expect(
    unsafe_code,
    reason = "asks the C library and the kernel for what no safe wrapper offers"
)]

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

/// The kernel's `struct sched_attr` (sched_setattr(2)).
pub(super) const SCHED_BYTES: usize = 56;
/// Signals with a number that a program may use; the C library keeps 32 and 33 for itself.
pub(super) const SIGNAL_MAX: c_int = 64;
const SIGNALS_OF_LIBC: [c_int; 2] = [32, 33];

pub(super) fn file(descriptor: BorrowedFd<'_>) -> Option<(u64, u64)> {
    rustix::fs::fstat(descriptor).ok().map(identity)
}

pub(super) fn identity(file: rustix::fs::Stat) -> (u64, u64) {
    (file.st_dev, file.st_ino)
}

/// Signals that are not at their default, with their handlers.
pub(super) fn handlers() -> Vec<(c_int, usize)> {
    let signals = (1..=SIGNAL_MAX).filter(|signal| !SIGNALS_OF_LIBC.contains(signal));
    signals
        .map(|signal| (signal, handler(signal)))
        .filter(|(_, handler)| *handler != libc::SIG_DFL)
        .collect()
}

pub(super) fn handler(signal: c_int) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the handler into a local, for which zero is valid.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

/// Policy, niceness, priority and the rest of this thread's scheduling.
pub(super) fn scheduling() -> [u8; SCHED_BYTES] {
    let mut attributes = [0; SCHED_BYTES];
    // SAFETY: writes at most the given size.
    unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            0,
            attributes.as_mut_ptr(),
            SCHED_BYTES,
            0,
        )
    };
    attributes
}

pub(super) fn timer_is_set(which: c_int) -> bool {
    let mut timer = MaybeUninit::<libc::itimerval>::zeroed();
    // SAFETY: writes a local, for which zero is valid.
    let timer = unsafe {
        libc::getitimer(which, timer.as_mut_ptr());
        timer.assume_init()
    };
    timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0
}

/// Goes through the environment. No attempt runs, so nothing changes it; a thread that a task left
/// behind might, as in any program that calls getenv(3).
pub(super) fn each_variable(mut look: impl FnMut(*const c_char)) {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: the array ends with a null pointer; see above.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            look(*entry);
            entry = entry.add(1);
        }
    }
}

//! The quick check, after every attempt: what costs a fraction of a microsecond to compare, or
//! would hurt the next task at once.
//!
//! What is found changed makes the worker ask to be replaced; nothing is repaired. `full` compares
//! the rest.

#![expect(
    unsafe_code,
    reason = "asks the C library and the kernel for what no safe wrapper offers"
)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

use libc::c_int;

use super::hash::{hash, mix};
use super::process_state::{SIGNAL_MAX, each_variable, file, handler, identity, timer_is_set};

/// Signals by which the pool, or its end, ends a worker.
const STOPS: [c_int; 2] = [libc::SIGTERM, libc::SIGHUP];
/// Bits of MXCSR that say what happened, and not what should.
#[cfg(target_arch = "x86_64")]
const MXCSR_EVENTS: u32 = 0x3f;

pub(super) struct Quick {
    before: QuickState,
    /// Handlers of the signals by which the pool ends a worker. Others are compared by `Full`.
    handlers: [usize; STOPS.len()],
}

#[derive(PartialEq)]
struct QuickState {
    directory: Option<(u64, u64)>,
    umask: u32,
    environment: u64,
    blocked: u64,
    locale: u64,
    output: [Option<(u64, u64)>; 2],
    alarm: bool,
    rounding: u64,
}

impl Quick {
    pub(super) fn new() -> Self {
        Self {
            handlers: STOPS.map(handler),
            before: QuickState::now(),
        }
    }

    pub(super) fn changed(&self) -> Option<&'static str> {
        let (before, now) = (&self.before, QuickState::now());
        let differences = [
            (before.alarm != now.alarm, "a timer"),
            (before.directory != now.directory, "the working directory"),
            (before.umask != now.umask, "the umask"),
            (before.environment != now.environment, "the environment"),
            (before.blocked != now.blocked, "the signal mask"),
            (before.locale != now.locale, "the locale"),
            (before.output[0] != now.output[0], "standard output"),
            (before.output[1] != now.output[1], "standard error"),
            (before.rounding != now.rounding, "the floating point mode"),
            (self.handlers != STOPS.map(handler), "a signal handler"),
        ];
        differences
            .into_iter()
            .find_map(|(differs, what)| differs.then_some(what))
    }
}

impl QuickState {
    fn now() -> Self {
        Self {
            directory: rustix::fs::stat(c".").ok().map(identity),
            umask: umask(),
            environment: environment(),
            blocked: blocked(),
            locale: locale(),
            output: [rustix::stdio::stdout(), rustix::stdio::stderr()].map(file),
            alarm: timer_is_set(libc::ITIMER_REAL),
            rounding: rounding(),
        }
    }
}

/// There is no way to read it but to set it; another thread that creates a file in between gets the
/// stricter one.
fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.bits()
}

/// Addresses of the variables: a variable that is set again is at another address. Texts changed in
/// place are compared by `Full`.
fn environment() -> u64 {
    let mut hash = 0;
    each_variable(|variable| hash = mix(hash, variable.addr() as u64));
    hash
}

/// The mask of this thread.
fn blocked() -> u64 {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: only reads the mask into a local, for which zero is valid, and asks it about valid
    // signals.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
        let set = set.assume_init();
        (1..SIGNAL_MAX).fold(0, |mask, signal| {
            mask | u64::from(libc::sigismember(&raw const set, signal) == 1) << signal
        })
    }
}

fn locale() -> u64 {
    // SAFETY: asks for the name, which stays valid until the next `setlocale` and is read at once.
    unsafe {
        let name = libc::setlocale(libc::LC_ALL, ptr::null());
        if name.is_null() {
            0
        } else {
            hash(CStr::from_ptr(name).to_bytes())
        }
    }
}

/// How this thread rounds and treats tiny numbers: changed, it changes the results of the next
/// task.
fn rounding() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut mode = 0_u32;
        // SAFETY: stores a register in a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack)) };
        u64::from(mode & !MXCSR_EVENTS)
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mode: u64;
        // SAFETY: reads a register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack)) };
        mode
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    0
}

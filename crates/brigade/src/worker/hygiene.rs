//! Whether a task left the process as it found it.
//!
//! Checked after each attempt of a worker with one slot, once the result is on its way: working directory, umask,
//! environment, resource limits, signal handlers and mask, locale, standard input, niceness. A worker that was changed
//! begins nothing more and is replaced, so the next task never sees it. Workers with many slots are not
//! checked: there, attempts share the process by choice.

#![expect(unsafe_code, reason = "asks the C library for signal handlers, environment and locale")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit};

static BASELINE: OnceLock<State> = OnceLock::new();

const RESOURCES: [Resource; 6] = [Resource::Nofile, Resource::As, Resource::Stack, Resource::Cpu, Resource::Fsize, Resource::Data];

/// Signals whose handlers matter to the worker or that tasks commonly take.
const SIGNALS: [libc::c_int; 10] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGUSR1,
];

#[derive(PartialEq)]
struct State {
    directory: Option<(u64, u64)>,
    umask: u32,
    environment: u64,
    limits: [(Option<u64>, Option<u64>); RESOURCES.len()],
    handlers: [usize; SIGNALS.len()],
    blocked: u64,
    locale: u64,
    stdin: Option<(u64, u64)>,
    nice: Option<i32>,
}

pub(super) fn take_baseline() {
    BASELINE.get_or_init(State::now);
}

/// What the last task changed, if anything.
pub(super) fn changed() -> Option<&'static str> {
    let (before, now) = (BASELINE.get()?, State::now());
    let differences = [
        (before.directory != now.directory, "the working directory"),
        (before.umask != now.umask, "the umask"),
        (before.environment != now.environment, "the environment"),
        (before.limits != now.limits, "a resource limit"),
        (before.handlers != now.handlers, "a signal handler"),
        (before.blocked != now.blocked, "the signal mask"),
        (before.locale != now.locale, "the locale"),
        (before.stdin != now.stdin, "standard input"),
        (before.nice != now.nice, "the niceness"),
    ];
    differences.into_iter().find_map(|(differs, what)| differs.then_some(what))
}

impl State {
    fn now() -> Self {
        Self {
            directory: rustix::fs::stat(c".").ok().map(|file| (file.st_dev, file.st_ino)),
            umask: umask(),
            environment: environment(),
            limits: RESOURCES.map(|resource| {
                let Rlimit { current, maximum } = rustix::process::getrlimit(resource);
                (current, maximum)
            }),
            handlers: SIGNALS.map(handler),
            blocked: blocked(),
            locale: locale(),
            stdin: rustix::fs::fstat(std::io::stdin()).ok().map(|file| (file.st_dev, file.st_ino)),
            nice: rustix::process::getpriority_process(None).ok(),
        }
    }
}

/// There is no way to read it but to set it; another thread that creates a file in between gets the stricter one.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// `setenv` puts a new string in the table, so its addresses tell.
fn environment() -> u64 {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut hash = 0;
    // SAFETY: the table ends with a null; no thread of a worker with one slot changes it between attempts.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            hash = mix(hash, (*entry).addr() as u64);
            entry = entry.add(1);
        }
    }
    hash
}

fn handler(signal: libc::c_int) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the handler into a local, for which zero is valid.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

fn blocked() -> u64 {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: only reads the mask into a local, for which zero is valid, and asks it about valid signals.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
        let set = set.assume_init();
        (1..=31).fold(0, |mask, signal| mask | u64::from(libc::sigismember(&raw const set, signal) == 1) << signal)
    }
}

fn locale() -> u64 {
    // SAFETY: asks for the name, which stays valid until the next `setlocale` and is read at once.
    unsafe {
        let name = libc::setlocale(libc::LC_ALL, ptr::null());
        if name.is_null() { 0 } else { CStr::from_ptr(name).to_bytes().iter().fold(0, |hash, byte| mix(hash, u64::from(*byte))) }
    }
}

fn mix(hash: u64, part: u64) -> u64 {
    (hash ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
}

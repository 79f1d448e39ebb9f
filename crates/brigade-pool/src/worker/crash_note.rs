//! Signal handlers of a worker: what it says when it dies, and which signals it heeds.
//!
//! A fatal signal is reported to the pool with what only this process can know: which attempt the
//! thread was running, the thread's name, whether the stack ran over, whether memory had run out.
//! Then the default takes its course. The handlers touch only atomics and thread-locals without
//! destructors, and call only async-signal-safe functions (signal-safety(7)).
//!
//! A stack overflow is known by the stack pointer, so also in threads that a task started. The
//! standard library's own handler, which ours replaced, then prints its message.
//!
//! SIGTERM counts only if the pool's process sent it: a service manager that signals every process
//! of a service must not cut short what the pool wants to drain. SIGINT goes to a terminal's whole
//! foreground and is ignored likewise.

#![expect(
    unsafe_code,
    reason = "sigaction, sigaltstack and pthread_getattr_np, which no safe wrapper offers"
)]

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};
use rustix::process::Pid;

use crate::wire::{CrashNote, HEADER_BYTES, encode, kind};

static CONTROL: AtomicI32 = AtomicI32::new(-1);
static POOL: AtomicI32 = AtomicI32::new(0);

/// The handlers of SIGSEGV and SIGBUS before ours, which are the standard library's; zero if there
/// were none.
static BEFORE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

thread_local! {
    /// Keeps the stack for handlers as long as its thread.
    static ALTERNATE: RefCell<Option<AlternateStack>> = const { RefCell::new(None) };

    /// The attempt that this thread runs; zero if none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    /// Lowest address of this thread's stack; zero if unknown.
    static STACK: Cell<usize> = const { Cell::new(0) };
}

const FATAL: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];
/// Room for our handler and for the standard library's, which prints.
const ALTERNATE_STACK_BYTES: usize = 64 << 10;
/// A fault this far below the stack, or this little above its lowest address, is an overflow: guard
/// pages and the kernel's stack gap are smaller.
const GUARD_BYTES: usize = 128 << 10;
/// An access that is not allowed, this near to the stack pointer, can only be beyond the stack's
/// end.
const NEAR_BYTES: usize = 64 << 10;
/// The kernel's limit for names of threads, with the NUL.
const NAME_BYTES: usize = 16;

pub(super) fn install(control: BorrowedFd<'_>, pool: Pid) -> io::Result<()> {
    // A copy of its own, never closed: a handler may run at any moment.
    CONTROL.store(
        control.try_clone_to_owned()?.into_raw_fd(),
        Ordering::Relaxed,
    );
    POOL.store(pool.as_raw_nonzero().get(), Ordering::Relaxed);
    prepare_thread();
    for (signal, before) in [libc::SIGSEGV, libc::SIGBUS].into_iter().zip(&BEFORE) {
        before.store(handler_with_context(signal), Ordering::Relaxed);
    }
    for signal in FATAL {
        handle(
            signal,
            on_fatal as *const () as usize,
            libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND,
        )?;
    }
    let heeded = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    handle(libc::SIGTERM, on_terminate as *const () as usize, heeded)?;
    handle(libc::SIGHUP, on_hangup as *const () as usize, heeded)?;
    handle(libc::SIGINT, libc::SIG_IGN, 0)?;
    handle(libc::SIGPIPE, libc::SIG_IGN, 0)?;
    // SAFETY: registers a function that lives as long as the program.
    unsafe { libc::atexit(on_exit) };
    Ok(())
}

/// Whether this process is a worker whose handlers are in place.
pub(super) fn is_installed() -> bool {
    CONTROL.load(Ordering::Relaxed) >= 0
}

/// Gives this thread a stack for handlers, if it has none of ours, and notes where its own ends.
pub(super) fn prepare_thread() {
    ALTERNATE.with_borrow_mut(|stack| {
        stack.get_or_insert_with(AlternateStack::new);
    });
    STACK.set(lowest_stack_address().unwrap_or(0));
}

/// A stack for signal handlers, in force on its thread until it is dropped.
struct AlternateStack(Box<[u8]>);

impl AlternateStack {
    fn new() -> Self {
        let mut memory = vec![0_u8; ALTERNATE_STACK_BYTES].into_boxed_slice();
        let stack = libc::stack_t {
            ss_sp: memory.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: memory.len(),
        };
        // SAFETY: the memory is not freed before `drop` has taken it out of force; replacing the
        // stack that the standard library set up is allowed while no handler runs on it.
        unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
        Self(memory)
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let none = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: self.0.len(),
        };
        // SAFETY: this thread, which is ending, runs no handler now.
        unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) };
    }
}

/// Sets the attempt that this thread runs; returns the one before.
pub(super) fn set_current(attempt: u64) -> u64 {
    CURRENT.replace(attempt)
}

pub(super) fn current() -> u64 {
    CURRENT.get()
}

/// Forgets an old failure, so that a later abort is not taken for it.
pub(super) fn clear_errno() {
    // SAFETY: `errno` of this thread is always there.
    unsafe { *libc::__errno_location() = 0 };
}

fn lowest_stack_address() -> Option<usize> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut address, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are initialised by the first call, read by the second and freed by the
    // third; the results are written to locals.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let known =
            libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut size) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        known.then(|| address.addr())
    }
}

fn handle(signal: c_int, handler: usize, flags: c_int) -> io::Result<()> {
    // SAFETY: zero is a valid `sigaction`; the handler is one of ours with the signature that the
    // flags announce, or a constant of the C library.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The handler of a signal, if it takes a context.
fn handler_with_context(signal: c_int) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the disposition into a local, for which zero is valid.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    let takes = action.sa_flags & libc::SA_SIGINFO != 0
        && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
    if takes { action.sa_sigaction } else { 0 }
}

extern "C" fn on_fatal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: `errno` of this thread is always there, and the kernel passes a valid siginfo.
    let (errno, address, sent) = unsafe {
        (
            *libc::__errno_location(),
            (*info).si_addr().addr(),
            (*info).si_code <= 0,
        )
    };
    let overflow =
        matches!(signal, libc::SIGSEGV | libc::SIGBUS) && !sent && is_overflow(address, context);
    let words = if overflow {
        CrashNote::StackOverflow
    } else if signal == libc::SIGABRT && errno == libc::ENOMEM {
        // A failed allocation leaves its mark, and nothing between it and `abort` fails.
        CrashNote::OutOfMemory
    } else {
        CrashNote::Signal
    };
    send_peak();
    let name = thread_name();
    send_note(words, signal, &name);
    if overflow {
        report_overflow(signal, info, context, &name);
    }
    // SA_RESETHAND has restored the default. A fault comes again when we return; a signal that was
    // sent does not.
    if sent {
        // SAFETY: async-signal-safe.
        unsafe { libc::raise(signal) };
    }
}

/// Whether a fault at this address is one of a stack that ran over.
fn is_overflow(address: usize, context: *mut c_void) -> bool {
    let lowest = STACK.get();
    let near = |place: usize, reach: usize| {
        (place.saturating_sub(reach)..place.saturating_add(reach)).contains(&address)
    };
    let Some(pointer) = stack_pointer(context) else {
        return lowest != 0 && near(lowest, GUARD_BYTES);
    };
    lowest != 0 && near(lowest, GUARD_BYTES) || near(pointer, NEAR_BYTES) || !is_readable(pointer)
}

#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(unused_variables, reason = "no registers known")
)]
fn stack_pointer(context: *mut c_void) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel passes the context of the thread, in this form, to handlers with
    // SA_SIGINFO.
    let pointer = unsafe {
        usize::try_from(
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RSP as usize],
        )
        .ok()
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    let pointer =
        unsafe { usize::try_from((*context.cast::<libc::ucontext_t>()).uc_mcontext.sp).ok() };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let pointer = None;
    pointer
}

/// Whether there is memory at an address. A large frame may put the stack pointer far below the
/// stack's end.
fn is_readable(address: usize) -> bool {
    // SAFETY: async-signal-safe. The kernel takes the address for a path and says EFAULT if it
    // cannot read it; access(2) changes nothing.
    unsafe {
        *libc::__errno_location() = 0;
        libc::access(ptr::with_exposed_provenance(address), libc::F_OK) == 0
            || *libc::__errno_location() != libc::EFAULT
    }
}

/// The name of this thread, up to the first zero.
fn thread_name() -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    // SAFETY: a system call that writes at most 16 bytes.
    unsafe {
        if libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid()) {
            name[..4].copy_from_slice(b"main");
        } else {
            libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        }
    }
    name
}

fn send_note(words: CrashNote, signal: c_int, name: &[u8; NAME_BYTES]) {
    let mut frame = [0; HEADER_BYTES + 2 + NAME_BYTES];
    frame[..HEADER_BYTES].copy_from_slice(&encode(kind::CRASH_NOTE, CURRENT.get(), 2 + NAME_BYTES));
    frame[HEADER_BYTES] = words as u8;
    frame[HEADER_BYTES + 1] = u8::try_from(signal).unwrap_or(0);
    frame[HEADER_BYTES + 2..].copy_from_slice(name);
    send(&frame);
}

fn send(frame: &[u8]) {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `send` is async-signal-safe and reads the frame, which lives here. A frame of this
    // size is written whole or not at all.
    unsafe {
        libc::send(
            CONTROL.load(Ordering::Relaxed),
            frame.as_ptr().cast(),
            frame.len(),
            flags,
        )
    };
}

/// Reports this process's own peak of memory, which cannot be read once it has ended: the
/// kernel's count (`ru_maxrss`) began with that of the process which spawned it.
fn send_peak() {
    let Some(bytes) = own_peak() else { return };
    let mut frame = [0; HEADER_BYTES + 8];
    frame[..HEADER_BYTES].copy_from_slice(&encode(kind::PEAK, 0, 8));
    frame[HEADER_BYTES..].copy_from_slice(&bytes.to_le_bytes());
    send(&frame);
}

/// `VmHWM` of proc_pid_status(5), with nothing but async-signal-safe calls and no allocation.
fn own_peak() -> Option<u64> {
    let mut buffer = [0_u8; 4096];
    let mut length = 0;
    // SAFETY: `open`, `read` and `close` are async-signal-safe; the buffer lives here and is
    // written within its bounds.
    unsafe {
        let fd = libc::open(
            c"/proc/self/status".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        if fd < 0 {
            return None;
        }
        while length < buffer.len() {
            match libc::read(
                fd,
                buffer.as_mut_ptr().add(length).cast(),
                buffer.len() - length,
            ) {
                ..=0 => break,
                count => length += count.unsigned_abs(),
            }
        }
        libc::close(fd);
    }
    let mut lines = buffer.get(..length)?.split(|byte| *byte == b'\n');
    let digits = lines
        .find_map(|line| line.strip_prefix(b"VmHWM:"))?
        .iter()
        .filter(|byte| byte.is_ascii_digit());
    Some(
        digits
            .fold(0_u64, |kib, digit| {
                kib.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
            })
            .wrapping_mul(1024),
    )
}

/// Runs when the process exits in whatever way but `_exit`.
extern "C" fn on_exit() {
    send_peak();
}

/// Ends the process group as SIGTERM from the pool would: by the default action, unless a task has
/// taken the signal.
pub(super) fn terminate_group() {
    // SAFETY: zero is a valid `sigaction`; only reads the action into a local, and restores the
    // default where the handler is ours.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGTERM, ptr::null(), &raw mut action);
        if action.sa_sigaction == on_terminate as *const () as usize {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGTERM, &raw const default, ptr::null_mut());
        }
        libc::kill(0, libc::SIGTERM);
    }
}

type HandlerWithContext = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Lets the standard library report an overflow and end the process. It knows only its own threads,
/// and not those of a program whose workers are entered before `main`; overflows of the others are
/// reported here.
fn report_overflow(
    signal: c_int,
    info: *mut siginfo_t,
    context: *mut c_void,
    name: &[u8; NAME_BYTES],
) {
    let before = BEFORE[usize::from(signal == libc::SIGBUS)].load(Ordering::Relaxed);
    if before != 0 {
        // SAFETY: it was installed as a handler of this signature, and never ends.
        let handler = unsafe {
            std::mem::transmute::<*const (), HandlerWithContext>(ptr::with_exposed_provenance(
                before,
            ))
        };
        handler(signal, info, context);
    }
    let length = name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(NAME_BYTES);
    for part in [
        b"\nthread '".as_slice(),
        &name[..length],
        b"' has overflowed its stack\n",
    ] {
        // SAFETY: `write` is async-signal-safe and reads what lives here.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}

extern "C" fn on_terminate(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo; `sigaction` and `raise` are async-signal-safe.
    unsafe {
        if (*info).si_pid() == POOL.load(Ordering::Relaxed) {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const default, ptr::null_mut());
            libc::raise(signal);
        }
    }
}

extern "C" fn on_hangup(_signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: both are async-signal-safe.
    unsafe {
        if libc::getppid() != POOL.load(Ordering::Relaxed) {
            libc::kill(0, libc::SIGKILL);
        }
    }
}

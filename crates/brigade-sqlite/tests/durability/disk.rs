//! The system calls through which SQLite reaches its disk, each with a switch.
//!
//! SQLite is linked into this binary, so the linker gives it these functions in place of the C
//! library's. They do what theirs do, until a program arms a fault: the process ends by SIGKILL
//! just before or after its Nth sync, the Nth sync fails with EIO, or all writes and syncs of the
//! job file are recorded, to be played back as disks that lost power.

#![expect(unsafe_code, reason = "takes the place of functions of the C library")]

use std::ffi::{c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SYNCS: AtomicU64 = AtomicU64::new(0);
static KILL_BEFORE: AtomicU64 = AtomicU64::new(0);
static KILL_AFTER: AtomicU64 = AtomicU64::new(0);
static FAIL_AT: AtomicU64 = AtomicU64::new(0);
static RECORDING: AtomicBool = AtomicBool::new(false);
static OPERATIONS: Mutex<Vec<Operation>> = Mutex::new(Vec::new());

/// What befalls this process at its Nth sync from now on, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillBefore(u64),
    KillAfter(u64),
    /// The disk says EIO, once; what was to be synced is on its own.
    Fail(u64),
}

impl Fault {
    /// In the form of arguments of programs.
    pub(crate) fn arguments(self) -> [String; 2] {
        let (name, number) = match self {
            Self::KillBefore(number) => ("before", number),
            Self::KillAfter(number) => ("after", number),
            Self::Fail(number) => ("fail", number),
        };
        [name.to_owned(), number.to_string()]
    }

    pub(crate) fn read(name: &str, number: &str) -> Option<Self> {
        let number = number.parse().unwrap();
        match name {
            "before" => Some(Self::KillBefore(number)),
            "after" => Some(Self::KillAfter(number)),
            "fail" => Some(Self::Fail(number)),
            _ => None,
        }
    }

    pub(crate) fn arm(self) {
        let (at, number) = match self {
            Self::KillBefore(number) => (&KILL_BEFORE, number),
            Self::KillAfter(number) => (&KILL_AFTER, number),
            Self::Fail(number) => (&FAIL_AT, number),
        };
        at.store(SYNCS.load(Ordering::SeqCst) + number, Ordering::SeqCst);
    }
}

/// Syncs of this process so far.
pub(crate) fn syncs() -> u64 {
    SYNCS.load(Ordering::SeqCst)
}

/// The two files of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Log,
}

/// What reached the disk, in order.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Write(Part, u64, Vec<u8>),
    Truncate(Part, u64),
    Sync(Part),
    /// An answer that the program got, or something that it began.
    Mark(u64),
}

/// From now on, writes to files that end in `.db` and `.db-wal` are kept.
pub(crate) fn record() {
    RECORDING.store(true, Ordering::SeqCst);
}

/// Ends the recording and gives it.
pub(crate) fn recorded() -> Vec<Operation> {
    RECORDING.store(false, Ordering::SeqCst);
    std::mem::take(&mut OPERATIONS.lock().unwrap())
}

/// Notes a moment among what reaches the disk.
pub(crate) fn mark(number: u64) {
    OPERATIONS.lock().unwrap().push(Operation::Mark(number));
}

fn part(fd: c_int) -> Option<Part> {
    if !RECORDING.load(Ordering::SeqCst) {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let path = path.to_str()?;
    if path.ends_with(".db") {
        Some(Part::Main)
    } else {
        path.ends_with(".db-wal").then_some(Part::Log)
    }
}

fn end_here() -> ! {
    // SAFETY: signals this very process; nothing of it runs on.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    loop {
        std::thread::park();
    }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    let number = SYNCS.fetch_add(1, Ordering::SeqCst) + 1;
    if number == KILL_BEFORE.load(Ordering::SeqCst) {
        end_here();
    }
    if number == FAIL_AT.load(Ordering::SeqCst) {
        // SAFETY: the calling thread's own error number.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: the call that this function stands for, with its arguments.
    let done = unsafe { libc::syscall(libc::SYS_fsync, fd) };
    if let Some(part) = part(fd) {
        OPERATIONS.lock().unwrap().push(Operation::Sync(part));
    }
    if number == KILL_AFTER.load(Ordering::SeqCst) {
        end_here();
    }
    c_int::try_from(done).unwrap_or(-1)
}

/// # Safety
///
/// As pwrite(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the call that this function stands for, with its arguments.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, count, at) };
    let written = isize::try_from(written).unwrap_or(-1);
    if let (Ok(length), Ok(at), Some(part)) =
        (usize::try_from(written), u64::try_from(at), part(fd))
    {
        // SAFETY: the kernel has just read this many bytes from there.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec();
        OPERATIONS
            .lock()
            .unwrap()
            .push(Operation::Write(part, at, bytes));
    }
    written
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: i64) -> c_int {
    // SAFETY: the call that this function stands for, with its arguments.
    let done = unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) };
    if let (0, Ok(length), Some(part)) = (done, u64::try_from(length), part(fd)) {
        OPERATIONS
            .lock()
            .unwrap()
            .push(Operation::Truncate(part, length));
    }
    c_int::try_from(done).unwrap_or(-1)
}

/// A sync of a file that no process uses: a place to die at.
pub(crate) fn sync_nothing() {
    fsync(-1);
}

//! The worker's title in `ps` and `top`: `brigade: worker 3 add`.
//!
//! The kernel reads a title from where the process's arguments lie in memory (proc_pid_cmdline(5)).
//! Arguments are as the program was started, since interpreters look at them; there is little room
//! in them. Behind them lies the environment, whose first variable is `BRIGADE_WORKER`, padded by
//! the pool and removed by `identity`. A title may run on into it. The program itself is given
//! copies of its arguments first, so it never sees the title in them.

#![expect(
    unsafe_code,
    reason = "writes over the memory of the process's own arguments"
)]

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::WORKER_VARIABLE;

/// The room for a title: address and length.
static ROOM: OnceLock<Option<(usize, usize)>> = OnceLock::new();

/// Bytes of the room that may be other than zero.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Longest name of a process that the kernel keeps (PR_SET_NAME).
const NAME_BYTES_MAX: usize = 15;

thread_local! {
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// Names the process after its program instead of `/proc/self/exe`, and makes room for titles.
/// Called once, before other threads run.
pub(super) fn prepare() {
    set_name();
    ROOM.get_or_init(|| {
        let (start, length) = make_room()?;
        USED.store(length, Ordering::Relaxed);
        Some((start, length))
    });
}

fn set_name() {
    if rustix::thread::name().is_ok_and(|name| name.as_bytes() != b"exe") {
        return;
    }
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program)
        .file_name()
        .unwrap_or(OsStr::new("worker"))
        .as_bytes();
    if let Ok(name) = CString::new(&name[..name.len().min(NAME_BYTES_MAX)]) {
        rustix::thread::set_name(&name).ok();
    }
}

/// Shows what the worker runs. Cheap if it is what it ran last.
pub(super) fn set_task(worker: u32, task: &'static str) {
    if LAST.replace(task.as_ptr().addr()) != task.as_ptr().addr() {
        let short = task.rsplit("::").next().unwrap_or(task);
        set(&format!("brigade: worker {worker} {short}"));
    }
}

pub(super) fn set(title: &str) {
    let Some(Some((start, room))) = ROOM.get() else {
        return;
    };
    let length = title.len().min(room - 1);
    let used = USED.swap(length, Ordering::Relaxed);
    let start = ptr::with_exposed_provenance_mut::<u8>(*start);
    // SAFETY: the room is mapped and writable for the life of the process, and nothing refers to it
    // any more (`make_room`). Its last byte stays zero.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), start, length);
        ptr::write_bytes(start.add(length), 0, used.saturating_sub(length));
    }
}

/// Gives the program copies of its arguments; returns where they were, with the padded variable
/// behind them.
fn make_room() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field of proc_pid_stat(5) is a name in parentheses that may hold blanks; the third
    // follows the last of them.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (stack, start, end, variables) = (field(28)?, field(48)?, field(49)?, field(50)?);
    let first = fs::read("/proc/self/environ").ok()?;
    let padding = first
        .split(|byte| *byte == 0)
        .next()
        .filter(|first| first.starts_with(WORKER_VARIABLE.as_bytes()))?;
    let arguments = fs::read("/proc/self/cmdline").ok()?;
    let count = arguments.iter().filter(|byte| **byte == 0).count();
    if start == 0 || end != variables || end - start != arguments.len() {
        return None;
    }
    copy_arguments(stack, count, start, end)?;
    Some((start, end - start + padding.len() + 1))
}

/// Points the argument vector, which lies where the stack began, at copies.
fn copy_arguments(stack: usize, count: usize, start: usize, end: usize) -> Option<()> {
    let argc = ptr::with_exposed_provenance_mut::<usize>(stack);
    // SAFETY: the kernel says that the stack began here; the count of arguments and the vector are
    // the first things that it put there (System V ABI, initial process stack), and stay for the
    // life of the process.
    let (found, vector) = unsafe {
        (
            argc.cast::<c_int>().read(),
            argc.add(1).cast::<*mut c_char>(),
        )
    };
    if usize::try_from(found).ok()? != count {
        return None;
    }
    for index in 0..count {
        // SAFETY: the index is below the count.
        let slot = unsafe { &mut *vector.add(index) };
        if (start..end).contains(&slot.addr()) {
            // SAFETY: an argument that the kernel put there ends with a NUL within the arguments.
            // The copy is never freed.
            *slot = unsafe { CStr::from_ptr(*slot) }.to_owned().into_raw();
        }
    }
    Some(())
}

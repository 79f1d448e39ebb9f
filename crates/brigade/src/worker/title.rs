//! The worker's title in `ps` and `top`: `brigade: worker 3 add`.
//!
//! Written over the process's own arguments, which is where the kernel reads a title from (proc_pid_cmdline(5)). The
//! pool pads the first argument with blanks to make room.

#![expect(unsafe_code, reason = "writes over the memory of the process's own arguments")]

use std::cell::Cell;
use std::fs;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;

thread_local! {
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// Shows what the worker runs. Cheap if it is what it ran last.
pub(super) fn set_task(worker: u32, task: &'static str) {
    if LAST.replace(task.as_ptr().addr()) != task.as_ptr().addr() {
        let short = task.rsplit("::").next().unwrap_or(task);
        set(&format!("brigade: worker {worker} {short}"));
    }
}

pub(super) fn set(title: &str) {
    let Some(room) = arguments() else { return };
    let length = title.len().min(room.len().saturating_sub(1));
    let start = ptr::with_exposed_provenance_mut::<u8>(room.start);
    // SAFETY: the kernel says that this range holds our arguments; it stays mapped and writable, and nothing refers to it
    // but the C library's argv, which workers do not read.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), start, length);
        ptr::write_bytes(start.add(length), 0, room.len() - length);
    }
}

/// Where the arguments are: fields 48 and 49 of `/proc/self/stat` (proc_pid_stat(5)).
fn arguments() -> Option<Range<usize>> {
    static ARGUMENTS: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    let (start, end) = (*ARGUMENTS.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is a name in parentheses that may hold blanks; the third follows the last of them.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(48 - 3);
        let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (start != 0 && start < end && end - start < 1 << 16).then_some((start, end))
    }))?;
    Some(start..end)
}

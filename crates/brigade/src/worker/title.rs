//! The worker's title in `ps` and `top`: `brigade: worker 3 add`.
//!
//! Written over the process's own first argument, which is where the kernel reads a title from (proc_pid_cmdline(5)). The
//! pool pads it with blanks to make room. The others are the program's own (`Builder::program`).

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
    let Some(room) = first_argument() else { return };
    let length = title.len().min(room.len().saturating_sub(1));
    let start = ptr::with_exposed_provenance_mut::<u8>(room.start);
    // SAFETY: the kernel says that this range holds our first argument; it stays mapped and writable, and nothing refers
    // to it but the C library's argv, where any text that ends with a NUL is as good.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), start, length);
        ptr::write_bytes(start.add(length), 0, room.len() - length);
    }
}

/// Where the first argument is, with its NUL: fields 48 and 49 of `/proc/self/stat` (proc_pid_stat(5)).
fn first_argument() -> Option<Range<usize>> {
    static ARGUMENT: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    let (start, end) = (*ARGUMENT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is a name in parentheses that may hold blanks; the third follows the last of them.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(48 - 3);
        let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let length = fs::read("/proc/self/cmdline").ok()?.iter().position(|byte| *byte == 0)? + 1;
        (start != 0 && start < end && length <= end - start).then_some((start, start + length))
    }))?;
    Some(start..end)
}

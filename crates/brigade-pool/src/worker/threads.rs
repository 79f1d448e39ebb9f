//! Threads of a worker that a test program became: each gets a stack for signal handlers.
//!
//! The standard library gives its threads a stack for handlers, but prepares for that on the way to
//! `main`. A worker of `test_workers!` is entered before, so a stack overflow in a thread that a
//! task started could not be reported: its handler had no stack to run on. Therefore the macro puts
//! a `pthread_create` of its own in front of the C library's, in the test program alone, and that
//! one ends up here. In a process that is no worker it changes nothing.

#![expect(
    unsafe_code,
    reason = "pthread_create, which is called by code that knows nothing of us"
)]

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::crash_note;

/// What a new thread runs. It may be unwound through: pthread_exit(3) and cancellation do that.
pub type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut c_void, *const c_void, Start, *mut c_void) -> c_int;

/// The C library's function; null before the first thread.
static CREATE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// As pthread_create(3), which it calls. The thread begins with a stack for signal handlers, if
/// this process is a worker.
///
/// # Safety
///
/// As that of pthread_create(3).
pub unsafe fn create_thread(
    thread: *mut c_void,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let Some(create) = c_library() else {
        return libc::EAGAIN;
    };
    if !crash_note::is_installed() {
        // SAFETY: the caller keeps to the contract of pthread_create.
        return unsafe { create(thread, attributes, start, argument) };
    }
    let task = Box::into_raw(Box::new((start, argument)));
    // SAFETY: as above; `prepared` takes the box, which nothing else has.
    let result = unsafe { create(thread, attributes, prepared, task.cast()) };
    if result != 0 {
        // SAFETY: no thread was made, so the box is still ours.
        drop(unsafe { Box::from_raw(task) });
    }
    result
}

extern "C-unwind" fn prepared(task: *mut c_void) -> *mut c_void {
    // SAFETY: `create_thread` made it for this one thread.
    let (start, argument) = *unsafe { Box::from_raw(task.cast::<(Start, *mut c_void)>()) };
    crash_note::prepare_thread();
    start(argument)
}

fn c_library() -> Option<Create> {
    let mut found = CREATE.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name is a C string; the next definition after the test program's own is
        // asked for.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        CREATE.store(found, Ordering::Relaxed);
    }
    // SAFETY: it is null or the C library's function of this signature; a null function pointer is
    // `None`.
    unsafe { transmute::<*mut c_void, Option<Create>>(found) }
}

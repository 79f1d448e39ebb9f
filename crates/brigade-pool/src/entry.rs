//! Where a program becomes a worker: the first thing that each of its processes does.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::worker;

static WORKER_ENTRY: AtomicBool = AtomicBool::new(false);

/// Turns this process into a worker if a pool started it as one; then it never returns. The first
/// line of a `main` of your own; `#[brigade::main]` does it for you.
///
/// Code before it runs in every worker too. Within an async runtime (`#[tokio::main]`) it works,
/// and the worker leaves the threads of that runtime idle; `#[brigade::main]` starts none.
///
/// A program that a pool started as a worker, and which may not be one (it is setuid, setgid or has
/// file capabilities, or its pool runs as another user), ends here with code 70 and a line on
/// standard error.
pub fn init() {
    WORKER_ENTRY.store(true, Ordering::Relaxed);
    worker::enter_if_worker();
}

pub(crate) fn worker_entry_is_set() -> bool {
    WORKER_ENTRY.load(Ordering::Relaxed)
}

/// For `test_workers!`, which calls it before `main`.
#[doc(hidden)]
pub extern "C" fn enter_before_main() {
    init();
}

/// The runtime around an async `main`.
///
/// # Panics
///
/// If the runtime cannot be started, as there is nothing to go on with.
#[doc(hidden)]
pub fn block_on<F: Future>(
    current_thread: bool,
    worker_threads: Option<usize>,
    main: F,
) -> F::Output {
    let mut builder = if current_thread {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if let Some(threads) = worker_threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .build()
        .expect("the async runtime starts")
        .block_on(main)
}

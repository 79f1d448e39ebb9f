//! How a process ends that a pool started as a worker and that cannot be one.

use std::io::Write as _;
use std::{io, process};

/// Exit code of a worker that could not start (EX_SOFTWARE of sysexits.h).
pub(super) const EXIT_START_FAILED: i32 = 70;

/// Ends a process that cannot be a worker and should not go on as anything else.
pub(super) fn give_up(text: &str) -> ! {
    writeln!(io::stderr(), "brigade: {text}").ok();
    process::exit(EXIT_START_FAILED);
}

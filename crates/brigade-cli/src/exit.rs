//! The exit codes, the same for every command.

use std::process::ExitCode;

/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Nothing found: no job to take, no job of that id.
pub(crate) const NOTHING: u8 = 3;
/// Not within the given time.
pub(crate) const TIMED_OUT: u8 = 4;
/// Stopped at once by a signal; what a shell says of SIGINT.
pub(crate) const STOPPED: u8 = 130;

/// For the end of `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 success; 1 something failed; 2 wrong usage; 3 nothing \
    found (no job to take, no job of that id); \
4 not within the given time; 130 stopped by a signal. NO_COLOR turns colours off.";

/// A wrong command line.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error for a wrong command line.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// The code for an error that ended a command.
pub(crate) fn of(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause
                .downcast_ref::<brigade::Error>()
                .is_some_and(|e| e.kind() == brigade::ErrorKind::BadOption)
    });
    if is_usage {
        USAGE.into()
    } else {
        ExitCode::FAILURE
    }
}

/// Good, or that there was nothing.
pub(crate) fn found(found: bool) -> ExitCode {
    if found {
        ExitCode::SUCCESS
    } else {
        NOTHING.into()
    }
}

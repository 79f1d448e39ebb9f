//! The program that a child runs.

use std::ffi::OsString;
use std::path::PathBuf;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    /// The program's own name for itself: a Python interpreter finds its virtual environment by it.
    pub(crate) argv0: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
}

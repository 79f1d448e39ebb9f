//! A build without the cargo feature `sandbox`: every sandbox is refused.

use std::io;
use std::os::fd::RawFd;

use crate::error::{Error, ErrorKind};
use crate::sandbox::Sandbox;

/// As with the feature.
#[derive(Clone, Copy)]
pub(crate) enum Confined {
    OwnProcess,
}

/// There is none.
pub(crate) enum PreparedSandbox {}

impl PreparedSandbox {
    pub(crate) fn new(sandbox: &Sandbox, confined: Confined) -> Result<Self, Error> {
        let Confined::OwnProcess = confined;
        Err(missing(sandbox))
    }

    pub(crate) fn ruleset(&self) -> RawFd {
        match *self {}
    }

    pub(crate) fn filter_all_threads(self) -> io::Result<()> {
        match self {}
    }
}

pub(crate) fn restrict_thread(_ruleset: RawFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn check(sandbox: &Sandbox) -> Result<(), Error> {
    Err(missing(sandbox))
}

fn missing(sandbox: &Sandbox) -> Error {
    let text = format!(
        "keep the sandbox {sandbox}: this program was built without it; turn on the cargo feature \
            `sandbox` of the crate brigade"
    );
    Error::new(ErrorKind::Unsupported, text)
}

//! How a [`Sandbox`] is applied to threads: by landlock and seccomp, or not at all.
//!
//! [`PreparedSandbox`] holds all that was made for it beforehand: a landlock ruleset (`files`) and
//! compiled filters of system calls (`system_calls`). Applying it then is a handful of system
//! calls, so it also works in a signal handler and between fork and exec. What the kernel lacks is
//! an error when the sandbox is prepared or applied; no rule is left out.
//!
//! Landlock keeps one thread and those that it starts later; all threads of a worker are seen to by
//! `worker::sandbox`. Neither can be taken back.
//!
//! Unsafe: one system call that the landlock crate offers only together with taking its ruleset
//! apart, which allocates.

#![expect(
    unsafe_code,
    reason = "landlock_restrict_self(2) without allocation, for signal handlers"
)]

mod files;
mod system_calls;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use landlock::PathFd;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::BpfProgram;

use crate::error::{Error, ErrorKind};
use crate::sandbox::Sandbox;

/// What a sandbox is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confined {
    /// This process: it may read what `/proc` says of itself.
    OwnProcess,
    /// A program that a child of this process executes.
    Program,
}

/// A sandbox that is ready to be applied.
pub struct PreparedSandbox {
    ruleset: OwnedFd,
    filters: Vec<BpfProgram>,
    /// `/proc/self`. The rule that allows it is bound to this very file, which the kernel forgets
    /// while it is not open.
    own_directory: Option<PathFd>,
}

impl PreparedSandbox {
    /// # Errors
    ///
    /// `Unsupported` if the kernel or its settings lack what the sandbox needs, `BadOption` if a
    /// path cannot be opened.
    pub fn new(sandbox: &Sandbox, confined: Confined) -> Result<Self, Error> {
        check(sandbox)?;
        let rules = sandbox.rules();
        let own_directory = (confined == Confined::OwnProcess)
            .then(|| PathFd::new("/proc/self").map_err(|e| files::unreadable("/proc/self", &e)))
            .transpose()?;
        Ok(Self {
            ruleset: files::ruleset(rules, own_directory.as_ref())?,
            filters: system_calls::filters(rules, confined)?,
            own_directory,
        })
    }

    /// The descriptor of the landlock ruleset.
    pub(crate) fn ruleset(&self) -> RawFd {
        self.ruleset.as_raw_fd()
    }

    /// Applies all of it to this thread, and to those that it starts later. Allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of prctl(2), landlock_restrict_self(2) and seccomp(2). The thread may be restricted in
    /// part then.
    pub fn apply(&self) -> io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        restrict_thread(self.ruleset())?;
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|e| os_error(&e))?;
        }
        Ok(())
    }

    /// Applies the filters of system calls to all threads of this process. What the rules of files
    /// need stays open.
    pub(crate) fn filter_all_threads(self) -> io::Result<()> {
        for filter in &self.filters {
            seccompiler::apply_filter_all_threads(filter).map_err(|e| os_error(&e))?;
        }
        if let Some(directory) = self.own_directory {
            // For as long as the process lives.
            std::mem::forget(directory);
        }
        Ok(())
    }
}

/// The part of a failed filter that says why. Allocates nothing.
fn os_error(error: &seccompiler::Error) -> io::Error {
    let code = match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            error.raw_os_error()
        }
        // A thread has filters that this one does not have.
        _ => None,
    };
    io::Error::from_raw_os_error(code.unwrap_or(libc::EBUSY))
}

/// What a privileged user keeps in a sandbox: rights about files and users. The others are rights
/// about the kernel, the network and other processes, some of which go before landlock: with
/// CAP_PERFMON the memory maps and the environment of any process can be read.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Restricts this thread by a landlock ruleset, and takes capabilities off it; no program that it
/// executes gets them back, as it has no_new_privs. Async-signal-safe.
pub(crate) fn restrict_thread(ruleset: RawFd) -> io::Result<()> {
    let has = capabilities(None)?;
    let sets = CapabilitySets {
        effective: has.effective & CAPABILITIES,
        permitted: has.permitted & CAPABILITIES,
        inheritable: has.inheritable & CAPABILITIES,
    };
    set_capabilities(None, sets)?;
    // SAFETY: a system call with two numbers; it changes nothing but this thread's credentials.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether this host can keep a sandbox.
///
/// # Errors
///
/// `Unsupported`, with what is missing.
pub(crate) fn check(sandbox: &Sandbox) -> Result<(), Error> {
    files::check(sandbox)?;
    system_calls::check(sandbox)
}

fn unsupported(sandbox: &Sandbox, what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("keep the sandbox {sandbox}: {what}"),
    )
}

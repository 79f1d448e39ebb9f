//! Whether this process is a worker, and of which pool.
//!
//! A worker runs what its pool asks for, any address of the program's text included. So it must be
//! sure that the pool started it and has no fewer rights than it:
//!
//! - `BRIGADE_WORKER` names the pool's process. It is removed at once, so that no program which a
//!   task starts takes itself for a worker.
//! - Descriptor 0 is a socket that this very process made (`SO_PEERCRED`, unix(7)): an environment
//!   can be copied, a socket cannot.
//! - The pool is the parent.
//! - A program that has more rights than the process that started it (setuid, setgid, file
//!   capabilities: `AT_SECURE`, getauxval(3)) is never a worker, as the dynamic linker ignores
//!   `LD_PRELOAD` there. Neither is one whose pool runs as another user, unless that is root.

#![expect(
    unsafe_code,
    reason = "reads credentials of descriptor 0, and changes the environment"
)]

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::{env, io, mem, process};

use rustix::process::{Pid, geteuid, getppid, getuid};

use super::failed_start::give_up;
use crate::error::{Error, ErrorKind};
use crate::process::{WORKER_VARIABLE, is_secure};

/// The pool that started this process as a worker; `None` if it is none. Ends the process where the
/// pool may not command it.
pub(super) fn claimed_pool() -> Option<Pid> {
    let pool = env::var(WORKER_VARIABLE).ok()?;
    // SAFETY: `init` is the program's first step. Threads that it may have by then are those of its
    // constructors or of an idle async runtime, and no code of ours reads the environment at
    // the same time.
    unsafe { env::remove_var(WORKER_VARIABLE) };
    let pool = Pid::from_raw(pool.trim().parse().ok()?)?;
    let peer = peer(0).ok()?;
    let (number, user) = (pool.as_raw_nonzero().get(), getuid().as_raw());
    if peer.pid != number {
        // The environment of a pool with a socket of another process. Zero: that process is in
        // another namespace.
        if peer.pid == 0 {
            give_up(
                "this program was started as a worker, but in another process namespace than its \
                    pool's: start the pool inside of it",
            );
        }
        return None;
    }
    if is_secure() || user != geteuid().as_raw() {
        give_up(
            "a setuid, setgid or file-capability program is no worker: the process that started it \
                could use its rights for tasks",
        );
    }
    if peer.uid != user && peer.uid != 0 {
        give_up(&format!(
            "this worker runs as user {user}, but its pool as user {}: start both as the same user",
            peer.uid
        ));
    }
    Some(pool)
}

/// Whether the pool is the parent: the only process whose end the kernel reports to this one.
///
/// # Errors
///
/// `CannotStart` if a program stands between both.
pub(super) fn check_parent(pool: Pid, control: &UnixStream) -> Result<(), Error> {
    let Some(parent) = getppid() else {
        return Ok(());
    };
    if parent == pool {
        return Ok(());
    }
    if control.take_error().is_err() || has_ended(control) {
        // The pool died before this process came so far.
        process::exit(0);
    }
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let text = format!(
        "start a worker: its parent is process {parent} ({}), not its pool: a program that \
            Builder::program starts must become the worker by \
         exec, and not start it as a child",
        name.trim_end()
    );
    Err(Error::new(ErrorKind::CannotStart, text))
}

fn has_ended(control: &UnixStream) -> bool {
    let mut byte = [0];
    // SAFETY: the buffer lives here; with MSG_PEEK nothing is taken from the stream.
    let read = unsafe {
        libc::recv(
            control.as_raw_fd(),
            byte.as_mut_ptr().cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    read == 0
}

/// Who made a socket (`SO_PEERCRED`).
fn peer(socket: i32) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&peer)).expect("three integers");
    // SAFETY: the option writes this structure of three integers, at most the given length.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(peer)
    } else {
        Err(io::Error::last_os_error())
    }
}

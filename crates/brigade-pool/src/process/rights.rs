//! Whether this program has more rights than the process that started it.

#![expect(unsafe_code, reason = "getauxval(3), which no safe wrapper offers")]

use rustix::process::{getegid, geteuid, getgid, getuid};

use crate::error::{Error, ErrorKind};

/// Whether workers of this process could be workers.
///
/// # Errors
///
/// `Unsupported` in a program with more rights than the process that started it: its workers would
/// refuse.
pub(crate) fn check_pool_rights(runs_own_program: bool) -> Result<(), Error> {
    let differs = getuid() != geteuid() || getgid() != getegid();
    if differs || runs_own_program && is_secure() {
        let text = "start a pool in a setuid, setgid or file-capability program: it is never a \
            worker, because the process that started it \
                    could use its rights for tasks; give it rights in another way (a service \
                    manager's User= or AmbientCapabilities=), or name \
                    a file without these rights with Builder::program";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

/// Whether this program has rights that the process which started it does not have.
pub(crate) fn is_secure() -> bool {
    // SAFETY: reads a number that the kernel gave with the program.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

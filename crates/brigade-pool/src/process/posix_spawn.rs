//! posix_spawn(3) for workers: what the standard library's `Command` does, and the closing of
//! descriptors before `exec`.
//!
//! A worker must not inherit descriptors that libraries of this process left open. They are closed
//! in the new process before its program starts, because the program itself cannot tell them from
//! those that its own constructors opened. A hook before `exec` (`CommandExt::pre_exec`) could do
//! the same, but makes the standard library use fork(2), whose cost grows with our memory.
//!
//! Signals start at their defaults with an empty mask: dispositions that this process ignores would
//! otherwise cross `exec`.

#![expect(unsafe_code, reason = "posix_spawn(3), which no safe wrapper offers")]

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use libc::{c_char, c_int, c_short};
use rustix::fs::{Access, access};
use rustix::process::Pid;

use super::command::Command;

/// The first descriptor after the standard ones.
const FIRST_OTHER: RawFd = 3;

/// The child's standard input, output and error.
pub(super) struct Standard {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Starts a program in a process group of its own, with these three descriptors and no others.
///
/// # Errors
///
/// The system's reason, or `InvalidInput` for text with a NUL.
pub(super) fn posix_spawn(command: &Command, standard: &Standard) -> io::Result<Pid> {
    let program = text(find(command).as_os_str())?;
    let arguments = std::iter::once(&command.argv0).chain(&command.args);
    let arguments = arguments
        .map(|argument| text(argument))
        .collect::<io::Result<Vec<_>>>()?;
    let variables = command.environment.iter().map(|(name, value)| {
        let mut entry = name.clone();
        entry.push("=");
        entry.push(value);
        text(&entry)
    });
    let variables = variables.collect::<io::Result<Vec<_>>>()?;
    let actions = Actions::new(command, standard)?;
    let attributes = Attributes::new()?;
    let (argv, envp) = (pointers(&arguments), pointers(&variables));
    let mut pid = 0;
    // SAFETY: every pointer is to initialised data that lives until the call returns; both arrays
    // end with a null pointer, and the C library does not write to what they point at.
    let result = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.raw,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    check(result)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn gave no process id"))
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

fn text(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

fn pointers(texts: &[CString]) -> Vec<*mut c_char> {
    texts
        .iter()
        .map(|text| text.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// The file of a program. A name without a slash is looked up in the PATH that the child gets.
fn find(command: &Command) -> PathBuf {
    let name = command.program.as_os_str();
    let path = command
        .environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, path)| path);
    if name.as_bytes().contains(&b'/') {
        return command.program.clone();
    }
    let candidates = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join(name));
    let is_program = |file: &PathBuf| Path::is_file(file) && access(file, Access::EXEC_OK).is_ok();
    candidates
        .into_iter()
        .find(is_program)
        .unwrap_or_else(|| command.program.clone())
}

struct Actions {
    raw: libc::posix_spawn_file_actions_t,
    /// Copies above the standard descriptors, so that no copy overwrites the source of the next.
    /// They stay open until the spawn.
    copies: [OwnedFd; 3],
    directory: Option<CString>,
}

impl Actions {
    fn new(command: &Command, standard: &Standard) -> io::Result<Self> {
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OTHER);
        let copies = [
            copy(&standard.stdin)?,
            copy(&standard.stdout)?,
            copy(&standard.stderr)?,
        ];
        let directory = command
            .directory
            .as_ref()
            .map(|directory| text(directory.as_os_str()))
            .transpose()?;
        let mut raw = MaybeUninit::uninit();
        // SAFETY: initialises the structure that it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above has succeeded.
        let mut actions = Self {
            raw: unsafe { raw.assume_init() },
            copies,
            directory,
        };
        let raw = &raw mut actions.raw;
        for (copy, target) in actions.copies.iter().zip(0..) {
            // SAFETY: the structure is initialised.
            check(unsafe {
                libc::posix_spawn_file_actions_adddup2(raw, copy.as_raw_fd(), target)
            })?;
        }
        if let Some(directory) = &actions.directory {
            // SAFETY: the structure is initialised, and the text lives as long as it.
            check(unsafe { posix_spawn_file_actions_addchdir_np(raw, directory.as_ptr()) })?;
        }
        close_others(raw)?;
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: the structure is initialised and not used any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.raw) };
    }
}

unsafe extern "C" {
    /// In every C library of today (glibc 2.29, musl 1.1.24), but not in each module of the `libc`
    /// crate.
    fn posix_spawn_file_actions_addchdir_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        path: *const c_char,
    ) -> c_int;
}

type CloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

/// Has everything above the standard descriptors closed in the child.
fn close_others(actions: *mut libc::posix_spawn_file_actions_t) -> io::Result<()> {
    static CLOSE_FROM: OnceLock<Option<CloseFrom>> = OnceLock::new();
    let close_from = CLOSE_FROM.get_or_init(|| {
        // SAFETY: looks a name up. Where the C library has this function (glibc 2.34 and newer), it
        // has this signature.
        unsafe {
            let address = libc::dlsym(
                libc::RTLD_DEFAULT,
                c"posix_spawn_file_actions_addclosefrom_np".as_ptr(),
            );
            (!address.is_null())
                .then(|| std::mem::transmute::<*mut libc::c_void, CloseFrom>(address))
        }
    });
    if let Some(close_from) = close_from {
        // SAFETY: the caller's structure is initialised.
        return check(unsafe { close_from(actions, FIRST_OTHER) });
    }
    // An older C library: those that are open now. What another thread opens for `exec` until the
    // spawn is missed.
    let open = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    for fd in open.filter(|fd| *fd >= FIRST_OTHER) {
        // SAFETY: the structure is initialised; closing what is not open any more is no error here.
        check(unsafe { libc::posix_spawn_file_actions_addclose(actions, fd) })?;
    }
    Ok(())
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: initialises the structure that it is given.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above has succeeded.
        let mut attributes = Self(unsafe { raw.assume_init() });
        let raw = &raw mut attributes.0;
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = c_short::try_from(flags).map_err(io::Error::other)?;
        let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the structure is initialised, and so is each set before it is read.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(raw, signals.as_ptr()))?;
            libc::sigfillset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(raw, signals.as_ptr()))?;
            check(libc::posix_spawnattr_setpgroup(raw, 0))?;
            check(libc::posix_spawnattr_setflags(raw, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the structure is initialised and not used any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

//! The file of a Unix socket that listens.
//!
//! A [`SocketFile`] owns the file and its lock. Invariants: only the holder of the lock
//! `<path>.lock` may replace a stale socket file, and nothing but a socket is ever removed. The
//! file is open to its owner alone from the start. At the end the file is removed only if it is
//! still the one that this listener made.
//!
//! It accepts no connections and checks no peer.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::net::UnixListener;

use crate::error::{Error, ErrorKind};

/// Connections that wait to be accepted; the kernel holds it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// The file of a Unix socket. Its listener holds a lock on a second file, `<path>.lock`, so a
/// socket file without that lock is stale. The lock's file stays, since removing it would let two
/// hold it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
    _lock: File,
}

impl SocketFile {
    /// Listens at a path, in an async runtime.
    ///
    /// # Errors
    ///
    /// `BadOption` if another kind of file is there, `Os` if another listener uses the path, or for
    /// what the operating system refuses.
    pub(crate) fn listen(path: &Path) -> Result<(UnixListener, Self), Error> {
        let os = |error: io::Error| Error::os(format!("listen at {}", path.display()), error);
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(os)?,
            Ok(_) => {
                let text = format!(
                    "listen at {}: the file there is not a socket; remove it or choose another path",
                    path.display()
                );
                return Err(Error::new(ErrorKind::BadOption, text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(os(error)),
        }
        let address = SocketAddrUnix::new(path).map_err(|error| os(error.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| os(error.into()))?;
        // Of the socket, not of its name, which could be another file's by then: the file gets what
        // the socket has (less the umask).
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| os(error.into()))?;
        bind(&socket, &address).map_err(|error| os(error.into()))?;
        listen(&socket, BACKLOG).map_err(|error| os(error.into()))?;
        let inode = fs::symlink_metadata(path).map_err(os)?.ino();
        let listener = UnixListener::from_std(socket.into()).map_err(os)?;
        let file = Self {
            path: path.to_owned(),
            inode,
            _lock: lock,
        };
        Ok((listener, file))
    }

    #[cfg(feature = "remote")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another program may have put its own file there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_follow)
        .open(&name);
    let file =
        file.map_err(|error| Error::os(format!("open the lock of {}", path.display()), error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let text = format!("listen at {}: another listener uses it", path.display());
        Error::new(ErrorKind::Os, text).with_source(io::Error::from(error))
    })?;
    Ok(file)
}

//! The sockets below the handshake: TCP and Unix sockets, their options, and the files of the
//! latter.
//!
//! A `ListeningSocket` owns its socket and, for a Unix socket, the file and its lock. A
//! `RawConnection` is a connection before the handshake.
//!
//! Invariants: only the holder of the lock `<path>.lock` may replace a stale socket file, and
//! nothing but a socket is ever removed. The file is open to its owner alone from the start. At the
//! end the file is removed only if it is still the one that this listener made. TCP connections
//! notice a vanished peer within about half a minute.
//!
//! Nothing here authenticates, reads or writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

use super::authenticated::TransportStream;
use super::host_addr::HostAddr;
use super::peer::Peer;
use crate::error::{Error, ErrorKind};

/// A peer that vanished without closing the connection is noticed after about half a minute, even
/// where no heartbeats are sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// What was sent and not acknowledged for so long ends the connection (tcp(7), `TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED_MS: u32 = 20_000;
/// Connections that wait to be accepted; the kernel holds it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// A connection of which nothing is known.
pub(super) enum RawConnection {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl RawConnection {
    pub(super) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(_, address) => Ok(Peer::Net(*address)),
            Self::Unix(stream) => {
                let credentials = sockopt::socket_peercred(stream)?;
                let process = u32::try_from(credentials.pid.as_raw_nonzero().get()).unwrap_or(0);
                Ok(Peer::Unix {
                    user: credentials.uid.as_raw(),
                    process,
                })
            }
        }
    }

    pub(super) fn into_stream(self) -> Box<dyn TransportStream> {
        match self {
            Self::Tcp(stream, _) => Box::new(stream),
            Self::Unix(stream) => Box::new(stream),
        }
    }

    fn tcp(stream: TcpStream, address: SocketAddr) -> Self {
        // They fail only where the peer is gone already, which the first read reports.
        set_options(&stream).ok();
        Self::Tcp(stream, address)
    }
}

fn set_options(stream: &TcpStream) -> Result<(), rustix::io::Errno> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)
}

/// Connects, and sends nothing.
pub(super) async fn connect(address: &HostAddr) -> Result<RawConnection, Error> {
    let unreachable =
        |error| Error::new(ErrorKind::Unreachable, "connect to the listener").with_source(error);
    match address {
        HostAddr::Unix(path) => Ok(RawConnection::Unix(
            UnixStream::connect(path).await.map_err(unreachable)?,
        )),
        HostAddr::Net { .. } => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in addresses(address).await? {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(RawConnection::tcp(stream, address)),
                    Err(error) => last = error,
                }
            }
            Err(unreachable(last))
        }
    }
}

/// The addresses behind a host name.
async fn addresses(address: &HostAddr) -> Result<Vec<SocketAddr>, Error> {
    let HostAddr::Net { host, port, .. } = address else {
        return Ok(Vec::new());
    };
    let found = lookup_host((&**host, *port)).await;
    Ok(found
        .map_err(|error| {
            Error::new(ErrorKind::Unreachable, "find the listener's host").with_source(error)
        })?
        .collect())
}

/// A socket that listens.
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl ListeningSocket {
    pub(super) async fn open(address: &HostAddr) -> Result<Self, Error> {
        let what = |error| Error::new(ErrorKind::Os, "listen").with_source(error);
        if let HostAddr::Unix(path) = address {
            let (socket, file) = SocketFile::listen(path)?;
            return Ok(Self::Unix(
                UnixListener::from_std(socket).map_err(what)?,
                file,
            ));
        }
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses(address).await? {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(Self::Tcp(listener)),
                Err(error) => last = error,
            }
        }
        Err(what(last))
    }

    /// Where it listens, with the port that the system chose.
    pub(super) fn url(&self, address: &HostAddr) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => {
                let scheme = if address.is_tls() { "tls" } else { "tcp" };
                Ok(format!("{scheme}://{}", listener.local_addr()?))
            }
            Self::Unix(_, file) => Ok(format!("unix://{}", file.path.display())),
        }
    }

    /// Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<RawConnection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(RawConnection::tcp(stream, address))
            }
            Self::Unix(listener, _) => Ok(RawConnection::Unix(listener.accept().await?.0)),
        }
    }
}

/// The file of a Unix socket. Its listener holds a lock on a second file, `<path>.lock`, so a socket
/// file without that lock is stale. The lock's file stays, since removing it would let two hold it.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
    _lock: File,
}

impl SocketFile {
    fn listen(path: &Path) -> Result<(std::os::unix::net::UnixListener, Self), Error> {
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
        Ok((
            socket.into(),
            Self {
                path: path.to_owned(),
                inode,
                _lock: lock,
            },
        ))
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

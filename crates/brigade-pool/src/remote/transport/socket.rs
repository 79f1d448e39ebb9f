//! The sockets below the handshake: TCP and Unix sockets, their options, and the files of the
//! latter.
//!
//! A `ListeningSocket` owns its socket and, for a Unix socket, the file (`link::SocketFile`). A
//! `RawConnection` is a connection before the handshake.
//!
//! Invariant: TCP connections notice a vanished peer within about half a minute.
//!
//! Nothing here authenticates, reads or writes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

use super::authenticated::TransportStream;
use super::host_addr::HostAddr;
use super::peer::Peer;
use crate::error::{Error, ErrorKind};
use crate::link::SocketFile;

/// A peer that vanished without closing the connection is noticed after about half a minute, even
/// where no heartbeats are sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// What was sent and not acknowledged for so long ends the connection (tcp(7), `TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED_MS: u32 = 20_000;

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
            return Ok(Self::Unix(socket, file));
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
            Self::Unix(_, file) => Ok(format!("unix://{}", file.path().display())),
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

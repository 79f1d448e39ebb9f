//! The other end of a connection: its address, and what it authenticated with.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// Another end of a TCP connection.
    Net(SocketAddr),
    /// A process of this host.
    Unix {
        /// Its user.
        user: u32,
        /// Its number, as it connected.
        process: u32,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Unix { user, process } => write!(f, "process {process} of user {user}"),
        }
    }
}

/// What limits and logs count as one origin: an IPv4 address, a /64 network of IPv6 (which one host
/// may have to itself), or a user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerOrigin {
    V4([u8; 4]),
    V6([u16; 4]),
    Unix(u32),
}

impl Peer {
    pub(super) fn origin(&self) -> PeerOrigin {
        match self {
            Self::Unix { user, .. } => PeerOrigin::Unix(*user),
            Self::Net(address) => match address.ip().to_canonical() {
                IpAddr::V4(address) => PeerOrigin::V4(address.octets()),
                IpAddr::V6(address) => {
                    let [a, b, c, d, ..] = address.segments();
                    PeerOrigin::V6([a, b, c, d])
                }
            },
        }
    }

    /// Only our own user may connect to a Unix socket. The file's mode says so too; this checks the
    /// process.
    pub(super) fn is_own_user(&self) -> bool {
        match self {
            Self::Unix { user, .. } => *user == rustix::process::geteuid().as_raw(),
            Self::Net(_) => true,
        }
    }
}

/// What a peer authenticated with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// It has the shared key.
    Key,
    /// A certificate that the authority of our credentials has signed, with these DNS names.
    Certificate(Vec<String>),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("key"),
            Self::Certificate(names) => write!(f, "certificate {}", names.join(", ")),
        }
    }
}

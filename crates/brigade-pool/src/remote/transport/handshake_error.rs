//! Why a handshake failed, as a listener counts it and as a person reads it.

use std::io;

use super::opening::{OPENING_BYTES, Side, VERSION};
use super::refusals::Reason;
use super::tls;
use crate::error::{Error, ErrorKind};

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The peer sent something else than an opening. Its first bytes.
    UnknownProtocol([u8; OPENING_BYTES]),
    Version(u16),
    /// One side uses a key and the other does not. Whether the peer does.
    OneKey {
        theirs: bool,
    },
    /// The listener does not allow the names of this side's certificate.
    Name,
    /// The peer does not have the same key.
    Proof,
    /// The peer ended the connection, before or after its opening.
    Closed {
        after_opening: bool,
    },
    Broken(io::Error),
    /// The cryptography of this side failed.
    Unable(snow::Error),
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        Self::Unable(error)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl HandshakeError {
    pub(super) fn reading(error: io::Error, after_opening: bool) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed { after_opening },
            _ => Self::Broken(error),
        }
    }

    /// Under which reason a listener counts it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::UnknownProtocol(_) => Reason::UnknownProtocol,
            Self::Version(_) => Reason::Version,
            Self::Name => Reason::Name,
            Self::OneKey { .. } | Self::Proof => Reason::Key,
            Self::Closed { .. } | Self::Broken(_) | Self::Unable(_) => Reason::Closed,
        }
    }

    /// The error for a person on this side.
    pub(super) fn explain(self, side: Side) -> Error {
        let (peer, this) = match side {
            Side::Connects => ("the listener", "these credentials"),
            Side::Listens => ("the peer", "the listener's credentials"),
        };
        match self {
            // The start of a TLS alert, or of a TLS handshake.
            Self::UnknownProtocol([0x15 | 0x16, 3, ..]) => protocol(format!(
                "read {peer}'s handshake: it speaks TLS; write tls:// on both sides, or tcp:// on both"
            )),
            Self::UnknownProtocol(_) => protocol(format!(
                "read {peer}'s handshake: the program at the other end is not Brigade"
            )),
            Self::Version(theirs) => protocol(format!(
                "agree on a version: {peer} speaks version {theirs} of the handshake and this program \
                    {VERSION}"
            )),
            Self::OneKey { theirs: true } => refused(format!(
                "authenticate: {peer} uses a key and {this} have none"
            )),
            Self::OneKey { theirs: false } => refused(format!(
                "authenticate: {peer} has no key and {this} have one"
            )),
            Self::Name => refused(format!(
                "join {peer}: it allows none of the names in this side's certificate \
                    (Credentials::allow_names)"
            )),
            Self::Proof => refused(format!("trust {peer}: its key is a different one")),
            Self::Closed {
                after_opening: true,
            } => refused(format!(
                "authenticate: {peer} ended the connection; the keys differ"
            )),
            Self::Closed {
                after_opening: false,
            } => {
                let text = format!(
                    "read {peer}'s handshake: it ended the connection; it is busy, or expects TLS \
                        (tls://)"
                );
                Error::new(ErrorKind::Unreachable, text)
            }
            Self::Broken(error) => {
                Error::new(ErrorKind::Unreachable, format!("shake hands with {peer}"))
                    .with_source(error)
            }
            Self::Unable(error) => Error::new(
                ErrorKind::Unsupported,
                format!("encrypt the connection to {peer}"),
            )
            .with_source(error),
        }
    }
}

impl HandshakeError {
    /// The same over TLS, which may be what failed.
    pub(super) fn explain_over_tls(self, side: Side) -> Error {
        match self {
            Self::Broken(error) => tls::explain(error, side),
            other => other.explain(side),
        }
    }
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::Refused, text)
}

fn protocol(text: String) -> Error {
    Error::new(ErrorKind::Protocol, text)
}

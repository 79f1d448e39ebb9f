//! Why a handshake failed: for the peer's side, the counts of a listener, and a person.

use std::io;

use super::opening::{OPENING_BYTES, Side, VERSION};
use super::refusals::Reason;
use super::tls;
use crate::error::{Error, ErrorKind};

/// Why a handshake did not come to its end.
#[derive(Debug)]
pub(super) enum Gone {
    /// What came is no opening. Its first bytes.
    UnknownProtocol([u8; OPENING_BYTES]),
    Version(u16),
    /// One side proves a key and the other does not. Whether the peer does.
    OneKey {
        theirs: bool,
    },
    /// The listener does not allow the names of this side's certificate.
    Name,
    /// The peer's proof does not hold.
    Proof,
    /// The peer ended the connection before it said its opening, or after.
    Closed {
        after_opening: bool,
    },
    Broken(io::Error),
    /// This side cannot take part.
    Unable(snow::Error),
}

impl From<snow::Error> for Gone {
    fn from(error: snow::Error) -> Self {
        Self::Unable(error)
    }
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Gone {
    pub(super) fn reading(error: io::Error, after_opening: bool) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed { after_opening },
            _ => Self::Broken(error),
        }
    }

    /// How the listener counts it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::UnknownProtocol(_) => Reason::UnknownProtocol,
            Self::Version(_) => Reason::Version,
            Self::Name => Reason::Name,
            Self::OneKey { .. } | Self::Proof => Reason::Key,
            Self::Closed { .. } | Self::Broken(_) | Self::Unable(_) => Reason::Closed,
        }
    }

    /// What it means to a person on this side.
    pub(super) fn explain(self, side: Side) -> Error {
        let (peer, this) = match side {
            Side::Connects => ("the listener", "these credentials"),
            Side::Listens => ("the peer", "the listener's credentials"),
        };
        match self {
            // The start of a TLS alert, or of a TLS handshake.
            Self::UnknownProtocol([0x15 | 0x16, 3, ..]) => protocol(format!(
                "read {peer}'s hello: it speaks TLS; write tls:// on both sides, or tcp:// on both"
            )),
            Self::UnknownProtocol(_) => protocol(format!(
                "read {peer}'s hello: what answers there is not Brigade"
            )),
            Self::Version(theirs) => protocol(format!(
                "agree on a version: {peer} speaks version {theirs} of the door and this program \
                    {VERSION}"
            )),
            Self::OneKey { theirs: true } => refused(format!(
                "prove the key: {peer} wants one and {this} have none"
            )),
            Self::OneKey { theirs: false } => refused(format!(
                "prove the key: {peer} has none and {this} have one"
            )),
            Self::Name => refused(format!(
                "join {peer}: it allows none of the names in this side's certificate \
                    (Credentials::allow_names)"
            )),
            Self::Proof => refused(format!("believe {peer}: its key is another one")),
            Self::Closed {
                after_opening: true,
            } => refused(format!(
                "prove the key: {peer} ended the connection; the keys differ"
            )),
            Self::Closed {
                after_opening: false,
            } => {
                let text = format!(
                    "read {peer}'s hello: it ended the connection; it is busy, or wants TLS \
                        (tls://)"
                );
                Error::new(ErrorKind::Unreachable, text)
            }
            Self::Broken(error) => {
                Error::new(ErrorKind::Unreachable, format!("greet {peer}")).with_source(error)
            }
            Self::Unable(error) => Error::new(
                ErrorKind::Unsupported,
                format!("encrypt the connection to {peer}"),
            )
            .with_source(error),
        }
    }
}

impl Gone {
    /// The same where TLS is below and may be what failed.
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

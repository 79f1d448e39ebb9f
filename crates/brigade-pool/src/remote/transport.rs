//! The door between hosts: an authenticated, ordered byte stream whose bytes nobody read or
//! changed, before any other message.
//!
//! [`Listener`] accepts and [`connect`] connects; both give an [`Authenticated`]. Three layers,
//! each of which ends the connection when it does not hold:
//!
//! 1. a socket: TCP or a Unix socket (`socket`); with `tls://`, TLS 1.3 upon it (`tls`);
//! 2. the handshake (`hello`): each side proves that it has the key, by the Noise protocol with a
//!    shared key. The key is never sent, a recording is worth nothing, and neither side can be
//!    taken for the other;
//! 3. without TLS, records (`record`, `stream`), encrypted by the keys of that handshake.
//!    Duplicated, dropped, reordered, cut or changed bytes are an error of the stream, never other
//!    bytes.
//!
//! The listening side sends nothing but its opening before the peer has proved itself. Who owns
//! what: a `Listener` owns the handshakes under way and drives them while `accept` is awaited;
//! nothing here spawns. It does not know what is said through the stream, does not connect again,
//! and keeps no list of those it let in.

mod credentials;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hello;
mod host_addr;
mod key;
mod listener;
mod pem;
mod pending;
mod record;
mod refusals;
mod socket;
mod stream;
#[cfg(feature = "remote-tls")]
mod tls;
#[cfg(not(feature = "remote-tls"))]
#[path = "transport/no_tls.rs"]
mod tls;

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use credentials::Credentials;
pub use key::generate_key;
pub use listener::{Listener, ListenerLimits, RefusalCount};
pub use pem::Pem;
pub use record::Damage;
pub use refusals::Refusals;
pub use socket::Peer;

use crate::error::{Error, ErrorKind};
use hello::Side;
use host_addr::HostAddr;
use socket::Raw;

/// Both sides give up a handshake after this time, however much of it came by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the name and the connection itself.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What carries an authenticated connection.
pub trait TransportStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> TransportStream for T {}

/// A connection whose peer has proved itself.
///
/// Flush after the last write: what is written may wait within. A read at the end gives zero bytes
/// only if the peer ended the stream (`shutdown`); a connection that was cut is an error. See
/// [`Damage`] for bytes that somebody changed.
pub struct Authenticated {
    /// The connection.
    pub stream: Box<dyn TransportStream>,
    /// Where it comes from.
    pub peer: Peer,
    /// As what it proved itself.
    pub identity: Identity,
}

/// As what a peer proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// It has the shared key.
    Key,
    /// Its certificate is vouched for. The DNS names of it.
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

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated")
            .field("peer", &self.peer)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Connects to a listener: `tcp://host:port`, `tls://host:port` or `unix:///path`. Returns within
/// 10 seconds.
///
/// # Errors
///
/// `BadOption` for a URL or credentials that cannot be used; `Unreachable` if nobody answers there
/// or the listener is too busy; `Refused` if one side's proof does not hold, or the two sides do
/// not want the same proofs; `Protocol` if what answers is no listener or one of another version.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn connect(url: &str, credentials: &Credentials) -> Result<Authenticated, Error> {
    let place = HostAddr::parse(url)?;
    credentials.check(&place, Side::Connects)?;
    let connecting = timeout(CONNECT_TIMEOUT, socket::connect(&place)).await;
    let raw = connecting
        .unwrap_or_else(|_| Err(unreachable("connect to the listener: nobody answers")))?;
    let shaking = timeout(HANDSHAKE_TIMEOUT, greet(raw, &place, credentials)).await;
    shaking.unwrap_or_else(|_| {
        Err(unreachable(
            "greet the listener: it does not answer in time",
        ))
    })
}

async fn greet(
    raw: Raw,
    place: &HostAddr,
    credentials: &Credentials,
) -> Result<Authenticated, Error> {
    let peer = raw.peer().map_err(|error| {
        Error::new(ErrorKind::Unreachable, "connect to the listener").with_source(error)
    })?;
    if !peer.is_own_user() {
        return Err(Error::new(
            ErrorKind::Refused,
            "believe the listener: it is a process of another user",
        ));
    }
    let mut socket = raw.into_stream();
    let HostAddr::Net {
        host, tls: true, ..
    } = place
    else {
        let session = hello::connecting(&mut socket, credentials.secret(), &[0; 32]).await;
        let session = session.map_err(|gone| gone.explain(Side::Connects))?;
        return Ok(Authenticated {
            stream: stream::sealed(socket, session),
            peer,
            identity: Identity::Key,
        });
    };
    let (mut stream, binding, identity) = tls::connect(credentials, host, socket).await?;
    let session = hello::connecting(&mut stream, credentials.secret(), &binding).await;
    // With TLS 1.3 the listener tells only now that it does not accept a certificate. TLS encrypts,
    // so the session is not needed further.
    session.map_err(|gone| gone.explain_over_tls(Side::Connects))?;
    Ok(Authenticated {
        stream,
        peer,
        identity: identity.unwrap_or(Identity::Key),
    })
}

fn unreachable(text: &'static str) -> Error {
    Error::new(ErrorKind::Unreachable, text)
}

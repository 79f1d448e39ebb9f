//! A connection whose peer has authenticated.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};

use super::peer::{Identity, Peer};

/// What carries an authenticated connection.
pub trait TransportStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> TransportStream for T {}

/// A connection whose peer has authenticated.
///
/// Flush after the last write: written bytes may wait in a buffer. A read at the end gives zero
/// bytes only if the peer ended the stream (`shutdown`); a connection that was cut is an error. See
/// [`Damage`](super::Damage) for bytes that were changed on the way.
pub struct Authenticated {
    /// The connection.
    pub stream: Box<dyn TransportStream>,
    /// Where it comes from.
    pub peer: Peer,
    /// What it authenticated with.
    pub identity: Identity,
}

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated")
            .field("peer", &self.peer)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

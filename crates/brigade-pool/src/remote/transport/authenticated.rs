//! A connection whose peer has proved who it is.

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};

use super::peer::{Identity, Peer};

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

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated")
            .field("peer", &self.peer)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

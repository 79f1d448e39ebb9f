//! Connections between hosts: an authenticated, encrypted, ordered byte stream.
//!
//! [`Listener`] accepts and `connect` connects; both give an [`Authenticated`]. There are three
//! layers, and each ends the connection when its check fails:
//!
//! 1. a socket: TCP or a Unix socket (`socket`); with `tls://`, TLS 1.3 over it (`tls`);
//! 2. the handshake (`hello`): each side proves that it has the key, by the Noise protocol with a
//!    shared key. The key is never sent, a recorded handshake cannot be replayed, and neither side
//!    can pose as the other;
//! 3. without TLS, records (`record`, `stream`), encrypted with the keys of that handshake.
//!    Duplicated, dropped, reordered, cut or changed bytes are an error of the stream, never other
//!    bytes.
//!
//! Until the peer has authenticated, the listening side sends nothing but its opening. A `Listener`
//! owns the handshakes under way and drives them while `accept` is awaited; nothing here spawns.
//! This module does not know the messages in the stream, does not reconnect, and keeps no list of
//! the peers that it accepted.

mod authenticated;
mod connect;
mod credentials;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake_error;
mod hello;
mod host_addr;
mod key;
mod listener;
mod opening;
mod peer;
mod pem;
mod pending;
mod record;
mod refusals;
mod socket;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "transport/no_tls.rs"]
mod tls;

pub use authenticated::{Authenticated, TransportStream};
pub use connect::connect;
pub use credentials::Credentials;
pub use key::generate_key;
pub use listener::{Listener, ListenerLimits, RefusalCount};
pub use peer::{Identity, Peer};
pub use pem::Pem;
pub use record::Damage;
pub use refusals::Refusals;

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
#[cfg(feature = "remote-tls")]
mod tls;
#[cfg(not(feature = "remote-tls"))]
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

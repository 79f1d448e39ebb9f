//! Workers on other hosts: they connect to a pool that listens, and are links like local ones.
//!
//! [`Credentials`] are what both sides show each other before anything else is said.

#[doc(hidden)]
pub mod door;

pub use door::{Credentials, Identity, Peer, Pem, Refusals};

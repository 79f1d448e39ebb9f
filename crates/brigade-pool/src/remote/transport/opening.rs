//! The opening: the first bytes that each side of a handshake sends. `hello` shows its layout.

use super::key::Key;

/// Version of the handshake. Sides of different versions refuse each other.
pub(super) const VERSION: u16 = 2;
pub(super) const MAGIC: [u8; 4] = *b"BRGD";
/// The side uses a key. Both must, or neither.
pub(super) const FLAG_KEY: u8 = 1;
/// The listener allows none of the names in the peer's certificate.
pub(super) const FLAG_NAME: u8 = 2;
pub(super) const OPENING_BYTES: usize = 8;
/// Binds the handshake to the connection below it: the exporter of TLS, else zeros.
pub(super) type Binding = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Connects = 0,
    Listens = 1,
}

pub(super) fn flags(key: Option<&Key>) -> u8 {
    if key.is_some() { FLAG_KEY } else { 0 }
}

pub(super) fn opening(side: Side, key: Option<&Key>) -> [u8; OPENING_BYTES] {
    let ([m0, m1, m2, m3], [v0, v1]) = (MAGIC, VERSION.to_le_bytes());
    [m0, m1, m2, m3, v0, v1, flags(key), side as u8]
}

//! Records: what a byte stream without TLS is cut into, encrypted. No IO.
//!
//! ```text
//! 0        2
//! | length | sealed bytes (length) ..
//! ```
//!
//! `length` is a u16, little endian. The sealed bytes are one transport message of the Noise
//! session: the plain bytes, encrypted, and a tag of 16 bytes. The number of the record is the
//! nonce: both sides count it and it is not sent, so a record that was repeated, left out, moved or
//! changed does not open. A record without plain bytes ends the stream: a connection that ends
//! without it was cut.
//!
//! The length itself is not sealed. A changed length makes the reader open other bytes than were
//! sealed, which fails, or wait for bytes that do not come, which ends by the heartbeat; it never
//! gives out other bytes.

use std::fmt;
use std::io;

use bytes::BytesMut;
use snow::TransportState;

/// Bytes of a record before its sealed ones.
pub(super) const HEAD_BYTES: usize = 2;
/// By how much a record is longer than what is in it (Noise specification, section 3).
pub(super) const TAG_BYTES: usize = 16;
/// Most plain bytes of a record: a Noise message has at most 65,535 bytes, the tag included.
pub(super) const BYTES_MAX: usize = 65_535 - TAG_BYTES;

/// What was wrong with the bytes of a connection. It is the source of the stream's [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Bytes are not those that the peer sent, or not in their place.
    Changed,
    /// The connection ended before the peer ended the stream.
    Cut,
}

/// Appends a record of these bytes, at most [`BYTES_MAX`].
///
/// # Errors
///
/// When the session has used up its nonces, after 2^64 records.
pub(super) fn seal(
    session: &mut TransportState,
    plain: &[u8],
    out: &mut BytesMut,
) -> io::Result<()> {
    let start = out.len();
    let sealed_bytes = plain.len() + TAG_BYTES;
    let length =
        u16::try_from(sealed_bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.resize(start + HEAD_BYTES + sealed_bytes, 0);
    session
        .write_message(plain, &mut out[start + HEAD_BYTES..])
        .map_err(io::Error::other)?;
    Ok(())
}

/// How many sealed bytes the record has that begins so.
pub(super) fn sealed_bytes(head: [u8; HEAD_BYTES]) -> Result<usize, Damage> {
    let length = usize::from(u16::from_le_bytes(head));
    if length < TAG_BYTES {
        Err(Damage::Changed)
    } else {
        Ok(length)
    }
}

/// Opens the sealed bytes of the next record into `plain`, of at least [`BYTES_MAX`] bytes, and
/// says how many there are. After an error the connection is of no use.
pub(super) fn open(
    session: &mut TransportState,
    sealed: &[u8],
    plain: &mut [u8],
) -> Result<usize, Damage> {
    session
        .read_message(sealed, plain)
        .map_err(|_| Damage::Changed)
}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        let kind = match damage {
            Damage::Changed => io::ErrorKind::InvalidData,
            Damage::Cut => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, damage)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => {
                "bytes of the connection were changed, lost, repeated or put in another order"
            }
            Self::Cut => "the connection was cut",
        })
    }
}

impl std::error::Error for Damage {}

#[cfg(test)]
mod tests {
    use super::super::hello::sessions;
    use super::*;

    fn sealed(session: &mut TransportState, bytes: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        seal(session, bytes, &mut out).unwrap();
        out.to_vec()
    }

    fn opened(session: &mut TransportState, record: &[u8]) -> Result<Vec<u8>, Damage> {
        let (head, rest) = record.split_first_chunk().unwrap();
        assert_eq!(sealed_bytes(*head)?, rest.len());
        let mut plain = vec![0; BYTES_MAX];
        open(session, rest, &mut plain).map(|bytes| plain[..bytes].to_vec())
    }

    #[test]
    fn records_open_in_their_order_only() {
        let (mut ours, mut theirs) = sessions(1);
        let first = sealed(&mut ours, b"one");
        let second = sealed(&mut ours, b"two");
        assert_eq!(
            opened(&mut theirs, &second),
            Err(Damage::Changed),
            "one was left out"
        );
        assert_eq!(opened(&mut theirs, &first).unwrap(), b"one");
        assert_eq!(
            opened(&mut theirs, &first),
            Err(Damage::Changed),
            "one came twice"
        );
        assert_eq!(opened(&mut theirs, &second).unwrap(), b"two");
        assert_eq!(
            opened(&mut sessions(2).1, &first),
            Err(Damage::Changed),
            "another session"
        );
        assert_eq!(
            opened(&mut ours, &sealed(&mut sessions(1).0, b"one")),
            Err(Damage::Changed),
            "the other direction"
        );
    }

    #[test]
    fn nothing_in_a_record_is_readable() {
        let record = sealed(&mut sessions(1).0, b"attack at dawn");
        assert!(!record.windows(6).any(|window| window == b"attack"));
    }

    #[test]
    fn each_bit_counts() {
        let (mut ours, mut theirs) = sessions(1);
        let record = sealed(&mut ours, b"some bytes");
        // The length is read before it is checked, so the sealed bytes alone.
        for bit in HEAD_BYTES * 8..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                opened(&mut theirs, &flipped),
                Err(Damage::Changed),
                "bit {bit}"
            );
        }
        assert_eq!(opened(&mut theirs, &record).unwrap(), b"some bytes");
    }

    #[test]
    fn the_limit_holds_at_the_edge_and_one_past_it() {
        let (mut ours, mut theirs) = sessions(1);
        let longest = vec![7; BYTES_MAX];
        assert_eq!(
            opened(&mut theirs, &sealed(&mut ours, &longest)).unwrap(),
            longest
        );
        assert!(seal(&mut ours, &vec![7; BYTES_MAX + 1], &mut BytesMut::new()).is_err());
        assert_eq!(sealed_bytes([16, 0]), Ok(TAG_BYTES));
        assert_eq!(sealed_bytes([15, 0]), Err(Damage::Changed));
    }
}

//! Records: what a byte stream without TLS is cut into. No IO.
//!
//! ```text
//! 0        4         8         16
//! | length | head    | body    | bytes ..
//! |        | check   | check   |
//! ```
//!
//! Little endian. Both checks are HighwayHash-64 with the key of the connection and the direction, over one block of 32 bytes: the number of
//! the record (u64, from 0, counted by both sides and not sent), the length (u32), what is checked (u8: 1 the head, 2 the body) and
//! zeros; for the body, then its bytes. The head's check is the lower half of its hash. It comes first so that a changed length is noticed
//! at once instead of being waited for. A record without bytes ends the stream: an end of the connection without it is a cut.
//!
//! HighwayHash is fast and no attack on it is known, but it is no standard: it keeps a connection that is not encrypted in order, and
//! whoever needs more has `tls://`.

use std::fmt;
use std::io;

use highway::{HighwayHash as _, HighwayHasher, Key};

/// Bytes of a record before its own.
pub(super) const HEAD_BYTES: usize = 16;
/// Most bytes of a record: enough to make its head free, and small beside the memory of a connection.
pub(super) const BYTES_MAX: usize = 64 << 10;

const HEAD: u8 = 1;
const BODY: u8 = 2;

/// One direction of a connection: the key and the number of the next record.
pub(super) struct Line {
    key: Key,
    number: u64,
}

/// What was wrong with the bytes of a connection. It is the source of the stream's [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Bytes are not those that the peer sent, or not in their place.
    Changed,
    /// The connection ended before the peer ended the stream.
    Cut,
}

impl Line {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(key.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { key: Key(words), number: 0 }
    }

    /// The head of the next record.
    pub(super) fn seal(&mut self, parts: &[&[u8]]) -> [u8; HEAD_BYTES] {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(bytes).expect("a record is short");
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..8].copy_from_slice(&self.head_check(length));
        head[8..].copy_from_slice(&self.body_check(length, parts));
        self.number += 1;
        head
    }

    /// How many bytes the record has that begins so.
    pub(super) fn length(&self, head: &[u8; HEAD_BYTES]) -> Result<usize, Damage> {
        let [l0, l1, l2, l3, c0, c1, c2, c3, ..] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let bytes = length as usize;
        if self.head_check(length) == [c0, c1, c2, c3] && bytes <= BYTES_MAX { Ok(bytes) } else { Err(Damage::Changed) }
    }

    /// Whether this is the next record. After an error the connection is of no use.
    pub(super) fn open(&mut self, head: &[u8; HEAD_BYTES], bytes: &[u8]) -> Result<(), Damage> {
        let length = u32::try_from(bytes.len()).map_err(|_| Damage::Changed)?;
        if self.body_check(length, &[bytes]) != head[8..] {
            return Err(Damage::Changed);
        }
        self.number += 1;
        Ok(())
    }

    fn head_check(&self, length: u32) -> [u8; 4] {
        let [c0, c1, c2, c3, ..] = self.begin(length, HEAD).finalize64().to_le_bytes();
        [c0, c1, c2, c3]
    }

    fn body_check(&self, length: u32, parts: &[&[u8]]) -> [u8; 8] {
        let mut hasher = self.begin(length, BODY);
        for part in parts {
            hasher.append(part);
        }
        hasher.finalize64().to_le_bytes()
    }

    fn begin(&self, length: u32, what: u8) -> HighwayHasher {
        let mut block = [0; 32];
        block[..8].copy_from_slice(&self.number.to_le_bytes());
        block[8..12].copy_from_slice(&length.to_le_bytes());
        block[12] = what;
        let mut hasher = HighwayHasher::new(Key(self.key.0));
        hasher.append(&block);
        hasher
    }
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
            Self::Changed => "bytes of the connection were changed, lost, repeated or put in another order",
            Self::Cut => "the connection was cut",
        })
    }
}

impl std::error::Error for Damage {}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn sealed(line: &mut Line, bytes: &[u8]) -> Vec<u8> {
        [&line.seal(&[bytes])[..], bytes].concat()
    }

    fn open(line: &mut Line, record: &[u8]) -> Result<Vec<u8>, Damage> {
        let (head, bytes) = record.split_first_chunk().unwrap();
        if line.length(head)? != bytes.len() {
            return Err(Damage::Changed);
        }
        line.open(head, bytes).map(|()| bytes.to_vec())
    }

    #[test]
    fn records_open_in_their_order_only() {
        let (mut ours, mut theirs) = (Line::new(&KEY), Line::new(&KEY));
        let first = sealed(&mut ours, b"one");
        let second = sealed(&mut ours, b"two");
        assert_eq!(open(&mut Line::new(&KEY), &second), Err(Damage::Changed), "one was left out");
        assert_eq!(open(&mut theirs, &first).unwrap(), b"one");
        assert_eq!(open(&mut theirs, &first), Err(Damage::Changed), "one came twice");
        assert_eq!(open(&mut theirs, &second).unwrap(), b"two");
        assert_eq!(open(&mut Line::new(&[8; 32]), &first), Err(Damage::Changed), "another key");
    }

    #[test]
    fn parts_are_one_record() {
        let (mut one, mut other) = (Line::new(&KEY), Line::new(&KEY));
        assert_eq!(one.seal(&[b"he", b"", b"llo"]), other.seal(&[b"hello"]));
    }

    #[test]
    fn each_bit_counts() {
        let record = sealed(&mut Line::new(&KEY), b"some bytes");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&mut Line::new(&KEY), &flipped), Err(Damage::Changed), "bit {bit}");
        }
    }

    #[test]
    fn the_limit_holds_at_the_edge_and_one_past_it() {
        let line = Line::new(&KEY);
        let head = |length: u32| {
            let mut head = [0; HEAD_BYTES];
            head[..4].copy_from_slice(&length.to_le_bytes());
            head[4..8].copy_from_slice(&line.head_check(length));
            head
        };
        assert_eq!(line.length(&head(64 << 10)), Ok(BYTES_MAX));
        assert_eq!(line.length(&head((64 << 10) + 1)), Err(Damage::Changed));
    }
}

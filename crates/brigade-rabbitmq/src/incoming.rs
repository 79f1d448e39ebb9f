//! A filter between the socket and lapin: it makes what other programs wrote readable.
//!
//! The broker hands on the properties and headers of a message as they came. lapin wants UTF-8 in
//! names and short strings, and reads nested tables by recursion; where it cannot read a frame it
//! ends the connection, the broker delivers the message again, and so one message would end every
//! consumer in turn, for ever. So each frame that may carry strings of others is changed in place,
//! without a change of its length:
//!
//! - A byte that is not UTF-8 becomes [`SUBSTITUTE`], a control character, which `checks` refuses:
//!   that message is a dead letter with the reason.
//! - A table or array deeper than [`DEPTH_MAX`] becomes a byte array, which has the same form on
//!   the wire.
//!
//! Only deliveries, returned messages and content headers are changed. What is not AMQP passes as
//! it is.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use lapin::types::{AMQPValue, parsing};
use tokio_util::codec::Decoder;

/// Stands for a byte that is not UTF-8.
pub(super) const SUBSTITUTE: u8 = 0x1a;
/// Of tables and arrays within one another.
const DEPTH_MAX: usize = 16;
/// Type, channel and size of a frame.
const HEAD: usize = 7;
/// Of all frames but bodies; the broker's own limit is 128 KiB by default.
const FRAME_BYTES_MAX: usize = 16 << 20;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// What the broker says of its version in its first frame; set with that, whatever it says.
pub(super) type Version = Arc<OnceLock<Option<String>>>;

/// Cuts what the broker sends into frames and makes each readable.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) version: Version,
}

impl Decoder for Frames {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        let Some(&[kind, _, _, a, b, c, d]) = bytes.first_chunk::<HEAD>() else {
            return Ok(not_amqp(bytes));
        };
        if !is_known(kind) {
            return Ok(not_amqp(bytes));
        }
        let size = u32::from_be_bytes([a, b, c, d]);
        // With the mark at its end.
        let whole = usize::try_from(size).unwrap_or(usize::MAX);
        let whole = whole.saturating_add(HEAD + 1);
        if kind != BODY && whole > FRAME_BYTES_MAX {
            let text = format!(
                "the broker sent a frame of {size} bytes where {FRAME_BYTES_MAX} are allowed"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // The buffer grows with what comes, not with the size that is announced.
        if bytes.len() < whole {
            return Ok(None);
        }
        let mut frame = bytes.split_to(whole);
        self.version.get_or_init(|| version_in(&frame));
        let mut content = Content {
            bytes: &mut frame[HEAD..whole - 1],
            at: 0,
        };
        // What ends early is left as it is: lapin says what is wrong with it.
        let _: Option<()> = match kind {
            METHOD => content.method(),
            HEADER => content.header(),
            _ => None,
        };
        Ok(Some(frame))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        let decoded = self.decode(bytes)?;
        Ok(decoded.or_else(|| (!bytes.is_empty()).then(|| bytes.split())))
    }
}

fn is_known(kind: u8) -> bool {
    matches!(kind, METHOD | HEADER | BODY | HEARTBEAT)
}

/// All of it, unless it may be the beginning of a frame.
fn not_amqp(bytes: &mut BytesMut) -> Option<BytesMut> {
    bytes
        .first()
        .is_some_and(|kind| !is_known(*kind))
        .then(|| bytes.split())
}

/// The version in the first frame, `connection.start`: class, method, protocol version, and the
/// table of the broker's properties.
fn version_in(frame: &[u8]) -> Option<String> {
    let (_, table) = parsing::parse_field_table(frame.get(HEAD + 6..)?).ok()?;
    match table.inner().get("version")? {
        AMQPValue::LongString(version) => Some(version.to_string()),
        _ => None,
    }
}

/// The content of a frame, and how far it has been looked at.
struct Content<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Content<'_> {
    /// Methods that carry names which other programs chose.
    fn method(&mut self) -> Option<()> {
        match (self.number(2)?, self.number(2)?) {
            // basic.deliver: consumer tag, delivery tag, whether it came before, exchange, routing
            // key.
            (60, 60) => {
                self.short()?;
                self.skip(9)?;
            }
            // basic.get-ok: delivery tag, whether it came before, exchange, routing key.
            (60, 71) => self.skip(9)?,
            // basic.return: code, text, exchange, routing key.
            (60, 50) => {
                self.skip(2)?;
                self.short()?;
            }
            _ => return Some(()),
        }
        self.short()?;
        self.short()
    }

    /// Class, weight, size of the body, flags, and the properties in the order of the flags.
    fn header(&mut self) -> Option<()> {
        self.skip(12)?;
        let flags = self.number(2)?;
        let has = |place: u32| flags & (1 << (15 - place)) != 0;
        for place in 0..14 {
            if has(place) {
                match place {
                    2 => self.table()?,
                    3 | 4 => self.skip(1)?,
                    9 => self.skip(8)?,
                    _ => self.short()?,
                }
            }
        }
        Some(())
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let start = self.at;
        self.skip(bytes)?;
        Some(
            self.bytes[start..self.at]
                .iter()
                .fold(0, |number, byte| (number << 8) | usize::from(*byte)),
        )
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        let end = self
            .at
            .checked_add(bytes)
            .filter(|end| *end <= self.bytes.len())?;
        self.at = end;
        Some(())
    }

    fn short(&mut self) -> Option<()> {
        let length = self.number(1)?;
        let start = self.at;
        self.skip(length)?;
        clean(&mut self.bytes[start..self.at]);
        Some(())
    }

    /// Walks through a table and all within it, with a stack of its own.
    fn table(&mut self) -> Option<()> {
        let length = self.number(4)?;
        let mut open = vec![(self.at.checked_add(length)?, true)];
        while let Some((end, is_table)) = open.last().copied() {
            if self.at >= end {
                open.pop();
                continue;
            }
            if is_table {
                self.short()?;
            }
            let kind = self.number(1)?;
            let place = self.at - 1;
            match u8::try_from(kind).unwrap_or_default() {
                b'V' => {}
                b't' | b'b' | b'B' => self.skip(1)?,
                b's' | b'u' | b'U' => self.skip(2)?,
                b'I' | b'i' | b'f' => self.skip(4)?,
                b'D' => self.skip(5)?,
                b'l' | b'L' | b'd' | b'T' => self.skip(8)?,
                within @ (b'A' | b'F') if open.len() < DEPTH_MAX => {
                    let length = self.number(4)?;
                    open.push((self.at.checked_add(length)?, within == b'F'));
                }
                bytes @ (b'S' | b'x' | b'A' | b'F') => {
                    if matches!(bytes, b'A' | b'F') {
                        self.bytes[place] = b'x';
                    }
                    let length = self.number(4)?;
                    self.skip(length)?;
                }
                _ => return None,
            }
        }
        Some(())
    }
}

fn clean(mut bytes: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(bytes) {
        let start = error.valid_up_to();
        let end = error
            .error_len()
            .map_or(bytes.len(), |length| start + length);
        bytes[start..end].fill(SUBSTITUTE);
        bytes = &mut bytes[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size, content, &[0xce]].concat()
    }

    /// A content header with this table as its headers, and a message id.
    fn header(table: &[u8], id: &[u8]) -> Vec<u8> {
        let flags: u16 = (1 << 13) | (1 << 7);
        let table_size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let id_size = u8::try_from(id.len()).unwrap();
        frame(
            HEADER,
            &[
                &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..],
                &flags.to_be_bytes(),
                &table_size,
                table,
                &[id_size],
                id,
            ]
            .concat(),
        )
    }

    /// So many arrays within one another, in a table.
    fn nested(depth: usize) -> Vec<u8> {
        let inner = (0..depth).fold(vec![b'V'], |inner, _| {
            [
                &[b'A'][..],
                &u32::try_from(inner.len()).unwrap().to_be_bytes(),
                &inner,
            ]
            .concat()
        });
        [&[1, b'k'][..], &inner].concat()
    }

    fn filtered(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        let mut buffer = BytesMut::new();
        for chunk in bytes.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = frames.decode(&mut buffer).unwrap() {
                out.extend_from_slice(&frame);
            }
        }
        out.extend(frames.decode_eof(&mut buffer).unwrap().unwrap_or_default());
        out
    }

    #[test]
    fn what_is_readable_passes_unchanged_however_it_is_cut() {
        let stream = [
            frame(
                METHOD,
                &[0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, b'q'],
            ),
            header(&nested(10), "päth".as_bytes()),
            frame(BODY, b"[\xff]"),
            frame(HEARTBEAT, b""),
        ]
        .concat();
        for step in [1, 2, 3, 7, 8, 64, stream.len()] {
            assert_eq!(filtered(&stream, step), stream, "{step}");
        }
        assert_eq!(
            filtered(b"HTTP/1.1 400 Bad Request", 5),
            b"HTTP/1.1 400 Bad Request"
        );
    }

    #[test]
    fn what_is_not_utf_8_is_replaced_and_keeps_its_length() {
        let stream = [
            frame(METHOD, b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\x01\xff\x02q\xc3"),
            header(b"\x02a\xfft\x01", b"id\xf0\x9f"),
        ]
        .concat();
        let out = filtered(&stream, 11);
        let wanted = [
            frame(METHOD, b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\x01\x1a\x02q\x1a"),
            header(b"\x02a\x1at\x01", b"id\x1a\x1a"),
        ]
        .concat();
        assert_eq!(out, wanted);
    }

    #[test]
    fn what_is_nested_too_deep_becomes_bytes() {
        let (deep, edge) = (
            header(&nested(20_000), b"id"),
            header(&nested(DEPTH_MAX - 1), b"id"),
        );
        assert_eq!(filtered(&edge, 64), edge);
        let out = filtered(&deep, 64);
        assert_eq!(out.len(), deep.len());
        let changed = out
            .iter()
            .zip(&deep)
            .filter(|(new, old)| new != old)
            .count();
        assert_eq!(changed, 1, "the kind of the one that is too deep");
        let over = header(&nested(DEPTH_MAX), b"id");
        assert_ne!(filtered(&over, 64), over);
    }

    #[test]
    fn frames_that_end_early_or_say_nonsense_are_left_to_their_reader() {
        for content in [
            &b""[..],
            b"\0",
            b"\0\x3c\0\x3c\xff",
            b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\xff\xff\xff",
            b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\x20\0\0\0\0\x09\x01k?",
        ] {
            for kind in [METHOD, HEADER] {
                let frame = frame(kind, content);
                assert_eq!(filtered(&frame, 3).len(), frame.len());
            }
        }
        let mut endless = BytesMut::from(&[HEADER, 0, 1, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(Frames::default().decode(&mut endless).is_err());
    }
}

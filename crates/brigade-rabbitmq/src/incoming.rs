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

/// Stands for a byte that is not UTF-8.
pub(super) const SUBSTITUTE: u8 = 0x1a;
/// Of tables and arrays within one another.
const DEPTH_MAX: usize = 16;
/// Type, channel and size of a frame.
const HEAD: usize = 7;
/// Method and header frames are kept until they are whole; the broker's own limit is 128 KiB by
/// default.
const FRAME_BYTES_MAX: usize = 16 << 20;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

#[derive(Default)]
pub(super) struct Incoming {
    state: FrameState,
    /// The frame that is being gathered.
    frame: Vec<u8>,
    /// What may be read.
    ready: Vec<u8>,
    /// Of that, what has been read.
    read: usize,
}

#[derive(Clone, Copy, Default)]
enum FrameState {
    /// The first bytes of a frame.
    #[default]
    Head,
    /// A frame of so many bytes that may be changed.
    Gather(usize),
    /// So many bytes that are passed on as they are.
    Pass(usize),
    /// This is not AMQP.
    Other,
}

impl Incoming {
    /// Copies what is ready; how many bytes that is, none if there are none.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let ready = &self.ready[self.read..];
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.read += count;
        if self.read == self.ready.len() {
            self.ready.clear();
            self.read = 0;
        }
        count
    }

    /// Takes bytes from the broker.
    ///
    /// # Errors
    ///
    /// `InvalidData` for a frame that is too large to be kept.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let used = match self.state {
                FrameState::Head => self.gather(bytes, HEAD),
                FrameState::Gather(whole) => self.gather(bytes, whole),
                FrameState::Pass(left) => {
                    let used = left.min(bytes.len());
                    self.ready.extend_from_slice(&bytes[..used]);
                    self.state = if used == left {
                        FrameState::Head
                    } else {
                        FrameState::Pass(left - used)
                    };
                    used
                }
                FrameState::Other => {
                    self.ready.extend_from_slice(bytes);
                    bytes.len()
                }
            };
            bytes = &bytes[used..];
            self.next()?;
        }
        Ok(())
    }

    fn gather(&mut self, bytes: &[u8], whole: usize) -> usize {
        let used = whole.saturating_sub(self.frame.len()).min(bytes.len());
        self.frame.extend_from_slice(&bytes[..used]);
        used
    }

    /// What has been gathered may be whole.
    fn next(&mut self) -> io::Result<()> {
        match self.state {
            FrameState::Head if self.frame.len() == HEAD => {
                let size = u32::from_be_bytes([
                    self.frame[3],
                    self.frame[4],
                    self.frame[5],
                    self.frame[6],
                ]);
                // With the mark at its end.
                let rest = usize::try_from(size)
                    .unwrap_or(usize::MAX)
                    .saturating_add(1);
                match self.frame[0] {
                    METHOD | HEADER if rest > FRAME_BYTES_MAX => {
                        let text = format!(
                            "the broker sent a frame of {size} bytes where {FRAME_BYTES_MAX} are \
                                allowed"
                        );
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    METHOD | HEADER => self.state = FrameState::Gather(HEAD + rest),
                    BODY | HEARTBEAT => self.pass(FrameState::Pass(rest)),
                    _ => self.pass(FrameState::Other),
                }
            }
            FrameState::Gather(whole) if self.frame.len() == whole => {
                let kind = self.frame[0];
                let mut content = Content {
                    bytes: &mut self.frame[HEAD..whole - 1],
                    at: 0,
                };
                // What ends early is left as it is: lapin says what is wrong with it.
                let _: Option<()> = if kind == METHOD {
                    content.method()
                } else {
                    content.header()
                };
                self.pass(FrameState::Head);
            }
            _ => {}
        }
        Ok(())
    }

    fn pass(&mut self, next: FrameState) {
        self.ready.append(&mut self.frame);
        self.state = next;
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
        let (mut incoming, mut out) = (Incoming::default(), Vec::new());
        for chunk in bytes.chunks(step) {
            incoming.push(chunk).unwrap();
            let mut buffer = [0; 64];
            while let count @ 1.. = incoming.read(&mut buffer) {
                out.extend_from_slice(&buffer[..count]);
            }
        }
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
        assert!(
            Incoming::default()
                .push(&[HEADER, 0, 1, 0xff, 0xff, 0xff, 0xff])
                .is_err()
        );
    }
}

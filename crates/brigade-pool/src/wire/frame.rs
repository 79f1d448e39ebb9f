//! The frame: a header of 16 bytes, then the body.
//!
//! ```text
//! 0        4      5      6          8                16
//! | length | kind | zero | reserved | id             | body ..
//! ```
//!
//! Little endian. `length` counts the body only. `id` is the call's, or zero. The length is checked
//! against the limit before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, ErrorKind};

pub(crate) const HEADER_BYTES: usize = 16;

/// One received frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) body: Bytes,
}

/// The header of a frame whose body has `body_bytes` bytes.
pub(crate) fn encode(kind: u8, id: u64, body_bytes: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(body_bytes).expect("payload limits are below 4 GiB");
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header
}

/// Cuts a byte stream into frames.
pub(crate) struct Decoder {
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl Decoder {
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            body_bytes_max,
        }
    }

    /// Where the next bytes of the stream go, with room for the rest of a frame that has begun.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        let want = self.missing().clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        self.buffer.reserve(want);
        &mut self.buffer
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    ///
    /// `Protocol` if the header is not one or announces more than the limit; the stream cannot be
    /// read on.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some((length, kind, id)) = self.header()? else {
            return Ok(None);
        };
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        // A small body gets memory of its own: a slice would keep the whole buffer alive as long as
        // the result.
        let body = if length < SMALL_BODY_BYTES {
            let body = Bytes::copy_from_slice(&self.buffer[..length]);
            self.buffer.advance(length);
            body
        } else {
            self.buffer.split_to(length).freeze()
        };
        Ok(Some(Frame { kind, id, body }))
    }

    /// Changes the limit for what comes next.
    #[cfg(feature = "remote")]
    pub(crate) fn limit(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    /// Whether a whole frame is there.
    #[cfg(feature = "remote")]
    pub(crate) fn has_frame(&self) -> bool {
        matches!(self.header(), Ok(Some((length, ..))) if self.buffer.len() >= HEADER_BYTES + length)
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_inside_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn header(&self) -> Result<Option<(usize, u8, u64)>, Error> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, zero, r0, r1, id @ ..] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if zero != 0 || r0 != 0 || r1 != 0 {
            return Err(Error::new(
                ErrorKind::Protocol,
                "read a frame: its header is garbled",
            ));
        }
        if length > self.body_bytes_max {
            let text = format!(
                "read a frame: {length} bytes are announced and {} are allowed",
                self.body_bytes_max
            );
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        Ok(Some((length, kind, u64::from_le_bytes(id))))
    }

    /// Bytes that the frame at the front still lacks.
    fn missing(&self) -> usize {
        match self.header() {
            Ok(Some((length, ..))) => (HEADER_BYTES + length).saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }
}

/// Smaller bodies are copied out of the read buffer.
const SMALL_BODY_BYTES: usize = 4 << 10;
/// One read asks for at least this much, so that many small frames cost one system call.
const READ_BYTES_MIN: usize = 64 << 10;
/// A peer that announces a large frame does not make us allocate it all before the bytes come.
const READ_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
        [&encode(kind, id, body.len())[..], body].concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let stream = [
            bytes(1, 7, b"abc"),
            bytes(2, 8, b""),
            bytes(3, u64::MAX, &[9; 100]),
        ]
        .concat();
        for cut in 1..stream.len() {
            let mut decoder = Decoder::new(100);
            let mut frames = Vec::new();
            for chunk in stream.chunks(cut) {
                decoder.buffer().extend_from_slice(chunk);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push((frame.kind, frame.id, frame.body.len()));
                }
            }
            assert_eq!(frames, [(1, 7, 3), (2, 8, 0), (3, u64::MAX, 100)]);
            assert!(!decoder.is_inside_frame());
        }
    }

    #[test]
    fn the_limit_holds_at_the_edge_and_one_past_it() {
        let mut decoder = Decoder::new(4);
        decoder.buffer().extend_from_slice(&bytes(1, 1, b"1234"));
        assert_eq!(decoder.next().unwrap().unwrap().body.len(), 4);
        decoder.buffer().extend_from_slice(&encode(1, 1, 5));
        assert_eq!(decoder.next().unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn noise_is_an_error_or_a_wait_and_never_a_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            let mut decoder = Decoder::new(1 << 16);
            for _ in 0..4 {
                let noise: Vec<u8> = (0..24)
                    .map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        state.to_be_bytes()[0]
                    })
                    .collect();
                decoder.buffer().extend_from_slice(&noise);
                while let Ok(Some(frame)) = decoder.next() {
                    assert!(frame.body.len() <= 1 << 16);
                }
            }
        }
    }
}

//! Whole messages out of a byte stream: frames, and the parts of long messages put together.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::wire::remote::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, kind};
use crate::wire::{Decoder, Frame};

/// What a long message gets room for at first, whatever length its peer says it has.
const FIRST_BYTES_MAX: usize = 1 << 20;
/// So many bytes of a frame that is still coming are a sign of life too. A peer of which a byte a second comes is as good as gone.
const LIFE_BYTES: usize = 4 << 10;

pub(crate) struct Inbox {
    decoder: Decoder,
    partial: HashMap<(u8, u64), Partial>,
    /// Long messages that may be on their way at once.
    partial_max: usize,
    message_bytes_max: usize,
    /// Bytes that came since the last sign of life.
    unheard: usize,
}

struct Partial {
    bytes: Vec<u8>,
    length: usize,
}

impl Inbox {
    /// For the handshake.
    pub(crate) fn new() -> Self {
        let decoder = Decoder::new(HANDSHAKE_BYTES_MAX);
        Self { decoder, partial: HashMap::new(), partial_max: 0, message_bytes_max: 0, unheard: 0 }
    }

    /// For what comes after it.
    pub(crate) fn admit(&mut self, messages: usize, message_bytes_max: usize) {
        self.decoder.limit(FRAME_BYTES_MAX);
        (self.partial_max, self.message_bytes_max) = (messages, message_bytes_max);
    }

    /// Where the next bytes of the stream go.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        self.decoder.buffer()
    }

    /// Notes that so many bytes came. Whether that is a sign of life.
    pub(crate) fn came(&mut self, bytes: usize) -> bool {
        self.unheard += bytes;
        let heard = self.unheard >= LIFE_BYTES || self.decoder.has_frame();
        if heard {
            self.unheard = 0;
        }
        heard
    }

    /// The next whole message.
    ///
    /// # Errors
    ///
    /// `Protocol` if the stream makes no sense or more comes than may.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        while let Some(frame) = self.decoder.next()? {
            if frame.kind != kind::PART {
                return Ok(Some(frame));
            }
            if let Some(whole) = self.put_together(&frame)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    fn put_together(&mut self, frame: &Frame) -> Result<Option<Frame>, Error> {
        let broken = |how: String| Err(Error::new(ErrorKind::Protocol, format!("read a message in parts: {how}")));
        let Some((&[kind, l0, l1, l2, l3], bytes)) = frame.body.split_first_chunk::<5>() else {
            return broken("one is too short".to_owned());
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > self.message_bytes_max {
            return broken(format!("{length} bytes are announced and {} are allowed", self.message_bytes_max));
        }
        let (count, key) = (self.partial.len(), (kind, frame.id));
        if count >= self.partial_max && !self.partial.contains_key(&key) {
            return broken(format!("{} are on their way already", self.partial_max));
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial { bytes: Vec::new(), length });
        if bytes.is_empty() || partial.length != length || partial.bytes.len() + bytes.len() > length {
            return broken("they do not make one".to_owned());
        }
        if partial.bytes.capacity() - partial.bytes.len() < bytes.len() {
            // Grows as the bytes come, never beyond the message.
            let held = partial.bytes.len();
            let wanted = (2 * held).max(FIRST_BYTES_MAX).max(held + bytes.len()).min(length);
            partial.bytes.reserve_exact(wanted - held);
        }
        partial.bytes.extend_from_slice(bytes);
        if partial.bytes.len() < length {
            return Ok(None);
        }
        let bytes = self.partial.remove(&key).map(|partial| partial.bytes).unwrap_or_default();
        Ok(Some(Frame { kind, id: frame.id, body: Bytes::from(bytes) }))
    }
}

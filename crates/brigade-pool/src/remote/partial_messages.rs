//! Whole messages out of a byte stream: frames, and the parts of long messages put together.
//!
//! Memory is bounded: a long message gets room only as its bytes come, never beyond the length that
//! it announced; at most [`LONG_MESSAGES_MAX`] are partial at once; and all connections of one pool
//! or host share a [`Budget`]. A connection that breaks one of these rules is an error and ends.

use std::collections::HashMap;
use std::fmt;

use bytes::{Bytes, BytesMut};

use super::budget::{Budget, BudgetShare};
use crate::error::{Error, ErrorKind};
use crate::wire::remote::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, LONG_MESSAGES_MAX, kind};
use crate::wire::{Decoder, Frame};

/// The first room of a long message, whatever length it announced.
const FIRST_BYTES_MAX: usize = 1 << 20;
/// So many bytes of an unfinished frame are a sign of life too. A peer that sends a byte a second
/// is as good as gone.
const LIFE_BYTES: usize = 4 << 10;

pub(crate) struct PartialMessages {
    decoder: Decoder,
    partial: HashMap<(u8, u64), Partial>,
    /// What the partial messages hold of the budget; none during the handshake, which has no long
    /// messages.
    share: Option<BudgetShare>,
    message_bytes_max: usize,
    /// Bytes that came since the last sign of life.
    since_sign_of_life: usize,
    /// Bytes received in all.
    received_bytes: u64,
}

struct Partial {
    bytes: Vec<u8>,
    length: usize,
    /// What it holds of the budget: the room that it asked for.
    room: usize,
}

impl PartialMessages {
    /// For the handshake.
    pub(crate) fn new() -> Self {
        let decoder = Decoder::new(HANDSHAKE_BYTES_MAX);
        Self {
            decoder,
            partial: HashMap::new(),
            share: None,
            message_bytes_max: 0,
            since_sign_of_life: 0,
            received_bytes: 0,
        }
    }

    /// For what comes after it.
    pub(crate) fn admit(&mut self, message_bytes_max: usize, budget: &Budget) {
        self.decoder.limit(FRAME_BYTES_MAX);
        (self.share, self.message_bytes_max) = (Some(budget.share()), message_bytes_max);
    }

    /// Where the next bytes of the stream go.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        self.decoder.buffer()
    }

    /// Notes that so many bytes came. Returns whether that is a sign of life.
    pub(crate) fn received(&mut self, bytes: usize) -> bool {
        self.since_sign_of_life += bytes;
        self.received_bytes += bytes as u64;
        let is_sign_of_life = self.since_sign_of_life >= LIFE_BYTES || self.decoder.has_frame();
        if is_sign_of_life {
            self.since_sign_of_life = 0;
        }
        is_sign_of_life
    }

    /// Bytes received in all.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The next whole message. `expects` says whether a long message of this kind and id may begin.
    ///
    /// # Errors
    ///
    /// `Protocol` if the stream makes no sense or a limit is exceeded; `QueueFull` if the budget
    /// has no room for it now.
    pub(crate) fn next(
        &mut self,
        expects: impl Fn(u8, u64) -> bool,
    ) -> Result<Option<Frame>, Error> {
        while let Some(frame) = self.decoder.next()? {
            if frame.kind != kind::PART {
                return Ok(Some(frame));
            }
            if let Some(whole) = self.put_together(&frame, &expects)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    fn put_together(
        &mut self,
        frame: &Frame,
        expects: impl Fn(u8, u64) -> bool,
    ) -> Result<Option<Frame>, Error> {
        let Some((&[kind, l0, l1, l2, l3], bytes)) = frame.body.split_first_chunk::<5>() else {
            return Err(broken("a part is too short"));
        };
        let (key, length) = (
            (kind, frame.id),
            u32::from_le_bytes([l0, l1, l2, l3]) as usize,
        );
        if !self.partial.contains_key(&key) {
            self.check_first(key, length, expects)?;
        }
        let Some(share) = &mut self.share else {
            return Err(broken("it begins before the handshake has ended"));
        };
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            bytes: Vec::new(),
            length,
            room: 0,
        });
        partial.append(length, bytes, share)?;
        if partial.bytes.len() < length {
            return Ok(None);
        }
        let Some(Partial { bytes, room, .. }) = self.partial.remove(&key) else {
            return Ok(None);
        };
        share.give_back(room);
        Ok(Some(Frame {
            kind,
            id: frame.id,
            body: Bytes::from(bytes),
        }))
    }

    /// Whether a long message of this kind about this call may begin.
    fn check_first(
        &self,
        (kind, id): (u8, u64),
        length: usize,
        expects: impl Fn(u8, u64) -> bool,
    ) -> Result<(), Error> {
        if length > self.message_bytes_max {
            let max = self.message_bytes_max;
            return Err(broken(format!(
                "{length} bytes are announced and {max} are allowed"
            )));
        }
        if self.partial.len() >= LONG_MESSAGES_MAX {
            return Err(broken(format!(
                "{LONG_MESSAGES_MAX} others are unfinished, which is the limit"
            )));
        }
        if !expects(kind, id) {
            return Err(broken(format!(
                "it is of kind {kind} and about call {id}, of which nothing is expected"
            )));
        }
        Ok(())
    }
}

impl Partial {
    /// Appends a part of a message of this length, with room as it is needed.
    fn append(
        &mut self,
        length: usize,
        bytes: &[u8],
        share: &mut BudgetShare,
    ) -> Result<(), Error> {
        let held = self.bytes.len();
        if bytes.is_empty() || self.length != length || held + bytes.len() > length {
            return Err(broken("its parts do not fit together"));
        }
        if self.room - held < bytes.len() {
            let wanted = (2 * held)
                .max(FIRST_BYTES_MAX)
                .max(held + bytes.len())
                .min(length);
            if !share.take(wanted - self.room) {
                return Err(Error::new(
                    ErrorKind::QueueFull,
                    "read a long message: too many others are unfinished",
                ));
            }
            self.room = wanted;
            self.bytes.reserve_exact(wanted - held);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

fn broken(how: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, format!("read a long message: {how}"))
}

#[cfg(test)]
mod tests {
    use brigade_testkit::random::Random;

    use super::*;
    use crate::wire::encode;

    fn part(kind: u8, id: u64, length: u32, bytes: &[u8]) -> Vec<u8> {
        let body = [&[kind][..], &length.to_le_bytes(), bytes].concat();
        [&encode(kind::PART, id, body.len())[..], &body].concat()
    }

    fn fed(stream: &[u8]) -> PartialMessages {
        let mut messages = PartialMessages::new();
        messages.admit(100, &Budget::new(1 << 20));
        messages.buffer().extend_from_slice(stream);
        messages
    }

    #[test]
    fn parts_of_several_messages_come_out_whole_among_others() {
        let stream = [
            part(1, 7, 6, b"abc"),
            part(1, 8, 4, b"12"),
            [&encode(2, 9, 1)[..], b"!"].concat(),
            part(1, 8, 4, b"34"),
            part(1, 7, 6, b"def"),
        ];
        let mut messages = fed(&stream.concat());
        let mut frames = Vec::new();
        while let Some(frame) = messages.next(|_, _| true).unwrap() {
            frames.push((frame.kind, frame.id, frame.body));
        }
        assert_eq!(
            frames,
            [
                (2, 9, Bytes::from_static(b"!")),
                (1, 8, Bytes::from_static(b"1234")),
                (1, 7, Bytes::from_static(b"abcdef"))
            ]
        );
        assert!(messages.partial.is_empty());
    }

    #[test]
    fn limits_hold_at_the_edge_and_one_past_it() {
        assert!(
            fed(&part(1, 1, 100, &[0; 100]))
                .next(|_, _| true)
                .unwrap()
                .is_some()
        );
        for stream in [
            part(1, 1, 101, b"a"),
            part(1, 1, 4, b"12345"),
            part(1, 1, 4, b""),
            [part(1, 1, 4, b"1"), part(1, 1, 5, b"2")].concat(),
            (0..=LONG_MESSAGES_MAX as u64)
                .flat_map(|id| part(1, id, 4, b"1"))
                .collect(),
            [&encode(kind::PART, 1, 4)[..], &[0; 4]].concat(),
            encode(1, 1, FRAME_BYTES_MAX + 1).to_vec(),
        ] {
            assert_eq!(
                fed(&stream).next(|_, _| true).unwrap_err().kind(),
                ErrorKind::Protocol,
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_long_message_gets_room_only_as_it_comes() {
        let mut messages = PartialMessages::new();
        messages.admit(usize::MAX, &Budget::new(usize::MAX));
        messages
            .buffer()
            .extend_from_slice(&part(1, 1, u32::MAX, b"a"));
        assert!(messages.next(|_, _| true).unwrap().is_none());
        assert!(
            messages
                .partial
                .values()
                .all(|partial| partial.bytes.capacity() <= 2 * FIRST_BYTES_MAX)
        );
    }

    #[test]
    fn a_trickle_is_no_sign_of_life_and_a_flood_or_a_frame_is() {
        let mut messages = fed(&[]);
        assert!((1..LIFE_BYTES).all(|_| !messages.received(1)) && messages.received(1));
        messages.buffer().extend_from_slice(&encode(1, 1, 0));
        assert!(messages.received(16));
    }

    #[test]
    fn i50_damaged_parts_are_an_error_or_a_wait_and_never_a_panic() {
        let mut random = Random::from_env();
        for _ in 0..20_000 {
            let count = random.within(1..6);
            let mut stream = Vec::new();
            for _ in 0..count {
                let length = usize::try_from(random.within(0..60)).unwrap();
                stream.extend(part(
                    1,
                    random.within(0..3),
                    u32::try_from(random.within(0..120)).unwrap(),
                    &vec![7; length],
                ));
            }
            let at = usize::try_from(random.within(0..stream.len() as u64)).unwrap();
            stream[at] ^= 1 << random.within(0..8);
            let mut messages = fed(&stream);
            while let Ok(Some(frame)) = messages.next(|_, _| true) {
                assert!(frame.kind != kind::PART && frame.body.len() <= FRAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn unexpected_messages_and_those_over_the_budget_get_no_room() {
        let mut unexpected = fed(&part(1, 7, 100, &[0; 50]));
        assert_eq!(
            unexpected
                .next(|kind, id| (kind, id) != (1, 7))
                .unwrap_err()
                .kind(),
            ErrorKind::Protocol
        );
        assert!(unexpected.partial.is_empty());

        let budget = Budget::new(2 * FIRST_BYTES_MAX);
        let length = u32::try_from(2 * FIRST_BYTES_MAX).unwrap();
        let begun = |id: u64| {
            let mut messages = PartialMessages::new();
            messages.admit(4 * FIRST_BYTES_MAX, &budget);
            messages
                .buffer()
                .extend_from_slice(&part(1, id, length, b"a"));
            let next = messages.next(|_, _| true);
            (messages, next.map(|frame| assert!(frame.is_none())))
        };
        let ((first, one), (_second, two), (_, three)) = (begun(1), begun(2), begun(3));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(three.unwrap_err().kind(), ErrorKind::QueueFull);
        drop(first);
        assert!(begun(4).1.is_ok(), "there is room again");
    }
}

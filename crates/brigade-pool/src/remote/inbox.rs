//! Whole messages out of a byte stream: frames, and the parts of long messages put together.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::budget::{Budget, BudgetShare};
use crate::error::{Error, ErrorKind};
use crate::wire::remote::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, LONG_MESSAGES_MAX, kind};
use crate::wire::{Decoder, Frame};

/// What a long message gets room for at first, whatever length its peer says it has.
const FIRST_BYTES_MAX: usize = 1 << 20;
/// So many bytes of a frame that is still coming are a sign of life too. A peer of which a byte a
/// second comes is as good as gone.
const LIFE_BYTES: usize = 4 << 10;

pub(crate) struct PartialMessages {
    decoder: Decoder,
    partial: HashMap<(u8, u64), Partial>,
    /// What the partial messages hold of the budget; none during the handshake, which has no long
    /// messages.
    share: Option<BudgetShare>,
    message_bytes_max: usize,
    /// Bytes that came since the last sign of life.
    unheard: usize,
    /// Bytes that ever came.
    heard_bytes: u64,
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
            unheard: 0,
            heard_bytes: 0,
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

    /// Notes that so many bytes came. Whether that is a sign of life.
    pub(crate) fn came(&mut self, bytes: usize) -> bool {
        self.unheard += bytes;
        self.heard_bytes += bytes as u64;
        let heard = self.unheard >= LIFE_BYTES || self.decoder.has_frame();
        if heard {
            self.unheard = 0;
        }
        heard
    }

    /// How many bytes ever came.
    pub(crate) fn heard_bytes(&self) -> u64 {
        self.heard_bytes
    }

    /// The next whole message. `expects` says whether a long message of this kind and id may begin.
    ///
    /// # Errors
    ///
    /// `Protocol` if the stream makes no sense or more comes than may; `QueueFull` if the budget
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
        let broken = |how: String| {
            Err(Error::new(
                ErrorKind::Protocol,
                format!("read a message in parts: {how}"),
            ))
        };
        let Some((&[kind, l0, l1, l2, l3], bytes)) = frame.body.split_first_chunk::<5>() else {
            return broken("one is too short".to_owned());
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > self.message_bytes_max {
            return broken(format!(
                "{length} bytes are announced and {} are allowed",
                self.message_bytes_max
            ));
        }
        let (count, key) = (self.partial.len(), (kind, frame.id));
        if !self.partial.contains_key(&key) {
            if count >= LONG_MESSAGES_MAX {
                return broken(format!("{LONG_MESSAGES_MAX} are on their way already"));
            }
            if !expects(kind, frame.id) {
                return broken(format!(
                    "it is of kind {kind} and about call {}, of which nothing is expected",
                    frame.id
                ));
            }
        }
        let Some(share) = &mut self.share else {
            return broken("it begins before the handshake has ended".to_owned());
        };
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            bytes: Vec::new(),
            length,
            room: 0,
        });
        if bytes.is_empty()
            || partial.length != length
            || partial.bytes.len() + bytes.len() > length
        {
            return broken("they do not make one".to_owned());
        }
        if partial.room - partial.bytes.len() < bytes.len() {
            // Grows as the bytes come, never beyond the message.
            let held = partial.bytes.len();
            let wanted = (2 * held)
                .max(FIRST_BYTES_MAX)
                .max(held + bytes.len())
                .min(length);
            if !share.take(wanted - partial.room) {
                return Err(Error::new(
                    ErrorKind::QueueFull,
                    "read a long message: too many others are on their way",
                ));
            }
            partial.room = wanted;
            partial.bytes.reserve_exact(wanted - held);
        }
        partial.bytes.extend_from_slice(bytes);
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

    fn inbox(stream: &[u8]) -> PartialMessages {
        let mut inbox = PartialMessages::new();
        inbox.admit(100, &Budget::new(1 << 20));
        inbox.buffer().extend_from_slice(stream);
        inbox
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
        let mut inbox = inbox(&stream.concat());
        let mut frames = Vec::new();
        while let Some(frame) = inbox.next(|_, _| true).unwrap() {
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
        assert!(inbox.partial.is_empty());
    }

    #[test]
    fn limits_hold_at_the_edge_and_one_past_it() {
        assert!(
            inbox(&part(1, 1, 100, &[0; 100]))
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
                inbox(&stream).next(|_, _| true).unwrap_err().kind(),
                ErrorKind::Protocol,
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_message_that_is_said_to_be_long_gets_room_only_as_it_comes() {
        let mut inbox = PartialMessages::new();
        inbox.admit(usize::MAX, &Budget::new(usize::MAX));
        inbox
            .buffer()
            .extend_from_slice(&part(1, 1, u32::MAX, b"a"));
        assert!(inbox.next(|_, _| true).unwrap().is_none());
        assert!(
            inbox
                .partial
                .values()
                .all(|partial| partial.bytes.capacity() <= 2 * FIRST_BYTES_MAX)
        );
    }

    #[test]
    fn a_trickle_is_no_sign_of_life_and_a_flood_or_a_frame_is() {
        let mut inbox = inbox(&[]);
        assert!((1..LIFE_BYTES).all(|_| !inbox.came(1)) && inbox.came(1));
        inbox.buffer().extend_from_slice(&encode(1, 1, 0));
        assert!(inbox.came(16));
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
            let mut inbox = inbox(&stream);
            while let Ok(Some(frame)) = inbox.next(|_, _| true) {
                assert!(frame.kind != kind::PART && frame.body.len() <= FRAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn what_nobody_expects_and_what_is_over_the_budget_gets_no_room() {
        let mut unexpected = inbox(&part(1, 7, 100, &[0; 50]));
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
            let mut inbox = PartialMessages::new();
            inbox.admit(4 * FIRST_BYTES_MAX, &budget);
            inbox.buffer().extend_from_slice(&part(1, id, length, b"a"));
            let next = inbox.next(|_, _| true);
            (inbox, next.map(|frame| assert!(frame.is_none())))
        };
        let ((first, one), (_second, two), (_, three)) = (begun(1), begun(2), begun(3));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(three.unwrap_err().kind(), ErrorKind::QueueFull);
        drop(first);
        assert!(begun(4).1.is_ok(), "there is room again");
    }
}

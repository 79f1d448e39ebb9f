//! Messages that wait to be written to a connection.
//!
//! Any thread appends; one task writes. There are three classes, so that nothing waits behind a
//! long message: *urgent* frames go first; *small* ones gather and go out together; *large*
//! messages go in parts, one part of one message at a time, in turn, at most [`LONG_MESSAGES_MAX`]
//! of them at once. Messages of one class keep their order, those of different classes do not.
//!
//! Payloads are not copied, so a slow peer costs at most a copy of small frames. The queue reports
//! when too much waits ([`SendQueue::is_congested`]), and the writer reports the end of that. A
//! closed queue drops what is appended; its owner sends that again when the next connection is up.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::sync::lock;
use crate::wire::remote::{LONG_MESSAGES_MAX, PART_BYTES, kind};
use crate::wire::{HEADER_BYTES, encode};

/// Small frames that go out in one write.
const BLOCK_BYTES: usize = 32 << 10;
/// Longer messages are sent from where they are.
const SMALL_BYTES: usize = 16 << 10;
/// With more than this unsent, the peer gets no more work.
const CONGESTED_BYTES: usize = 1 << 20;
/// With less than this, it gets work again.
const RELIEVED_BYTES: usize = CONGESTED_BYTES / 4;
/// Writes in a row before the task yields to others.
const TURNS_MAX: usize = 8;
/// How long a message that is not urgent may wait for others to go out with.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// Urgent frames are signs of life, and one of them is as good as many: a peer that asks and does
/// not read gets no more of them.
const URGENT_BYTES_MAX: usize = 4 << 10;

pub(crate) struct SendQueue {
    state: Mutex<QueuedFrames>,
    /// Set while the writer knows that something waits.
    kicked: AtomicBool,
    /// Set while it knows that something waits which may wait for others.
    nudged: AtomicBool,
    kick: Notify,
}

#[derive(Default)]
struct QueuedFrames {
    open: bool,
    urgent: Vec<u8>,
    /// Whole frames, in blocks.
    small: VecDeque<Vec<u8>>,
    /// Those of which some parts were sent, or whose turn comes next.
    under_way: VecDeque<Large>,
    /// Those behind them.
    large: VecDeque<Large>,
    bytes: usize,
    congested: bool,
    /// A block to use again.
    spare: Vec<u8>,
}

struct Large {
    kind: u8,
    id: u64,
    length: usize,
    /// What is left of it, in two pieces.
    head: Bytes,
    body: Bytes,
}

/// What goes out in one turn: whole frames, then a part of a large message, which may lie in two
/// places.
#[derive(Default)]
struct WriteBatch {
    block: Vec<u8>,
    part: [Bytes; 3],
    relieved: bool,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            kicked: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            kick: Notify::new(),
        }
    }

    /// Opens the queue, with this message before any other, in one piece. The queue is empty: it
    /// was closed.
    pub(crate) fn open(&self, kind: u8, body: &[u8]) {
        let mut state = lock(&self.state);
        state.open = true;
        state.bytes = HEADER_BYTES + body.len();
        state
            .small
            .push_back([&encode(kind, 0, body.len())[..], body].concat());
        drop(state);
        self.kick();
    }

    /// As [`open`](Self::open), for the side that has sent its first message already.
    pub(crate) fn open_silently(&self) {
        lock(&self.state).open = true;
    }

    /// Takes nothing more and forgets what was not handed to the writer. Returns the ids of the
    /// forgotten messages of this kind: the peer has seen nothing of those.
    pub(crate) fn close(&self, of_kind: u8) -> Vec<u64> {
        let state = std::mem::take(&mut *lock(&self.state));
        let mut ids: Vec<u64> = state
            .small
            .iter()
            .flat_map(|block| ids(block, of_kind))
            .collect();
        let untouched = |large: &&Large| {
            large.kind == of_kind && large.head.len() + large.body.len() == large.length
        };
        ids.extend(
            state
                .under_way
                .iter()
                .chain(&state.large)
                .filter(untouched)
                .map(|large| large.id),
        );
        ids
    }

    /// Sends a frame of a few bytes that does not wait behind data.
    pub(crate) fn urgent(&self, kind: u8, id: u64, body: &[u8]) {
        {
            let mut state = lock(&self.state);
            if !state.open || state.urgent.len() >= URGENT_BYTES_MAX {
                return;
            }
            state
                .urgent
                .extend_from_slice(&encode(kind, id, body.len()));
            state.urgent.extend_from_slice(body);
        }
        self.kick();
    }

    /// Appends a message whose body is `head` and then `body`. Call [`kick`](Self::kick) to have it
    /// written now; otherwise it goes out with the next message, at the latest with a heartbeat.
    pub(crate) fn append(&self, kind: u8, id: u64, head: &[u8], body: &Bytes) {
        let mut state = lock(&self.state);
        if !state.open {
            return;
        }
        let length = head.len() + body.len();
        if length <= SMALL_BYTES {
            state.append_small(kind, id, head, body);
        } else {
            state.large.push_back(Large {
                kind,
                id,
                length,
                head: Bytes::copy_from_slice(head),
                body: body.clone(),
            });
        }
        state.bytes += HEADER_BYTES + length;
        state.congested |= state.bytes > CONGESTED_BYTES;
    }

    /// Bytes of small frames that are not written yet.
    pub(crate) fn small_bytes(&self) -> usize {
        lock(&self.state).small.iter().map(Vec::len).sum()
    }

    /// Whether the peer should get no more work for now.
    pub(crate) fn is_congested(&self) -> bool {
        lock(&self.state).congested
    }

    /// Lets the writer write at its next turn, together with what is appended until then.
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            self.kick.notify_one();
        }
    }

    /// Lets the writer write within about a millisecond, together with what is appended until then.
    /// At once, if there is much already.
    pub(crate) fn kick_soon(&self) {
        if lock(&self.state).bytes >= BLOCK_BYTES {
            self.kick();
        } else if !self.nudged.swap(true, Ordering::AcqRel) {
            self.kick.notify_one();
        }
    }

    async fn until_kicked(&self) {
        self.kick.notified().await;
        while !self.kicked.load(Ordering::Acquire) {
            if timeout(GATHER_TIME, self.kick.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Writes what is appended, for as long as the stream takes it. Calls `relieved` when
    /// congestion is over.
    pub(crate) async fn write_to(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        relieved: impl Fn(),
    ) -> io::Error {
        loop {
            // Cleared before looking, so that an append that comes after the look kicks again.
            self.kicked.store(false, Ordering::Release);
            self.nudged.store(false, Ordering::Release);
            let mut turns = 0_usize;
            while let Some(turn) = self.take() {
                turns += 1;
                if let Err(error) = write(stream, &turn).await {
                    return error;
                }
                if turn.relieved {
                    relieved();
                }
                self.give_back(turn.block);
                if turns.is_multiple_of(TURNS_MAX) {
                    // A stream that takes all at once would keep this task from reading and
                    // beating.
                    tokio::task::yield_now().await;
                }
            }
            if turns > 0
                && let Err(error) = stream.flush().await
            {
                return error;
            }
            self.until_kicked().await;
            // Others may be about to append: one write for all of them costs less than the wait.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for nothing: writes what there is and returns.
    pub(crate) async fn write_rest(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        while let Some(turn) = self.take() {
            write(stream, &turn).await?;
        }
        stream.flush().await
    }

    fn take(&self) -> Option<WriteBatch> {
        let mut state = lock(&self.state);
        let mut turn = WriteBatch {
            block: std::mem::take(&mut state.urgent),
            ..WriteBatch::default()
        };
        if let Some(block) = state.small.pop_front() {
            state.bytes = state.bytes.saturating_sub(block.len());
            if turn.block.is_empty() {
                turn.block = block;
            } else {
                turn.block.extend_from_slice(&block);
                state.keep(block);
            }
        }
        turn.part = state.take_part();
        if state.congested && state.bytes < RELIEVED_BYTES {
            state.congested = false;
            turn.relieved = true;
        }
        (!turn.block.is_empty() || !turn.part[0].is_empty()).then_some(turn)
    }

    fn give_back(&self, block: Vec<u8>) {
        lock(&self.state).keep(block);
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), turn: &WriteBatch) -> io::Result<()> {
    let [header, first, second] = &turn.part;
    // In one write, where the stream can.
    let mut all = turn
        .block
        .as_slice()
        .chain(&header[..])
        .chain(&first[..])
        .chain(&second[..]);
    stream.write_all_buf(&mut all).await
}

impl QueuedFrames {
    fn append_small(&mut self, kind: u8, id: u64, head: &[u8], body: &[u8]) {
        if self
            .small
            .back()
            .is_none_or(|block| block.len() >= BLOCK_BYTES)
        {
            let block = std::mem::take(&mut self.spare);
            self.small.push_back(block);
        }
        if let Some(block) = self.small.back_mut() {
            block.extend_from_slice(&encode(kind, id, head.len() + body.len()));
            block.extend_from_slice(head);
            block.extend_from_slice(body);
        }
    }

    /// The next part of the large message whose turn it is, which then goes behind the others: its
    /// header, and its bytes.
    fn take_part(&mut self) -> [Bytes; 3] {
        while self.under_way.len() < LONG_MESSAGES_MAX
            && let Some(next) = self.large.pop_front()
        {
            self.under_way.push_back(next);
        }
        let Some(mut large) = self.under_way.pop_front() else {
            return Default::default();
        };
        let head = large.head.split_to(PART_BYTES.min(large.head.len()));
        let body = large
            .body
            .split_to((PART_BYTES - head.len()).min(large.body.len()));
        let taken = head.len() + body.len();
        let is_last = large.head.is_empty() && large.body.is_empty();
        self.bytes = self
            .bytes
            .saturating_sub(taken + if is_last { HEADER_BYTES } else { 0 });
        let length = u32::try_from(large.length).expect("payload limits are below 4 GiB");
        let mut header = Vec::with_capacity(HEADER_BYTES + 5);
        header.extend_from_slice(&encode(kind::PART, large.id, 5 + taken));
        header.push(large.kind);
        header.extend_from_slice(&length.to_le_bytes());
        if !is_last {
            self.under_way.push_back(large);
        }
        [header.into(), head, body]
    }

    fn keep(&mut self, mut block: Vec<u8>) {
        if block.capacity() <= 4 * BLOCK_BYTES && block.capacity() > self.spare.capacity() {
            block.clear();
            self.spare = block;
        }
    }
}

/// The ids of the frames of a kind in a block of whole frames.
fn ids(mut block: &[u8], of_kind: u8) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some(([l0, l1, l2, l3, kind, _, _, _, id @ ..], rest)) =
        block.split_first_chunk::<HEADER_BYTES>()
    {
        if *kind == of_kind {
            ids.push(u64::from_le_bytes(*id));
        }
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        block = rest.get(length..).unwrap_or_default();
    }
    ids
}

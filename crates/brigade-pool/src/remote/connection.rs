//! One connection between a pool and a host, from its handshake to its end. Both sides use it.
//!
//! [`FrameConnection::run`] reads, writes and sends heartbeats until the connection ends. It owns
//! both halves of the stream; the [`SendQueue`] belongs to its caller and outlives the connection.
//! Nothing here waits for the peer to act on a message, and a [`FrameHandler`] must not wait
//! either.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::budget::Budget;
use super::partial_messages::PartialMessages;
use super::send_queue::SendQueue;
use super::transport::TransportStream;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::wire::remote::kind;
use crate::wire::{Frame, encode};

/// Beats without a sign of life after which a connection counts as gone.
const SILENT_BEATS_MAX: u32 = 4;
/// Reads of what is there at once.
const READS_MAX: usize = 8;
/// After so many bytes the task yields to others.
const YIELD_BYTES: u64 = 512 << 10;
/// For the last messages on a connection that this side ends.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct FrameConnection {
    reading: ReadHalf<Box<dyn TransportStream>>,
    writing: WriteHalf<Box<dyn TransportStream>>,
    inbox: PartialMessages,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// It broke, or the peer closed it.
    Lost(String),
    /// The peer sent something that makes no sense.
    InvalidMessage(Error),
    /// This side ended it.
    Closed,
}

/// Handles the messages of a connection.
pub(crate) trait FrameHandler {
    /// Takes the messages that are there.
    fn recv(&self, messages: &mut Messages<'_>) -> Result<(), Error>;

    /// Whether a long message of this kind about this call may begin.
    fn expects(&self, _kind: u8, _call: u64) -> bool {
        true
    }

    /// The send queue is not congested any more.
    fn relieved(&self) {}

    /// The round trip of a heartbeat took so long.
    fn echoed(&self, _after: Duration) {}
}

/// The messages of one read, without heartbeats.
pub(crate) struct Messages<'a> {
    inbox: &'a mut PartialMessages,
    outbox: &'a SendQueue,
    expects: &'a (dyn Fn(u8, u64) -> bool + Sync),
    echo: Option<u64>,
}

impl Messages<'_> {
    /// The next whole message.
    ///
    /// # Errors
    ///
    /// `Protocol` if the stream makes no sense, `QueueFull` if there is no room for it; it cannot
    /// be read on.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        while let Some(frame) = self.inbox.next(self.expects)? {
            match frame.kind {
                kind::BEAT => self.outbox.urgent(kind::ECHO, frame.id, &[]),
                kind::ECHO => self.echo = Some(frame.id),
                _ => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }
}

impl FrameConnection {
    pub(crate) fn new(stream: Box<dyn TransportStream>) -> Self {
        let (reading, writing) = tokio::io::split(stream);
        Self {
            reading,
            writing,
            inbox: PartialMessages::new(),
        }
    }

    /// Sends one message of the handshake.
    pub(crate) async fn send(&mut self, kind: u8, message: &impl Serialize) -> Result<(), Error> {
        let body = Codec::Postcard.encode(message)?;
        let frame = [&encode(kind, 0, body.len())[..], &body].concat();
        let sent = async {
            self.writing.write_all(&frame).await?;
            self.writing.flush().await
        };
        sent.await.map_err(|e| cut("write the handshake", e))
    }

    /// The next message of the handshake.
    pub(crate) async fn listen(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.inbox.next(|_, _| false)? {
                return Ok(frame);
            }
            match self.reading.read_buf(self.inbox.buffer()).await {
                Ok(1..) => {}
                Ok(0) => {
                    return Err(cut(
                        "read the handshake",
                        io::ErrorKind::UnexpectedEof.into(),
                    ));
                }
                Err(e) => return Err(cut("read the handshake", e)),
            }
        }
    }

    /// Allows long messages from now on, of at most so many bytes each, within the budget.
    pub(crate) fn admit(&mut self, message_bytes_max: usize, budget: &Budget) {
        self.inbox.admit(message_bytes_max, budget);
    }

    /// Closes the connection after the messages sent so far, within a second.
    pub(crate) async fn close(mut self) {
        timeout(LAST_WORDS_TIMEOUT, self.writing.shutdown())
            .await
            .ok();
    }

    /// Sends what `outbox` holds and gives what comes to `handler`, until the connection ends or
    /// `until` completes; then sends what is left.
    pub(crate) async fn run(
        mut self,
        outbox: &SendQueue,
        beat: Duration,
        handler: &(impl FrameHandler + Sync),
        until: impl Future<Output = ()>,
    ) -> ConnectionEnd {
        let running = RunningConnection {
            outbox,
            handler,
            began: Instant::now(),
            received: AtomicBool::new(false),
        };
        let end = tokio::select! {
            end = running.read(&mut self.reading, &mut self.inbox) => end,
            error = outbox.write_to(&mut self.writing, || handler.relieved()) => ConnectionEnd::Lost(format!("it could not be written to: {error}")),
            () = running.beat(beat) => ConnectionEnd::Lost(format!("the peer sent nothing for {:?}", beat * SILENT_BEATS_MAX)),
            () = until => ConnectionEnd::Closed,
        };
        if matches!(end, ConnectionEnd::Closed) {
            let farewell = async {
                outbox.write_rest(&mut self.writing).await?;
                self.writing.shutdown().await
            };
            // A peer that does not get this sees the end of the connection.
            timeout(LAST_WORDS_TIMEOUT, farewell).await.ok();
        }
        end
    }
}

/// What the parts of [`FrameConnection::run`] share.
struct RunningConnection<'a, E> {
    outbox: &'a SendQueue,
    handler: &'a E,
    began: Instant,
    received: AtomicBool,
}

impl<E: FrameHandler + Sync> RunningConnection<'_, E> {
    async fn read(
        &self,
        reading: &mut ReadHalf<Box<dyn TransportStream>>,
        inbox: &mut PartialMessages,
    ) -> ConnectionEnd {
        let (mut end, mut unyielded) = (None, 0);
        loop {
            // Before the first read, too: something may have come with the handshake. And before
            // the end: what came before it counts.
            let expects = |kind, call| self.handler.expects(kind, call);
            let mut messages = Messages {
                inbox,
                outbox: self.outbox,
                expects: &expects,
                echo: None,
            };
            match self.handler.recv(&mut messages) {
                Ok(()) => {}
                // It may come again when there is room; what it is about is not lost.
                Err(error) if error.kind() == ErrorKind::QueueFull => {
                    return ConnectionEnd::Lost(error.to_string());
                }
                Err(error) => return ConnectionEnd::InvalidMessage(error),
            }
            if let Some(sent) = messages.echo {
                self.handler
                    .echoed(Duration::from_micros(self.micros().saturating_sub(sent)));
            }
            if let Some(end) = end {
                return end;
            }
            if unyielded > YIELD_BYTES {
                // A peer that sends without a pause would keep this task from writing and beating.
                unyielded = 0;
                tokio::task::yield_now().await;
            }
            let before = inbox.received_bytes();
            end = self.take(reading.read_buf(inbox.buffer()).await, inbox);
            // Whatever else is there already is taken in the same step.
            for _ in 0..READS_MAX {
                match reading.read_buf(inbox.buffer()).now_or_never() {
                    Some(read) if end.is_none() => end = self.take(read, inbox),
                    _ => break,
                }
            }
            unyielded += inbox.received_bytes() - before;
        }
    }

    /// Takes what a read came to. How the connection ended, if it did.
    fn take(&self, read: io::Result<usize>, inbox: &mut PartialMessages) -> Option<ConnectionEnd> {
        match read {
            Ok(0) => Some(ConnectionEnd::Lost("it was closed".to_owned())),
            Ok(count) => {
                if inbox.received(count) {
                    self.received.store(true, Ordering::Relaxed);
                }
                None
            }
            Err(error) => Some(ConnectionEnd::Lost(error.to_string())),
        }
    }

    /// Sends heartbeats; returns when the peer was silent for too long.
    async fn beat(&self, beat: Duration) {
        let mut ticks = interval(beat);
        // After a delay of this process, missed ticks are skipped: they say nothing about the peer.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        while silent < SILENT_BEATS_MAX {
            ticks.tick().await;
            self.outbox.urgent(kind::BEAT, self.micros(), &[]);
            silent = if self.received.swap(false, Ordering::Relaxed) {
                0
            } else {
                silent + 1
            };
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn cut(what: &'static str, source: io::Error) -> Error {
    Error::new(ErrorKind::Unreachable, what).with_source(source)
}

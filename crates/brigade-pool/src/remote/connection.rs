//! One connection between a pool and a host, from its handshake to its end. Both sides use it.
//!
//! [`FrameConnection::run`] reads, writes and beats until the connection ends, one way or another. It never
//! waits for what the other side does with what it is told; whoever takes the messages ([`FrameHandler`])
//! does not wait either.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::budget::Budget;
use super::inbox::PartialMessages;
use super::outbox::SendQueue;
use super::transport::TransportStream;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::wire::remote::kind;
use crate::wire::{Frame, encode};

/// Beats without a sign of life after which a connection counts as gone.
const SILENT_BEATS_MAX: u32 = 4;
/// Reads of what is there at once.
const READS_MAX: usize = 8;
/// So much is read before others have their turn.
const YIELD_BYTES: u64 = 512 << 10;
/// For the last words on a connection that is being given up.
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
    Cut(String),
    /// The peer said what makes no sense.
    Nonsense(Error),
    /// This side ended it.
    Told,
}

/// Who takes what comes over a line.
pub(crate) trait FrameHandler {
    /// Takes the messages that are there.
    fn recv(&self, messages: &mut Messages<'_>) -> Result<(), Error>;

    /// Whether a long message of this kind about this call may begin.
    fn expects(&self, _kind: u8, _call: u64) -> bool {
        true
    }

    /// What was congested is not any more.
    fn relieved(&self) {}

    /// The way there and back takes so long.
    fn echoed(&self, _after: Duration) {}
}

/// The messages that one read gave, without those about the connection itself.
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

    /// Says one message of the handshake.
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

    /// From here on there may be long messages, of at most so many bytes each, as far as the budget
    /// goes.
    pub(crate) fn admit(&mut self, message_bytes_max: usize, budget: &Budget) {
        self.inbox.admit(message_bytes_max, budget);
    }

    /// Closes the connection after what was said, within a second.
    pub(crate) async fn close(mut self) {
        timeout(LAST_WORDS_TIMEOUT, self.writing.shutdown())
            .await
            .ok();
    }

    /// Carries what `outbox` holds and hands what comes to `handler`, until the connection ends or
    /// `until` does; then says what is left to say.
    pub(crate) async fn run(
        mut self,
        outbox: &SendQueue,
        beat: Duration,
        handler: &(impl FrameHandler + Sync),
        until: impl Future<Output = ()>,
    ) -> ConnectionEnd {
        let pulse = Pulse {
            outbox,
            handler,
            began: Instant::now(),
            heard: AtomicBool::new(false),
        };
        let end = tokio::select! {
            end = pulse.read(&mut self.reading, &mut self.inbox) => end,
            error = outbox.write_to(&mut self.writing, || handler.relieved()) => ConnectionEnd::Cut(format!("it could not be written to: {error}")),
            () = pulse.beat(beat) => ConnectionEnd::Cut(format!("nothing was heard for {:?}", beat * SILENT_BEATS_MAX)),
            () = until => ConnectionEnd::Told,
        };
        if matches!(end, ConnectionEnd::Told) {
            let farewell = async {
                outbox.write_rest(&mut self.writing).await?;
                self.writing.shutdown().await
            };
            // Who cannot be told finds out by the end of the connection.
            timeout(LAST_WORDS_TIMEOUT, farewell).await.ok();
        }
        end
    }
}

/// What the parts of a line's task share.
struct Pulse<'a, E> {
    outbox: &'a SendQueue,
    handler: &'a E,
    began: Instant,
    heard: AtomicBool,
}

impl<E: FrameHandler + Sync> Pulse<'_, E> {
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
                    return ConnectionEnd::Cut(error.to_string());
                }
                Err(error) => return ConnectionEnd::Nonsense(error),
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
            let before = inbox.heard_bytes();
            end = self.take(reading.read_buf(inbox.buffer()).await, inbox);
            // Whatever else is there already is taken in the same step.
            for _ in 0..READS_MAX {
                match reading.read_buf(inbox.buffer()).now_or_never() {
                    Some(read) if end.is_none() => end = self.take(read, inbox),
                    _ => break,
                }
            }
            unyielded += inbox.heard_bytes() - before;
        }
    }

    /// Takes what a read came to. How the connection ended, if it did.
    fn take(&self, read: io::Result<usize>, inbox: &mut PartialMessages) -> Option<ConnectionEnd> {
        match read {
            Ok(0) => Some(ConnectionEnd::Cut("it was closed".to_owned())),
            Ok(count) => {
                if inbox.came(count) {
                    self.heard.store(true, Ordering::Relaxed);
                }
                None
            }
            Err(error) => Some(ConnectionEnd::Cut(error.to_string())),
        }
    }

    /// Until nothing was heard for too long.
    async fn beat(&self, beat: Duration) {
        let mut ticks = interval(beat);
        // A process that was held up does not catch up on what it missed, and judges nobody by it.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        while silent < SILENT_BEATS_MAX {
            ticks.tick().await;
            self.outbox.urgent(kind::BEAT, self.micros(), &[]);
            silent = if self.heard.swap(false, Ordering::Relaxed) {
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

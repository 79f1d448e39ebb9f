//! One byte stream of a link.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::sync::lock;
use crate::wire::{self, Decoder};

/// Bodies of at least this size are sent from where they are instead of being copied behind the others.
const LARGE_BODY_BYTES: usize = 32 << 10;

pub(crate) struct Channel {
    stream: UnixStream,
    out: Mutex<Out>,
    /// Set while the write loop has been told that something waits.
    kicked: AtomicBool,
    kick: Notify,
}

/// What is yet to be written: `sealed` first, then `open`. Bounded by what a pool gives one worker at a time:
/// its slots times the payload limit.
#[derive(Default)]
struct Out {
    sealed: VecDeque<Bytes>,
    open: BytesMut,
    broken: bool,
}

impl Channel {
    /// Must be called within the runtime.
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, out: Mutex::default(), kicked: AtomicBool::new(false), kick: Notify::new() })
    }

    /// Appends a frame whose body is `meta` and then `body`.
    pub(crate) fn append(&self, kind: u8, id: u64, meta: &[u8], body: &Bytes) {
        let mut out = lock(&self.out);
        out.open.extend_from_slice(&wire::encode(kind, id, meta.len() + body.len()));
        out.open.extend_from_slice(meta);
        if body.len() < LARGE_BODY_BYTES {
            out.open.extend_from_slice(body);
        } else {
            let head = out.open.split().freeze();
            out.sealed.extend([head, body.clone()]);
        }
    }

    /// Appends a frame without a body and sends it.
    pub(crate) fn send(&self, kind: u8, id: u64, meta: &[u8]) {
        self.append(kind, id, meta, &Bytes::new());
        self.flush();
    }

    /// Writes what it can now; the write loop does the rest.
    pub(crate) fn flush(&self) {
        if !self.write_some() {
            self.kick();
        }
    }

    /// Lets the write loop write at its next turn, together with what is appended until then.
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            self.kick.notify_one();
        }
    }

    /// Writes until nothing is left or the peer takes no more. Returns whether nothing is left.
    fn write_some(&self) -> bool {
        let mut out = lock(&self.out);
        while let Some(front) = out.front() {
            match self.stream.try_write(front) {
                Ok(written) => front.advance(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // The peer is gone. Its end is told by its pidfd and by the reading side; what was to be written
                // has no reader any more.
                Err(_) => {
                    *out = Out { broken: true, ..Out::default() };
                }
            }
        }
        true
    }

    /// Sends what was appended and not flushed. Never ends by itself; dropping it loses nothing.
    pub(crate) async fn write_loop(&self) {
        loop {
            self.kick.notified().await;
            // Cleared before writing, so that an append that comes after the write kicks again.
            self.kicked.store(false, Ordering::Release);
            while !self.write_some() {
                if self.stream.writable().await.is_err() {
                    break;
                }
            }
        }
    }

    /// Reads once into the decoder. Returns how many bytes came; zero is the end of the stream. Cancel safe.
    pub(crate) async fn read(&self, decoder: &mut Decoder) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(decoder.buffer()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Reads what is there without waiting. Zero is the end of the stream or nothing to read.
    pub(crate) fn read_now(&self, decoder: &mut Decoder) -> usize {
        // Past tokio, whose idea of readiness may be older than the peer's death.
        super::read_into(&self.stream, decoder.buffer()).unwrap_or(0)
    }

    /// Whether the peer, which has ended, did not read all that was sent to it. Asked before the last reads: the kernel
    /// tells it once, as an error of the socket (unix(7)).
    pub(crate) fn was_left_unread(&self) -> bool {
        let out = lock(&self.out);
        let unsent = out.broken || !out.open.is_empty() || out.sealed.iter().any(|part| !part.is_empty());
        unsent || matches!(rustix::net::sockopt::socket_error(&self.stream), Ok(Err(rustix::io::Errno::CONNRESET)))
    }

    /// Tells the peer that nothing more comes, after what was appended.
    pub(crate) fn finish(&self) {
        self.flush();
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).ok();
    }
}

impl Out {
    fn front(&mut self) -> Option<&mut Bytes> {
        while self.sealed.front().is_some_and(Bytes::is_empty) {
            self.sealed.pop_front();
        }
        if self.broken {
            self.open.clear();
            self.sealed.clear();
        }
        if self.sealed.is_empty() && !self.open.is_empty() {
            let open = self.open.split().freeze();
            self.sealed.push_back(open);
        }
        self.sealed.front_mut()
    }
}

//! One byte stream of a link: frames are appended to memory and written by the appending thread or
//! by the write loop.
//!
//! Owns the socket and what is yet to be written. Frames are sent in the order in which they were
//! appended. Nothing is read but by the one task that calls `read`; what a dead peer left is read
//! with `read_now`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::read_into;
use crate::sync::lock;
use crate::wire::{self, Decoder};
use brigade_runtime::ready;

/// Bodies of at least this size are sent from where they are instead of being copied behind the
/// others.
const LARGE_BODY_BYTES: usize = 32 << 10;
/// How often a full socket is tried where no descriptor is left to watch it with.
const FULL_PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Channel {
    /// Watched for reading only: a Unix socket becomes writable again with each frame that the peer
    /// takes, and a wake for each of them would cost more than the frame does. `drain` watches for
    /// writing while it has to.
    stream: AsyncFd<OwnedFd>,
    out: Mutex<Out>,
    /// Set while the write loop has been woken because something waits.
    kicked: AtomicBool,
    kick: Notify,
}

/// What is yet to be written: `sealed` first, then `open`. Bounded by what a pool gives one worker
/// at a time: its slots times the payload limit.
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
        let stream = ready::readable(stream.into())?;
        Ok(Self {
            stream,
            out: Mutex::default(),
            kicked: AtomicBool::new(false),
            kick: Notify::new(),
        })
    }

    /// Appends a frame whose body is `meta` and then `body`.
    pub(crate) fn append(&self, kind: u8, id: u64, meta: &[u8], body: &Bytes) {
        let mut out = lock(&self.out);
        out.open
            .extend_from_slice(&wire::encode(kind, id, meta.len() + body.len()));
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
            match send(
                &self.stream,
                front,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(written) => out.advance(written),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                // The peer is gone. Its end is noticed by its pidfd and by the reading side; what
                // was to be written has no reader any more.
                Err(_) => {
                    *out = Out {
                        broken: true,
                        ..Out::default()
                    }
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
            if !self.write_some() {
                self.drain().await;
            }
        }
    }

    /// Writes all that is left, whenever the peer takes some.
    async fn drain(&self) {
        let writable = self.stream.get_ref().try_clone().and_then(ready::writable);
        loop {
            match &writable {
                Ok(writable) => match writable.writable().await {
                    Ok(_) if self.write_some() => return,
                    Ok(mut ready) => ready.clear_ready(),
                    // The runtime is shutting down and takes this task with it.
                    Err(_) => std::future::pending().await,
                },
                Err(_) if self.write_some() => return,
                Err(_) => sleep(FULL_PAUSE).await,
            }
        }
    }

    /// Reads once into the decoder. Returns how many bytes came; zero is the end of the stream.
    /// Cancel safe.
    pub(crate) async fn read(&self, decoder: &mut Decoder) -> io::Result<usize> {
        loop {
            let mut ready = self.stream.readable().await?;
            let buffer = decoder.buffer();
            let room = buffer.capacity() - buffer.len();
            match read_into(&self.stream, buffer) {
                Ok(count) => {
                    if (1..room).contains(&count) {
                        // Nothing is left, so the next read waits without asking once more; what
                        // has come since we were woken keeps it from waiting.
                        ready.clear_ready();
                    }
                    return Ok(count);
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether something came that was not read yet.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [0_u8];
        recv(
            &self.stream,
            &mut byte,
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        )
        .is_ok_and(|(_, count)| count > 0)
    }

    /// Reads what is there without waiting. Zero is the end of the stream or nothing to read.
    pub(crate) fn read_now(&self, decoder: &mut Decoder) -> usize {
        // Past tokio, whose idea of readiness may be older than the peer's death.
        read_into(&self.stream, decoder.buffer()).unwrap_or(0)
    }

    /// Whether the peer, which has ended, did not read all that was sent to it. Asked before the
    /// last reads: the kernel reports it once, as an error of the socket (unix(7)).
    pub(crate) fn was_left_unread(&self) -> bool {
        let out = lock(&self.out);
        let unsent =
            out.broken || !out.open.is_empty() || out.sealed.iter().any(|part| !part.is_empty());
        unsent
            || matches!(
                rustix::net::sockopt::socket_error(&self.stream),
                Ok(Err(rustix::io::Errno::CONNRESET))
            )
    }

    /// Ends the stream towards the peer, after what was appended.
    pub(crate) fn finish(&self) {
        self.flush();
        shutdown(&self.stream, Shutdown::Write).ok();
    }
}

impl Out {
    /// What is to be written next.
    fn front(&mut self) -> Option<&[u8]> {
        if self.broken {
            self.open.clear();
            self.sealed.clear();
        }
        let front = self.sealed.front().map_or(&self.open[..], |sealed| sealed);
        (!front.is_empty()).then_some(front)
    }

    /// Notes that this much of the front was written.
    fn advance(&mut self, written: usize) {
        match self.sealed.front_mut() {
            None => self.open.advance(written),
            Some(sealed) => {
                sealed.advance(written);
                if sealed.is_empty() {
                    self.sealed.pop_front();
                }
            }
        }
    }
}

//! What a worker writes to its standard output and error.
//!
//! Both are pipes that the pool reads all the time: passed through to our own, or kept for the attempt that asked
//! for it. The last 64 KiB of standard error are kept in any case, for the certificate. Nothing here ever waits
//! for the end of a pipe: a grandchild may hold it open for ever.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::console;
use crate::sync::lock;

/// Standard error kept for a certificate.
pub(crate) const TAIL_BYTES: usize = 64 << 10;
/// Read from a dead worker's pipe at most: a grandchild may still be writing.
const LAST_BYTES_MAX: usize = 1 << 20;
/// One read.
const CHUNK_BYTES: usize = 16 << 10;
/// How long a console that is behind may hold up the news of a worker's end.
const LAST_WAIT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What an attempt wrote, as far as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// What it wrote first, up to the limit of the call.
    pub text: Vec<u8>,
    /// How many bytes came after the limit and were dropped.
    pub dropped: u64,
}

/// Standard output and error of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
}

/// One of the two pipes.
pub(crate) struct Pipe {
    stream: Stream,
    fd: AsyncFd<OwnedFd>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    tail: VecDeque<u8>,
    capture: Option<(Captured, usize)>,
}

impl Pipe {
    /// Must be called within the runtime.
    pub(crate) fn stdout(fd: OwnedFd) -> io::Result<Self> {
        Self::new(Stream::Stdout, fd)
    }

    /// Must be called within the runtime.
    pub(crate) fn stderr(fd: OwnedFd) -> io::Result<Self> {
        Self::new(Stream::Stderr, fd)
    }

    fn new(stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let fd = crate::link::readable(fd)?;
        Ok(Self { stream, fd, kept: Mutex::default() })
    }

    /// Reads until the pipe ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing that was read is lost: text to be passed through is read only when there is room for it.
    pub(crate) async fn pump(&self) {
        while let Ok(mut ready) = self.fd.readable().await {
            match self.pass_on().await {
                Ok(()) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    /// Reads what a worker that has ended left behind. It waits for the console no longer than [`LAST_WAIT`].
    pub(crate) async fn rest(&self) {
        let all = async {
            for _ in 0..LAST_BYTES_MAX / CHUNK_BYTES {
                if self.pass_on().await.is_err() {
                    return;
                }
            }
        };
        timeout(LAST_WAIT, all).await.ok();
    }

    /// Reads once, for whoever captures or for the console.
    async fn pass_on(&self) -> Result<(), Errno> {
        let room = if lock(&self.kept).capture.is_some() { None } else { console::room().await };
        match (self.read()?, room) {
            (Some(text), Some(room)) => room.pass(self.stream, text),
            // The capture ended in between.
            (Some(text), None) => console::pass_now(self.stream, text),
            (None, _) => {}
        }
        Ok(())
    }

    /// From now on, up to this many bytes are kept for an attempt instead of being passed through. What was written
    /// before is not the attempt's.
    pub(crate) fn begin_capture(&self, bytes_max: usize) {
        self.drain();
        lock(&self.kept).capture = Some((Captured::default(), bytes_max));
    }

    /// What the attempt wrote: all that is in the pipe by now is its own.
    pub(crate) fn end_capture(&self) -> Captured {
        self.drain();
        lock(&self.kept).capture.take().map(|(captured, _)| captured).unwrap_or_default()
    }

    /// The last words of a worker that has ended.
    pub(crate) fn tail(&self) -> String {
        self.drain();
        let mut kept = lock(&self.kept);
        String::from_utf8_lossy(kept.tail.make_contiguous()).into_owned()
    }

    /// Reads what is there and passes through what nobody captures.
    fn drain(&self) {
        let mut read = 0;
        while read < LAST_BYTES_MAX
            && let Ok(text) = self.read()
        {
            read += text.as_ref().map_or(1, Bytes::len);
            if let Some(text) = text {
                console::pass_now(self.stream, text);
            }
        }
    }

    /// Reads once. Returns the text if it is to be passed through.
    fn read(&self) -> Result<Option<Bytes>, Errno> {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        let mut kept = lock(&self.kept);
        let count = rustix::io::read(self.fd.get_ref(), rustix::buffer::spare_capacity(&mut buffer))?;
        if count == 0 {
            return Err(Errno::PIPE);
        }
        if self.stream == Stream::Stderr {
            let over = (kept.tail.len() + buffer.len()).saturating_sub(TAIL_BYTES);
            let over = over.min(kept.tail.len());
            kept.tail.drain(..over);
            kept.tail.extend(&buffer);
        }
        if let Some((captured, bytes_max)) = &mut kept.capture {
            let room = bytes_max.saturating_sub(captured.text.len()).min(buffer.len());
            captured.text.extend_from_slice(&buffer[..room]);
            captured.dropped += (buffer.len() - room) as u64;
            return Ok(None);
        }
        Ok(Some(buffer.into()))
    }
}

//! What a worker writes to its standard output and error.
//!
//! Both are pipes that the pool reads all the time: passed through to our own, or kept for the
//! attempt that asked for it. The last 64 KiB of standard error are kept in any case, for the
//! report. Nothing here ever waits for the end of a pipe: a grandchild may hold it open for
//! ever.
//!
//! Text is passed through in whole lines, so that those of several workers are not cut into each
//! other. A line of more than [`LINE_BYTES_MAX`] comes in pieces, and one that has no end for
//! [`LINE_WAIT`], for example a prompt, comes without it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

use super::console;
use super::standard_stream::StandardStream;
use crate::attempt_report::TAIL_BYTES;
use crate::output::Captured;
use crate::sync::lock;

/// Read from a dead worker's pipe at most: a grandchild may still be writing.
const LAST_BYTES_MAX: usize = 1 << 20;
/// One read.
const CHUNK_BYTES: usize = 16 << 10;
/// A longer line is passed through in pieces.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How long the beginning of a line waits for its end.
const LINE_WAIT: Duration = Duration::from_millis(100);
/// How long a console that is behind may hold up the news of a worker's end.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// One of the two pipes.
pub(crate) struct Pipe {
    stream: StandardStream,
    /// Where it is passed through to.
    target: StandardStream,
    fd: AsyncFd<OwnedFd>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    tail: VecDeque<u8>,
    /// The beginning of a line that has not been passed through, and since when it waits.
    line: Vec<u8>,
    line_since: Option<Instant>,
    capture: Option<(Captured, usize)>,
}

impl Pipe {
    /// Must be called within the runtime.
    pub(crate) fn stdout(fd: OwnedFd, to_stderr: bool) -> io::Result<Self> {
        Self::new(
            StandardStream::Stdout,
            if to_stderr {
                StandardStream::Stderr
            } else {
                StandardStream::Stdout
            },
            fd,
        )
    }

    /// Must be called within the runtime.
    pub(crate) fn stderr(fd: OwnedFd) -> io::Result<Self> {
        Self::new(StandardStream::Stderr, StandardStream::Stderr, fd)
    }

    fn new(stream: StandardStream, target: StandardStream, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let fd = crate::link::readable(fd)?;
        Ok(Self {
            stream,
            target,
            fd,
            kept: Mutex::default(),
        })
    }

    /// Reads until the pipe ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing that was read is lost: text to be passed through is read only when there is room for
    /// it.
    pub(crate) async fn pump(&self) {
        loop {
            let due = lock(&self.kept).line_since.map(|since| since + LINE_WAIT);
            let ready = match due {
                Some(due) if due <= Instant::now() => {
                    self.pass_beginning().await;
                    continue;
                }
                Some(due) => match timeout_at(due, self.fd.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => continue,
                },
                None => self.fd.readable().await,
            };
            let Ok(mut ready) = ready else { return };
            match self.pass_on().await {
                Ok(()) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return self.pass_beginning().await,
            }
        }
    }

    /// Passes through the beginning of a line whose end did not come.
    async fn pass_beginning(&self) {
        let room = console::room().await;
        let text = lock(&self.kept).take_line();
        if let (Some(text), Some(room)) = (text, room) {
            room.pass(self.target, text);
        }
    }

    /// Reads what a worker that has ended left behind. It waits for the console no longer than
    /// [`LAST_WAIT`].
    pub(crate) async fn rest(&self) {
        let all = async {
            for _ in 0..LAST_BYTES_MAX / CHUNK_BYTES {
                if self.pass_on().await.is_err() {
                    break;
                }
            }
            self.pass_beginning().await;
        };
        timeout(LAST_WAIT, all).await.ok();
    }

    /// Reads once, for the capture or for the console.
    async fn pass_on(&self) -> Result<(), Errno> {
        let room = if lock(&self.kept).capture.is_some() {
            None
        } else {
            console::room().await
        };
        match (self.read()?, room) {
            (Some(text), Some(room)) => room.pass(self.target, text),
            // The capture ended in between.
            (Some(text), None) => console::pass_now(self.target, text),
            (None, _) => {}
        }
        Ok(())
    }

    /// From now on, up to this many bytes are kept for an attempt instead of being passed through.
    /// What was written before is not the attempt's.
    pub(crate) fn begin_capture(&self, bytes_max: usize) {
        self.drain();
        let mut kept = lock(&self.kept);
        if let Some(text) = kept.take_line() {
            console::pass_now(self.target, text);
        }
        kept.capture = Some((Captured::default(), bytes_max));
    }

    /// What the attempt wrote: all that is in the pipe by now is its own.
    pub(crate) fn end_capture(&self) -> Captured {
        self.drain();
        lock(&self.kept)
            .capture
            .take()
            .map(|(captured, _)| captured)
            .unwrap_or_default()
    }

    /// The last words of a worker that has ended.
    pub(crate) fn tail(&self) -> String {
        self.drain();
        let mut kept = lock(&self.kept);
        String::from_utf8_lossy(kept.tail.make_contiguous()).into_owned()
    }

    /// Reads what is there and passes through what is not captured.
    fn drain(&self) {
        let mut read = 0;
        while read < LAST_BYTES_MAX
            && let Ok(text) = self.read()
        {
            read += text.as_ref().map_or(CHUNK_BYTES, Bytes::len);
            if let Some(text) = text {
                console::pass_now(self.target, text);
            }
        }
    }

    /// Reads once. Returns the lines that are to be passed through and are whole by that.
    fn read(&self) -> Result<Option<Bytes>, Errno> {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        let mut kept = lock(&self.kept);
        let count = rustix::io::read(
            self.fd.get_ref(),
            rustix::buffer::spare_capacity(&mut buffer),
        )?;
        if count == 0 {
            return Err(Errno::PIPE);
        }
        if self.stream == StandardStream::Stderr {
            let over = (kept.tail.len() + buffer.len()).saturating_sub(TAIL_BYTES);
            let over = over.min(kept.tail.len());
            kept.tail.drain(..over);
            kept.tail.extend(&buffer);
        }
        if let Some((captured, bytes_max)) = &mut kept.capture {
            let room = bytes_max
                .saturating_sub(captured.text.len())
                .min(buffer.len());
            captured.text.extend_from_slice(&buffer[..room]);
            captured.dropped += (buffer.len() - room) as u64;
            return Ok(None);
        }
        Ok(kept.add_to_line(&buffer))
    }
}

impl Kept {
    /// Returns what ends with a line, and a line that is too long.
    fn add_to_line(&mut self, text: &[u8]) -> Option<Bytes> {
        let end = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map(|index| self.line.len() + index + 1);
        self.line.extend_from_slice(text);
        if self.line_since.is_none() && !self.line.is_empty() {
            self.line_since = Some(Instant::now());
        }
        let end = end.or((self.line.len() >= LINE_BYTES_MAX).then_some(self.line.len()))?;
        let rest = self.line.split_off(end);
        self.line_since = (!rest.is_empty()).then(Instant::now);
        Some(std::mem::replace(&mut self.line, rest).into())
    }

    fn take_line(&mut self) -> Option<Bytes> {
        self.line_since = None;
        (!self.line.is_empty()).then(|| std::mem::take(&mut self.line).into())
    }
}

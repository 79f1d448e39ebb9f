//! A byte stream over encrypted records.
//!
//! Each write becomes one record, so write together what belongs together; `write_vectored` makes
//! one record of all its parts. Memory is bounded: a write waits while more than [`OUT_BYTES_MAX`]
//! wait for the socket, and reading holds one opened record and what one read brought behind it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use snow::TransportState;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::authenticated::TransportStream;
use super::record::{self, BYTES_MAX, Damage, HEAD_BYTES};

/// A write waits for the socket from here on.
const OUT_BYTES_MAX: usize = 256 << 10;
/// One read asks for at least this much, so that many small records cost one system call.
const READ_BYTES: usize = 128 << 10;

struct Sealed<S> {
    socket: S,
    session: TransportState,
    out: BytesMut,
    /// Where the parts of a record are gathered.
    gathered: Vec<u8>,
    /// The record that ends the stream was written.
    is_finished: bool,
    input: BytesMut,
    /// The last record that was opened, [`BYTES_MAX`] bytes, and which of them were not handed out.
    plain: Box<[u8]>,
    unread: Range<usize>,
    over: ReadEnd,
}

/// Whether more can be read.
#[derive(Clone, Copy)]
enum ReadEnd {
    No,
    /// The peer ended the stream.
    Ended,
    /// It stays so, whatever comes.
    Damaged(Damage),
}

/// Encrypts a socket with records.
pub(super) fn sealed(
    socket: Box<dyn TransportStream>,
    session: TransportState,
) -> Box<dyn TransportStream> {
    Box::new(Sealed::new(socket, session))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sealed<S> {
    fn new(socket: S, session: TransportState) -> Self {
        Self {
            socket,
            session,
            out: BytesMut::new(),
            gathered: Vec::new(),
            is_finished: false,
            input: BytesMut::new(),
            plain: vec![0; BYTES_MAX].into(),
            unread: 0..0,
            over: ReadEnd::No,
        }
    }

    /// Opens the record at the front of the input, if it is there as a whole.
    fn open(&mut self) -> Result<(), Damage> {
        let Some((head, rest)) = self.input.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(());
        };
        let length = record::sealed_bytes(*head)?;
        let Some(sealed) = rest.get(..length) else {
            return Ok(());
        };
        let bytes = record::open(&mut self.session, sealed, &mut self.plain)?;
        self.input.advance(HEAD_BYTES + length);
        self.unread = 0..bytes;
        if bytes == 0 {
            self.over = ReadEnd::Ended;
        }
        Ok(())
    }

    /// Reads until there are opened bytes or the stream is over.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match self.over {
                ReadEnd::Ended => return Poll::Ready(Ok(())),
                ReadEnd::Damaged(damage) => return Poll::Ready(Err(damage.into())),
                ReadEnd::No => {}
            }
            if let Err(damage) = self.open() {
                self.over = ReadEnd::Damaged(damage);
            } else if self.unread.is_empty() && matches!(self.over, ReadEnd::No) {
                self.input.reserve(READ_BYTES);
                // This future has no state of its own, so that it may be dropped after each poll.
                let count = ready!(pin!(self.socket.read_buf(&mut self.input)).poll(cx))?;
                if count == 0 {
                    self.over = ReadEnd::Damaged(Damage::Cut);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until nothing is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Makes a record of these parts and writes what the socket takes of it.
    fn poll_record(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
        if self.is_finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.out.len() >= OUT_BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        let bytes = parts.iter().map(|part| part.len()).sum();
        if bytes == 0 {
            return Poll::Ready(Ok(0));
        }
        self.append(parts)?;
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is left goes with the next write or flush.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes)),
        }
    }

    fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if let [part] = parts {
            return record::seal(&mut self.session, part, &mut self.out);
        }
        self.gathered.clear();
        for part in parts {
            self.gathered.extend_from_slice(part);
        }
        record::seal(&mut self.session, &self.gathered, &mut self.out)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sealed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_opened(cx))?;
        // All records that are there go out together: what is behind this does more at once then.
        while !this.unread.is_empty() {
            let count = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.plain[this.unread.start..this.unread.start + count]);
            this.unread.start += count;
            if this.unread.is_empty()
                && let Err(damage) = this.open()
            {
                // Reported by the next read, after the good bytes.
                this.over = ReadEnd::Damaged(damage);
            } else if buffer.remaining() == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sealed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(BYTES_MAX);
        self.get_mut().poll_record(cx, &[&bytes[..count]])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = BYTES_MAX;
        let mut taken = Vec::with_capacity(parts.len());
        for part in parts {
            let count = part.len().min(room);
            taken.push(&part[..count]);
            room -= count;
        }
        self.get_mut().poll_record(cx, &taken)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_finished {
            this.append(&[])?;
            this.is_finished = true;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

//! Passing a worker's output on to our own, on a thread of its own: a terminal that is stopped must
//! not stop the pool.
//!
//! Each text is written whole before the next one, and under the locks of `std::io`, so that lines
//! of this program are not cut either. Only where our own output is non-blocking and full, another
//! thread of this program may come in between.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::standard_stream::StandardStream;
use crate::shutdown::spawn_thread;

enum ConsoleMessage {
    Text(StandardStream, Bytes),
    Flush(oneshot::Sender<()>),
}

/// Chunks of at most 64 KiB that may wait for the console; then workers wait, as they would for a
/// terminal.
const CHUNKS_MAX: usize = 16;

/// Room for one chunk: its holder passes text on without waiting, so that nothing is read that
/// could get lost.
pub(super) struct ConsoleRoom(mpsc::Permit<'static, ConsoleMessage>);

/// Waits while the console is behind. `None` where there is no console.
pub(super) async fn room() -> Option<ConsoleRoom> {
    console()?.reserve().await.ok().map(ConsoleRoom)
}

impl ConsoleRoom {
    pub(super) fn pass(self, stream: StandardStream, text: Bytes) {
        self.0.send(ConsoleMessage::Text(stream, text));
    }
}

/// Where nothing can wait: dropped while the console is behind.
pub(super) fn pass_now(stream: StandardStream, text: Bytes) {
    if let Some(console) = console() {
        console.try_send(ConsoleMessage::Text(stream, text)).ok();
    }
}

/// Returns when all that was passed before has been written.
pub(crate) async fn flush() {
    let (reply, written) = oneshot::channel();
    if let Some(console) = console()
        && console.send(ConsoleMessage::Flush(reply)).await.is_ok()
    {
        written.await.ok();
    }
}

fn console() -> Option<&'static mpsc::Sender<ConsoleMessage>> {
    static CONSOLE: OnceLock<Option<mpsc::Sender<ConsoleMessage>>> = OnceLock::new();
    let console = CONSOLE.get_or_init(|| {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
        let serve = move || {
            while let Some(message) = receiver.blocking_recv() {
                write(message);
            }
        };
        spawn_thread("brigade-console", 128 << 10, serve)
            .ok()
            .map(|()| sender)
    });
    console.as_ref()
}

fn write(message: ConsoleMessage) {
    match message {
        ConsoleMessage::Text(stream, text) => write_all(stream, &text),
        ConsoleMessage::Flush(reply) => drop(reply.send(())),
    }
}

/// Our output may be non-blocking: the process that started us may share it, and have set that.
/// Then `Write::write_all` would give up halfway.
fn write_all(stream: StandardStream, mut text: &[u8]) {
    while !text.is_empty() {
        match write_once(stream, text) {
            Ok(count) => text = &text[count..],
            Err(Errno::AGAIN) => wait_until_writable(stream),
            Err(Errno::INTR) => {}
            // Where the console is closed the error has no reader.
            Err(_) => return,
        }
    }
}

fn write_once(stream: StandardStream, text: &[u8]) -> Result<usize, Errno> {
    match stream {
        StandardStream::Stdout => {
            let mut lock = io::stdout().lock();
            // What this program printed before comes before.
            match lock.flush() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Errno::AGAIN),
                // It is closed, which the write below notices.
                Err(_) | Ok(()) => {}
            }
            rustix::io::write(rustix::stdio::stdout(), text)
        }
        StandardStream::Stderr => {
            let _lock = io::stderr().lock();
            rustix::io::write(rustix::stdio::stderr(), text)
        }
    }
}

fn wait_until_writable(stream: StandardStream) {
    let fd = match stream {
        StandardStream::Stdout => rustix::stdio::stdout(),
        StandardStream::Stderr => rustix::stdio::stderr(),
    };
    // An error is met again by the next write.
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None).ok();
}

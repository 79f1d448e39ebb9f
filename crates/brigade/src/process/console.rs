//! Passing a worker's output on to our own, on a thread of its own: a terminal that is stopped must not stop
//! the pool.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::output::Stream;
use crate::shutdown::spawn_thread;

enum Message {
    Text(Stream, Bytes),
    Flush(oneshot::Sender<()>),
}

/// Chunks of at most 64 KiB that may wait for the console; then workers wait, as they would for a terminal.
const CHUNKS_MAX: usize = 16;

/// Room for one chunk: whoever has it passes text on without waiting, so that nothing is read that could get lost.
pub(super) struct Room(mpsc::Permit<'static, Message>);

/// Waits while the console is behind. `None` where there is no console.
pub(super) async fn room() -> Option<Room> {
    console()?.reserve().await.ok().map(Room)
}

impl Room {
    pub(super) fn pass(self, stream: Stream, text: Bytes) {
        self.0.send(Message::Text(stream, text));
    }
}

/// Where nothing can wait: dropped while the console is behind.
pub(super) fn pass_now(stream: Stream, text: Bytes) {
    if let Some(console) = console() {
        console.try_send(Message::Text(stream, text)).ok();
    }
}

/// Returns when all that was passed before has been written.
pub(crate) async fn flush() {
    let (reply, written) = oneshot::channel();
    if let Some(console) = console()
        && console.send(Message::Flush(reply)).await.is_ok()
    {
        written.await.ok();
    }
}

fn console() -> Option<&'static mpsc::Sender<Message>> {
    static CONSOLE: OnceLock<Option<mpsc::Sender<Message>>> = OnceLock::new();
    let console = CONSOLE.get_or_init(|| {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
        let serve = move || {
            while let Some(message) = receiver.blocking_recv() {
                write(message);
            }
        };
        spawn_thread("brigade-console", 128 << 10, serve).ok().map(|()| sender)
    });
    console.as_ref()
}

fn write(message: Message) {
    // Where the console is closed there is nobody to tell.
    match message {
        Message::Text(Stream::Stdout, text) => io::stdout().write_all(&text).and_then(|()| io::stdout().flush()).ok(),
        Message::Text(Stream::Stderr, text) => io::stderr().write_all(&text).ok(),
        Message::Flush(reply) => reply.send(()).ok(),
    };
}

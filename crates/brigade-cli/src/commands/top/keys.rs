//! The keys of the terminal, read by a thread of their own: reading them blocks, and goes on for
//! ever when the terminal is gone. The thread ends with the process.

use std::io;
use std::thread;

use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// Keys that wait for the loop; the thread waits when they are so many, as the terminal does.
const PENDING_MAX: usize = 256;

pub(super) struct Keys(mpsc::Receiver<io::Result<Event>>);

impl Keys {
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(PENDING_MAX);
        let read = move || {
            loop {
                let event = event::read();
                let is_end = event.is_err();
                if sender.blocking_send(event).is_err() || is_end {
                    return;
                }
            }
        };
        thread::Builder::new().name("keys".to_owned()).spawn(read)?;
        Ok(Self(receiver))
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Event> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "no more keys come");
        self.0.recv().await.unwrap_or_else(|| Err(ended()))
    }
}

//! The signals that end or continue `brigade top`.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::screen;
use crate::exit;

/// How long the loop has to end by itself. It may hang in a write to a terminal that takes nothing.
const END_BOUND: Duration = Duration::from_secs(2);

/// Signals of this process. Cancel safe.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    cont: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            cont: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Meaning {
        let Self {
            interrupt,
            terminate,
            hangup,
            quit,
            cont,
        } = self;
        tokio::select! {
            _ = interrupt.recv() => Meaning::End,
            _ = terminate.recv() => Meaning::End,
            _ = hangup.recv() => Meaning::End,
            _ = quit.recv() => Meaning::End,
            _ = cont.recv() => Meaning::Continued,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    End,
    /// This process goes on after it was stopped: the shell has used the terminal.
    Continued,
}

/// Ends the process if it has not ended a while after a signal.
pub(super) fn force() -> io::Result<impl Future<Output = ()> + Send> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        while signals.next().await != Meaning::End {}
        tokio::time::sleep(END_BOUND).await;
        screen::restore_modes();
        std::process::exit(i32::from(exit::STOPPED));
    })
}

//! The signals that stop `brigade work`, and whether they also stopped a program.
//!
//! SIGINT, SIGTERM and SIGHUP often reach more than this process: a terminal signals its foreground
//! group, systemd every process of a unit. A program that ends because of that signal was
//! interrupted, it has not failed. The kernel does not say which processes got a signal, so the
//! program's end is evidence: the signal killed it, its exit code says so as shells do (128 + the
//! signal), or it exited with an error and handles the signal. In either case this process must
//! have got the same signal. The program may have got it a moment earlier, so for a short time it
//! is waited for.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use brigade::Exit;
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long after a program was killed by a stop signal the same signal may reach this process: who
/// signals many processes does it in a loop.
const SIGNAL_SPREAD: Duration = Duration::from_millis(200);
/// The same after an exit with an error, which may well have another reason.
const EXIT_SPREAD: Duration = Duration::from_millis(50);

/// Signals as the kernel writes them in `/proc`: bit n-1 is signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signals(u64);

impl Signals {
    /// Those that stop `brigade work`.
    pub(super) const STOP: Self = Self::of(Signal::INT)
        .and(Self::of(Signal::TERM))
        .and(Self::of(Signal::HUP));

    const fn of(signal: Signal) -> Self {
        Self(1 << (signal.as_raw() - 1))
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, number: i32) -> bool {
        (1..=64).contains(&number) && self.0 & (1 << (number - 1)) != 0
    }

    const fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that a process handles, as long as it is not reaped.
    pub(super) fn handled_by(process: Pid) -> Self {
        Self::of_status(&format!("{}", process.as_raw_nonzero()), "SigCgt:")
    }

    fn of_status(process: &str, line: &str) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|text| u64::from_str_radix(text.strip_prefix(line)?.trim(), 16).ok());
        Self(mask.unwrap_or_default())
    }
}

/// What this process was asked to do by signals.
pub(super) struct Stop {
    /// Take nothing new.
    pub(super) drain: CancellationToken,
    /// Kill what runs.
    pub(super) halt: CancellationToken,
    came: Cell<Signals>,
    news: Notify,
}

/// The signals of this process, from now on.
pub(super) struct Listener {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// `None` if it is ignored (`nohup`).
    hang_up: Option<unix::Signal>,
}

impl Listener {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen for signals");
        let ignored = Signals::of_status("self", "SigIgn:");
        let hang_up = if ignored.has(Signal::HUP.as_raw()) {
            None
        } else {
            Some(listen(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up,
        })
    }

    async fn next(&mut self) -> Signal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = hang_up => Signal::HUP,
        }
    }
}

impl Stop {
    pub(super) fn new() -> Self {
        Self {
            drain: CancellationToken::new(),
            halt: CancellationToken::new(),
            came: Cell::default(),
            news: Notify::new(),
        }
    }

    /// Obeys the signals: the first one drains, a second one halts. SIGHUP only drains: systemd
    /// sends it together with another. Never returns. `on_drain` is called once.
    pub(super) async fn obey(&self, mut signals: Listener, on_drain: impl FnOnce()) {
        let mut on_drain = Some(on_drain);
        loop {
            let signal = signals.next().await;
            self.came.set(self.came.get().and(Signals::of(signal)));
            match on_drain.take() {
                Some(on_drain) => {
                    on_drain();
                    self.drain.cancel();
                }
                None if signal != Signal::HUP => self.halt.cancel(),
                None => {}
            }
            self.news.notify_waiters();
        }
    }

    /// Whether a signal that stops this process ended a program as well; `handled` are those that
    /// the program handled.
    pub(super) async fn took(&self, exit: Exit, handled: Signals) -> bool {
        let (wanted, spread) = match exit {
            // SIGKILL of a whole unit: then this process does not live until the time is over.
            Exit::Signal(9) => (Signals::default(), SIGNAL_SPREAD),
            Exit::Signal(number) if Signals::STOP.has(number) => {
                (Signals(1 << (number - 1)), SIGNAL_SPREAD)
            }
            Exit::Code(code) if code > 128 && Signals::STOP.has(code - 128) => {
                (Signals(1 << (code - 129)), SIGNAL_SPREAD)
            }
            Exit::Code(code) if code != 0 => (Signals::STOP.among(handled), EXIT_SPREAD),
            _ => return false,
        };
        if wanted.is_empty() && !matches!(exit, Exit::Signal(9)) {
            return false;
        }
        let came = async {
            loop {
                let news = self.news.notified();
                if !self.came.get().among(wanted).is_empty() {
                    return;
                }
                news.await;
            }
        };
        timeout(spread, came).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_by(signals: Signals) -> Stop {
        let stop = Stop::new();
        stop.came.set(signals);
        stop
    }

    #[tokio::test]
    async fn only_the_signal_that_came_takes_a_program_along() {
        let terminated = stopped_by(Signals::of(Signal::TERM));
        let (none, both) = (Signals::default(), Signals::STOP);
        for (exit, handled, expected) in [
            (Exit::Signal(15), none, true),
            (Exit::Code(143), none, true),
            (Exit::Code(1), both, true),
            (Exit::Code(1), none, false),
            (Exit::Code(1), Signals::of(Signal::INT), false),
            (Exit::Signal(2), none, false),
            (Exit::Code(130), none, false),
            (Exit::Signal(11), both, false),
            (Exit::Signal(9), both, false),
            (Exit::Code(0), both, false),
        ] {
            assert_eq!(terminated.took(exit, handled).await, expected, "{exit:?}");
        }
        assert!(
            !stopped_by(none).took(Exit::Signal(15), none).await,
            "no signal came here"
        );
    }

    #[tokio::test]
    async fn a_signal_that_comes_a_moment_later_counts() {
        let stop = stopped_by(Signals::default());
        let later = async {
            tokio::task::yield_now().await;
            stop.came.set(Signals::of(Signal::INT));
            stop.news.notify_waiters();
        };
        let (took, ()) = tokio::join!(stop.took(Exit::Signal(2), Signals::default()), later);
        assert!(took);
    }
}

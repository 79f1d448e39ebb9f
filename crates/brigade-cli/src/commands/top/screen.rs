//! The terminal: prepared for the screen and put back, however the command ends.
//!
//! `enter` and `restore` are the only code that changes its modes. They run at start and end,
//! around a stop (Ctrl-Z), when the process goes on after one, and in a panic.

use std::io::{self, Stdout, Write as _, stdout};
use std::panic;
use std::sync::Once;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::{Position, Rect};
use ratatui::{Frame, Terminal};
use rustix::process::{Signal, getpgrp, kill_process_group};

/// What a program ends with after a panic.
const PANICKED: i32 = 101;

/// The prepared terminal; dropping it puts the terminal back.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        restore_at_panic();
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        // From here on a drop puts it back.
        let mut screen = Self(terminal);
        screen.prepare()?;
        Ok(screen)
    }

    /// Prepares the terminal once more, after another program has used it, and forgets what was on
    /// it.
    pub(super) fn enter_again(&mut self) -> io::Result<()> {
        restore();
        self.prepare()
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }

    /// Stops this process group as Ctrl-Z does, and returns when it goes on. Where no shell could
    /// continue it, the system ignores the stop.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        restore();
        kill_process_group(getpgrp(), Signal::TSTP)?;
        self.prepare()
    }

    fn prepare(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        // Not `clear`, which asks the terminal for the place of its cursor: the answer would come
        // as a key.
        let size = self.0.size()?;
        self.0.resize(Rect::from((Position::ORIGIN, size)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back. Each part is tried whatever became of the others: it may be gone.
fn restore() {
    let mut out = stdout().lock();
    queue!(out, DisableBracketedPaste, LeaveAlternateScreen, Show).ok();
    out.flush().ok();
    restore_modes();
}

/// The part that does not write, and so cannot hang.
pub(super) fn restore_modes() {
    disable_raw_mode().ok();
}

/// A panic of any thread puts the terminal back, so that its message can be read, and ends the
/// process: it holds nothing that could be lost.
fn restore_at_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
            std::process::exit(PANICKED);
        }));
    });
}

#[cfg(test)]
mod tests;

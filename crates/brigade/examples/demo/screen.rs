//! How text looks: colour and a line of progress on a terminal, plain text everywhere else.
//! Progress goes to standard error, so that standard output can be piped while it shows.

use std::env;
use std::fmt;
use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::time::{Duration, Instant};

/// How often the line of progress is written again.
const STEP: Duration = Duration::from_millis(100);

/// What standard output can show.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    has_colour: bool,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            has_colour: stdout().is_terminal() && !is_refused && !is_dumb,
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn verdict(self, is_good: bool, text: &str) -> String {
        self.paint(if is_good { "1;32" } else { "1;31" }, text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Rows under a header, each column as wide as its widest cell, numbers to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        cells
            .map(|(cell, width)| format!(" {cell:>width$}", width = *width))
            .collect::<Vec<_>>()
            .join(" ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One line of progress on standard error, if that is a terminal; dropped, it is wiped away.
pub(crate) struct Progress {
    is_shown: bool,
    written: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            is_shown: stderr().is_terminal(),
            written: None,
        }
    }

    /// Writes the line again, at most ten times a second.
    pub(crate) fn show(&mut self, text: impl fmt::Display) {
        let is_due = self.written.is_none_or(|at| at.elapsed() >= STEP);
        if self.is_shown && is_due {
            self.written = Some(Instant::now());
            // A terminal that is gone is no reason to stop.
            write!(stderr(), "\r\x1b[2K{text}").ok();
        }
    }

    /// Wipes the line away, for other output.
    pub(crate) fn hide(&mut self) {
        if self.written.take().is_some() {
            write!(stderr(), "\r\x1b[2K").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

/// A count with a comma for each thousand.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An amount of memory or data, in the largest unit of which it is at least one.
#[expect(clippy::cast_precision_loss, reason = "an amount for people")]
pub(crate) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut amount = number as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.2} {}", units[unit])
}

//! Rows and their cells. Every text of others passes [`cell`], which makes it harmless for a
//! terminal, before it is filtered, measured or drawn.

use std::cmp::Ordering;
use std::time::Duration;

use brigade::JobId;

use super::page::DeadOf;
use crate::escape::{cut, escape};

/// Characters of a text that are kept: more than a row can show.
pub(super) const TEXT_CHARS_MAX: usize = 300;

pub(super) struct Row {
    /// Names the row from reading to reading.
    pub(super) id: String,
    pub(super) cells: Vec<Cell>,
    pub(super) tone: Tone,
    pub(super) target: Option<Target>,
}

/// A cell: its text, and what it is sorted by if that is a number.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) number: Option<f64>,
}

/// How a row is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Paused, or being cancelled.
    Quiet,
    Bad,
}

/// What keys act on.
pub(super) enum Target {
    Queue { name: String, is_paused: bool },
    Schedule { name: String, is_paused: bool },
    Job(JobId),
    Dead(DeadOf),
}

impl Row {
    pub(super) fn new(id: impl Into<String>, cells: Vec<Cell>, target: Option<Target>) -> Self {
        Self {
            id: id.into(),
            cells,
            tone: Tone::Plain,
            target,
        }
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// Text of others as a cell.
pub(super) fn cell(text: &str) -> Cell {
    let shown = escape(cut_before_escape(text)).into_owned();
    Cell {
        text: cut(&shown, TEXT_CHARS_MAX).into_owned(),
        number: None,
    }
}

/// The beginning of a text, before work is done on all of it.
fn cut_before_escape(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_CHARS_MAX * 4)]
}

/// A text that is sorted by a number.
pub(super) fn numbered(text: String, number: f64) -> Cell {
    Cell {
        text,
        number: Some(number),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for the order of rows")]
pub(super) fn number(count: u64) -> Cell {
    numbered(count.to_string(), count as f64)
}

/// A duration as a cell; `-` if there is none.
pub(super) fn time(time: Option<Duration>) -> Cell {
    let unknown = || numbered("-".to_owned(), -1.0);
    time.map_or_else(unknown, |time| numbered(brief(time), time.as_secs_f64()))
}

/// `12ms`, `3.4s`, `5m10s`, `2h03m`, `4d02h`.
pub(super) fn brief(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..=9 => format!("{:.1}s", time.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

impl Cell {
    /// Numbers with the largest first, texts by the alphabet.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            _ => self.text.cmp(&other.text),
        }
    }
}

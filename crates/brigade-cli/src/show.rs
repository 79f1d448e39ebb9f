//! Jobs on standard output: lines of JSON for programs, tables for people.

use std::io::{self, IsTerminal as _, Write as _, stderr, stdout};
use std::ops::Range;

use brigade::{
    AttemptKind, AttemptRecord, AttemptReport, JobId, JobInfo, JobState, Parents, Step, StopReceipt,
};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::escape::{compact_json, cut, escape};
use crate::times::rfc3339;

/// Characters of a payload or a reason in a table on a terminal; nothing is cut where the output
/// goes elsewhere.
const CELL_WIDTH: usize = 60;

/// Prints a line on standard error; see `note!`.
pub(crate) fn write_note(text: &str) {
    // Nothing depends on it: the reader of standard error may be gone, as with a terminal that was
    // closed.
    writeln!(stderr().lock(), "brigade: {}", escape(text)).ok();
}

/// Prints a line on standard error, harmless for a terminal whatever it contains.
/// Unlike `eprintln!`, it does not panic when standard error is gone.
macro_rules! note {
    ($($text:tt)*) => { $crate::show::write_note(&format!($($text)*)) };
}
pub(crate) use note;

/// One line of text, harmless for a terminal whatever is in it.
pub(crate) fn line(text: &str) -> io::Result<()> {
    block(&escape(text))
}

/// Text of several lines, or with colours, whose foreign parts are harmless already.
pub(crate) fn block(text: &str) -> io::Result<()> {
    writeln!(stdout().lock(), "{text}")
}

/// One JSON document on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(block(&compact_json(&serde_json::to_string(value)?))?)
}

/// A table with a frame on a terminal, plain columns elsewhere. Columns in `right` are numbers.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    right: Range<usize>,
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(if stdout().is_terminal() {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::NOTHING
    });
    table.set_header(header);
    table.add_rows(rows.map(|row| row.map(|cell| escape(&cell).into_owned())));
    for column in table.column_iter_mut().take(right.end).skip(right.start) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    block(&table.trim_fmt())
}

/// A cell with text of other people.
pub(crate) fn cell(text: &str) -> String {
    let text = escape(text);
    if stdout().is_terminal() {
        cut(&text, CELL_WIDTH).into_owned()
    } else {
        text.into_owned()
    }
}

/// A cell of JSON text, which another program may have written wrongly.
pub(crate) fn json_cell(text: &str) -> String {
    cell(&readable_json(text))
}

/// JSON text for people.
pub(crate) fn readable_json(text: &str) -> String {
    if serde_json::from_str::<&RawValue>(text).is_ok() {
        compact_json(text)
    } else {
        escape(text).into_owned()
    }
}

/// JSON text as part of a document: itself, or a string if it is none.
pub(crate) fn raw(text: &str) -> Box<RawValue> {
    let parse = |text: String| RawValue::from_string(text).ok();
    parse(text.to_owned())
        .or_else(|| parse(serde_json::to_string(text).ok()?))
        .unwrap_or_else(|| RawValue::NULL.to_owned())
}

/// A job as a document.
#[derive(Serialize)]
pub(crate) struct JobDocument<'a> {
    id: &'a str,
    queue: &'a str,
    task: Option<&'a str>,
    state: JobState,
    payload: Box<RawValue>,
    priority: i32,
    key: Option<&'a str>,
    partition: Option<&'a str>,
    label: Option<&'a str>,
    tick: Option<TickDocument<'a>>,
    pushed_at: String,
    due_at: Option<String>,
    begins_by: Option<String>,
    failed: u32,
    crashed: u32,
    interrupted: u32,
    holder: Option<&'a str>,
    cancel: Option<&'a str>,
    result: Option<Box<RawValue>>,
    reason: Option<&'a str>,
    parents: Option<&'a Parents>,
    dependent: Option<&'a str>,
    history: Vec<AttemptDocument<'a>>,
}

#[derive(Serialize)]
struct TickDocument<'a> {
    schedule: &'a str,
    at: String,
}

#[derive(Serialize)]
struct AttemptDocument<'a> {
    attempt: u32,
    at: String,
    kind: AttemptKind,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a AttemptReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<StopDocument>,
}

/// How an attempt was stopped, as a document.
#[derive(Serialize)]
pub(crate) struct StopDocument {
    step: Step,
    at: String,
    seconds: f64,
}

impl StopDocument {
    pub(crate) fn new(receipt: &StopReceipt) -> Self {
        Self {
            step: receipt.step,
            at: rfc3339(receipt.at),
            seconds: receipt.took.as_secs_f64(),
        }
    }
}

impl<'a> JobDocument<'a> {
    pub(crate) fn new(job: &'a JobInfo) -> Self {
        Self {
            id: job.id.as_str(),
            queue: &job.queue,
            task: job.task.as_deref(),
            state: job.state,
            payload: raw(&job.payload),
            priority: job.priority,
            key: job.key.as_deref(),
            partition: job.partition.as_deref(),
            label: job.label.as_deref(),
            tick: job.tick.as_ref().map(|tick| TickDocument {
                schedule: &tick.schedule,
                at: rfc3339(tick.at),
            }),
            pushed_at: rfc3339(job.pushed_at),
            due_at: job.due_at.map(rfc3339),
            begins_by: job.begins_by.map(rfc3339),
            failed: job.failed,
            crashed: job.crashed,
            interrupted: job.interrupted,
            holder: job.holder.as_deref(),
            cancel: job.cancel.as_deref(),
            result: job.result.as_deref().map(raw),
            reason: job.reason.as_deref(),
            parents: job.parents.as_ref(),
            dependent: job.dependent.as_ref().map(JobId::as_str),
            history: job.history.iter().map(AttemptDocument::new).collect(),
        }
    }
}

impl<'a> AttemptDocument<'a> {
    fn new(record: &'a AttemptRecord) -> Self {
        let AttemptRecord {
            attempt,
            at,
            kind,
            reason,
            report,
            stop,
            ..
        } = record;
        let (report, stop) = (report.as_deref(), stop.as_ref().map(StopDocument::new));
        Self {
            attempt: *attempt,
            at: rfc3339(*at),
            kind: *kind,
            reason,
            report,
            stop,
        }
    }
}

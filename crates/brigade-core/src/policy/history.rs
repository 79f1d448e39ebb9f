//! What the history of a job keeps.

use serde::Serialize;

use super::HISTORY_MAX;
use crate::attempt_report::brief::BriefReport;
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, AttemptRecord};

/// Adds an attempt to a history, which keeps the newest [`HISTORY_MAX`]. Attempts in a row that
/// were [unserved](AttemptKind::Unserved) are one record.
pub fn add_record(history: &mut Vec<AttemptRecord>, record: AttemptRecord) {
    let is_unserved = |record: &AttemptRecord| record.kind == AttemptKind::Unserved;
    if is_unserved(&record) && history.last().is_some_and(is_unserved) {
        history.pop();
    }
    history.push(record);
    history.drain(..history.len().saturating_sub(HISTORY_MAX));
}

/// The JSON of an [`AttemptRecord`] from its kind on, for a store that writes the attempt and the
/// moment before it: without the brace that opens it.
///
/// # Errors
///
/// `Encode` if there is no JSON of the report.
pub fn record_from_kind(
    kind: AttemptKind,
    reason: &str,
    report: Option<&AttemptReport>,
    stop: Option<&StopReceipt>,
) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Rest<'a> {
        kind: AttemptKind,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        report: Option<BriefReport<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop: Option<&'a StopReceipt>,
    }
    let mut text = serde_json::to_string(&Rest {
        kind,
        reason,
        report: report.map(BriefReport::from),
        stop,
    })
    .map_err(|e| Error::new(ErrorKind::Encode, "write a history").with_source(e))?;
    text.remove(0);
    Ok(text)
}

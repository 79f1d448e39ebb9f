//! What the history of a job keeps.

use super::HISTORY_MAX;
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

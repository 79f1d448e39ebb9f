//! The hash of a job as values.
//!
//! What other programs stored may be no text, or lack fields: it is read with defaults and never an
//! error.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use redis::Value;

use super::keys::id_of;
use super::reply::read;
use crate::error::Error;
use crate::job::{AttemptRecord, JobId, JobInfo, JobState, Parents, Unserved};
use brigade_core::options::Options;

pub(super) fn state_of(text: Option<&str>) -> JobState {
    JobState::ALL
        .into_iter()
        .find(|state| text == Some(state.to_string().as_str()))
        .unwrap_or(JobState::Ready)
}

pub(super) fn number_of(fields: &HashMap<String, String>, name: &str) -> u64 {
    fields
        .get(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn parents(fields: &HashMap<String, String>) -> Option<Parents> {
    let count = |name: &str| u32::try_from(number_of(fields, name)).unwrap_or(u32::MAX);
    let (parents, left, missed) = (count("parents"), count("parents_left"), count("missed"));
    (parents > 0).then(|| Parents {
        total: parents,
        settled: parents.saturating_sub(left),
        missed,
        unsettled: Vec::new(),
    })
}

fn dependent_of(fields: &HashMap<String, String>) -> Option<JobId> {
    let queue = fields
        .get("dependent_queue")?
        .strip_prefix("brigade:{")?
        .strip_suffix("}:")?;
    Some(id_of(queue, fields.get("dependent")?))
}

/// What other programs have pushed may be no text.
pub(super) fn fields_of_hash(value: Value) -> Result<HashMap<String, String>, Error> {
    let fields: HashMap<String, Vec<u8>> = read(value)?;
    Ok(fields
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect())
}

pub(super) fn info(
    queue: &str,
    number: &str,
    fields: &HashMap<String, String>,
    history: &[String],
) -> JobInfo {
    let text = |name: &str| fields.get(name).cloned();
    let count = |name: &str| u32::try_from(number_of(fields, name)).unwrap_or(u32::MAX);
    let options: Options = fields
        .get("options")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let due = number_of(fields, "due");
    JobInfo {
        id: id_of(queue, number),
        queue: queue.to_owned(),
        task: text("task"),
        state: state_of(fields.get("state").map(String::as_str)),
        payload: text("payload").unwrap_or_default(),
        priority: options.priority(),
        key: text("key"),
        partition: text("partition").filter(|partition| !partition.is_empty()),
        label: options.label.clone().map(Into::into),
        tick: options.tick.clone(),
        options,
        leased_at: None,
        ended_at: (number_of(fields, "ended_at") > 0)
            .then(|| UNIX_EPOCH + Duration::from_millis(number_of(fields, "ended_at"))),
        pushed_at: UNIX_EPOCH + Duration::from_millis(number_of(fields, "pushed_at")),
        due_at: (due > 0).then(|| UNIX_EPOCH + Duration::from_millis(due)),
        failed: count("failed"),
        crashed: count("crashed"),
        interrupted: count("interrupted"),
        lost: count("lost"),
        unserved: (count("unserved") > 0).then(|| Unserved {
            times: count("unserved"),
            since: UNIX_EPOCH + Duration::from_millis(number_of(fields, "unserved_at")),
        }),
        holder: text("holder"),
        begins_by: (number_of(fields, "begins_by") > 0)
            .then(|| UNIX_EPOCH + Duration::from_millis(number_of(fields, "begins_by"))),
        cancel: text("cancel"),
        parents: parents(fields),
        dependent: dependent_of(fields),
        result: text("result"),
        reason: text("reason"),
        history: history
            .iter()
            .filter_map(|text| serde_json::from_str::<AttemptRecord>(text).ok())
            .collect(),
    }
}

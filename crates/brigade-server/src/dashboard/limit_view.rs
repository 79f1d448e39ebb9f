//! [`LimitView`]: the limits of a queue, with what is used of them.

use brigade::{JobState, Limits, QueueCounts, Rate};

use super::sentence::jobs_in;
use super::words::{number, span};

/// Limits as text, for a list and for the fields of the form.
pub(super) struct LimitView {
    pub(super) running: String,
    pub(super) starts: String,
    pub(super) per: String,
    pub(super) running_per_partition: String,
    pub(super) starts_per_partition: String,
    pub(super) per_of_partition: String,
    pub(super) turns: bool,
    /// `3 of 5 running`.
    pub(super) used: String,
    /// The share that is used, in hundredths.
    pub(super) share: u64,
    pub(super) is_full: bool,
    /// The others in words.
    pub(super) others: Vec<String>,
}

impl LimitView {
    pub(super) fn new(limits: Limits, queue: &QueueCounts) -> Self {
        let running = jobs_in(queue, JobState::Leased);
        let text = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
        let starts = |rate: Option<Rate>| text(rate.map(|rate| rate.starts));
        let per = |rate: Option<Rate>| {
            rate.map_or_else(String::new, |rate| rate.per.as_secs_f64().to_string())
        };
        let limit = limits.running.map(u64::from);
        let used = limit.map_or_else(
            || format!("{} running, without a limit", number(running)),
            |limit| format!("{} of {} running", number(running), number(limit)),
        );
        Self {
            running: text(limits.running),
            starts: starts(limits.starts),
            per: per(limits.starts),
            running_per_partition: text(limits.running_per_partition),
            starts_per_partition: starts(limits.starts_per_partition),
            per_of_partition: per(limits.starts_per_partition),
            turns: limits.turns,
            used,
            share: limit.map_or(0, |limit| (running * 100 / limit.max(1)).min(100)),
            is_full: limit.is_some_and(|limit| running >= limit),
            others: others(limits),
        }
    }
}

fn others(limits: Limits) -> Vec<String> {
    let rate = |rate: Rate| {
        format!(
            "{} starts within {}",
            number(rate.starts.into()),
            span(rate.per)
        )
    };
    let parts = [
        limits.starts.map(rate),
        limits
            .running_per_partition
            .map(|n| format!("{} running per partition", number(n.into()))),
        limits
            .starts_per_partition
            .map(|limit| format!("{} per partition", rate(limit))),
        limits.turns.then(|| "partitions take turns".to_owned()),
    ];
    parts.into_iter().flatten().collect()
}

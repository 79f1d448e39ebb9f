//! [`JobRow`]: one job in a list, as text.

use std::time::SystemTime;

use brigade::{JobInfo, JobState};

use super::ansi::plain;
use super::viewer::encoded;
use super::words::{ShownTime, state_word};

/// Longest payload and reason in a row.
const TEXT_CHARS_MAX: usize = 120;

/// A job with the facts of its row.
pub(super) struct JobRow {
    pub(super) id: String,
    /// Its page, on the dashboard.
    pub(super) path: String,
    pub(super) queue: String,
    pub(super) queue_path: String,
    /// The task, else the label, else the queue.
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) pushed: ShownTime,
    /// When it is due, runs since, or ended.
    pub(super) then: Option<(&'static str, ShownTime)>,
    pub(super) attempts: u32,
    /// Why it ended, else the beginning of its payload.
    pub(super) text: String,
    pub(super) is_reason: bool,
    pub(super) can_retry: bool,
    pub(super) can_cancel: bool,
}

impl JobRow {
    pub(super) fn new(job: &JobInfo, now: SystemTime) -> Self {
        let then = match job.state {
            JobState::Scheduled | JobState::Retrying => job.due_at.map(|at| ("due", at)),
            JobState::Leased => job.leased_at.map(|at| ("since", at)),
            _ => job.ended_at.map(|at| ("ended", at)),
        };
        // The counters have those that did not end well.
        let last = u32::from(matches!(job.state, JobState::Leased | JobState::Done));
        let name = job
            .task
            .as_ref()
            .or(job.label.as_ref())
            .unwrap_or(&job.queue);
        let reason = job.reason.as_deref().filter(|reason| !reason.is_empty());
        Self {
            id: job.id.to_string(),
            path: format!("/jobs/{}", encoded(job.id.as_str())),
            queue: job.queue.clone(),
            queue_path: format!("/queues/{}", encoded(&job.queue)),
            name: name.clone(),
            state: state_word(job.state),
            pushed: ShownTime::new(job.pushed_at, now),
            then: then.map(|(word, at)| (word, ShownTime::new(at, now))),
            attempts: job.failed + job.crashed + job.interrupted + last,
            text: start_of(&reason.map_or_else(|| job.payload.clone(), plain)),
            is_reason: reason.is_some(),
            can_retry: job.state == JobState::Dead,
            can_cancel: !job.state.is_terminal(),
        }
    }
}

/// The beginning of a text, on one line.
pub(super) fn start_of(text: &str) -> String {
    let mut start: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(TEXT_CHARS_MAX)
        .collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

//! [`ConsumerRow`]: one consumer, with what it runs.

use std::time::SystemTime;

use brigade::{LiveConsumer, RunningJob};

use super::viewer::encoded;
use super::words::{ShownTime, number, span};

/// A consumer as text.
pub(super) struct ConsumerRow {
    pub(super) id: String,
    pub(super) host: String,
    /// Its process, and the server that it comes through.
    pub(super) process: String,
    pub(super) version: String,
    /// Another version than most.
    pub(super) is_odd: bool,
    pub(super) since: ShownTime,
    /// Names and paths of its queues.
    pub(super) queues: Vec<(String, String)>,
    pub(super) more_queues: usize,
    pub(super) held: String,
    pub(super) running: Vec<RunningRow>,
    pub(super) more_running: usize,
}

/// A job that a consumer runs.
pub(super) struct RunningRow {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(super) took: String,
    /// Hundredths, and the text.
    pub(super) progress: Option<(u64, String)>,
}

impl ConsumerRow {
    /// `usual` is the version that most consumers have.
    pub(super) fn new(consumer: &LiveConsumer, now: SystemTime, usual: Option<&str>) -> Self {
        let version = consumer.version.clone().unwrap_or_default();
        Self {
            id: consumer.id.clone(),
            host: consumer.host.clone(),
            process: process(consumer),
            is_odd: usual.is_some_and(|usual| usual != version),
            version,
            since: ShownTime::new(consumer.since, now),
            queues: consumer
                .queues
                .iter()
                .take(12)
                .map(|queue| (queue.clone(), format!("/queues/{}", encoded(queue))))
                .collect(),
            more_queues: consumer
                .queues_served
                .saturating_sub(consumer.queues.len().min(12)),
            held: match consumer.prefetch {
                0 => number(consumer.held as u64),
                slots => format!(
                    "{} of {}",
                    number(consumer.held as u64),
                    number(slots as u64)
                ),
            },
            running: consumer
                .running
                .iter()
                .map(|job| RunningRow::new(job, now))
                .collect(),
            more_running: consumer.held.saturating_sub(consumer.running.len()),
        }
    }
}

impl RunningRow {
    pub(super) fn new(job: &RunningJob, now: SystemTime) -> Self {
        Self {
            name: job.task.clone().unwrap_or_else(|| job.queue.clone()),
            path: format!("/jobs/{}", encoded(job.job.as_str())),
            id: job.job.to_string(),
            attempt: job.attempt,
            took: span(now.duration_since(job.since).unwrap_or_default()),
            progress: job.progress.as_ref().map(|(share, text)| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 100"
                )]
                let percent = (share.clamp(0.0, 1.0) * 100.0) as u64;
                (percent, text.clone())
            }),
        }
    }
}

/// The process of a consumer, and the server that it comes through.
pub(super) fn process(consumer: &LiveConsumer) -> String {
    let pid = consumer.pid.map(|pid| format!("pid {pid}"));
    let via = consumer.via.as_ref().map(|via| format!("over {via}"));
    let parts: Vec<String> = pid.into_iter().chain(via).collect();
    parts.join(", ")
}

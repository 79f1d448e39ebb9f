//! [`LiveConsumer`]: what a consumer announces of itself.

use std::time::SystemTime;

use crate::job::JobId;

/// A consumer that is alive: its process takes jobs from this broker.
///
/// A consumer announces itself when it starts and renews that for as long as it runs; a server does
/// that for the consumers that take jobs through it. A clean stop
/// takes it off the list at once. One that was killed, or is cut off from its broker, is listed
/// until its last announcement runs out, at most a minute later; on SQLite and RabbitMQ no longer
/// than its process runs.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct LiveConsumer {
    /// Names the consumer among all consumers of its broker.
    pub id: String,
    /// The queues that it serves, the first [`QUEUES_NAMED_MAX`](Self::QUEUES_NAMED_MAX) of them.
    pub queues: Vec<String>,
    /// How many queues it serves.
    pub queues_served: usize,
    /// The host it runs on.
    pub host: String,
    /// Its process on that host; of one behind a server, only if it says so.
    pub pid: Option<u32>,
    /// The server through which it takes jobs, for example `HTTP`; `None` if it asks the broker
    /// itself.
    #[serde(default)]
    pub via: Option<String>,
    /// The version of its program, if that says one (`Consumer::version`).
    pub version: Option<String>,
    /// When it started, by the clock of its host.
    pub since: SystemTime,
    /// The most jobs that it holds at once.
    #[serde(default)]
    pub prefetch: usize,
    /// How many jobs it holds.
    #[serde(default)]
    pub held: usize,
    /// The jobs that it holds, the first [`RUNNING_NAMED_MAX`](Self::RUNNING_NAMED_MAX) of them,
    /// the oldest first. Renewed a second or two after a change.
    #[serde(default)]
    pub running: Vec<RunningJob>,
}

/// A job that a live consumer holds.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct RunningJob {
    /// Its id.
    pub job: JobId,
    /// Its queue.
    pub queue: String,
    /// The task, if it is a task's.
    pub task: Option<String>,
    /// Number of the attempt, from 1, as the consumer knows it: without passes and interruptions,
    /// which events and histories count.
    pub attempt: u32,
    /// When it was handed out, by the clock of the consumer's host.
    pub since: SystemTime,
    /// The last progress that it reported, from 0 to 1, with its text if it was one; the text is
    /// cut at [`PROGRESS_TEXT_BYTES_MAX`](Self::PROGRESS_TEXT_BYTES_MAX).
    #[serde(default)]
    pub progress: Option<(f64, String)>,
}

impl RunningJob {
    /// Longest text of a progress that is announced.
    pub const PROGRESS_TEXT_BYTES_MAX: usize = 200;

    /// A job that is handed out now.
    pub fn new(job: JobId, queue: impl Into<String>, task: Option<String>, attempt: u32) -> Self {
        Self {
            job,
            queue: queue.into(),
            task,
            attempt,
            since: SystemTime::now(),
            progress: None,
        }
    }
}

impl LiveConsumer {
    /// The most queues that are named; a consumer may serve more.
    pub const QUEUES_NAMED_MAX: usize = 100;
    /// The most jobs that are named; a consumer may hold more.
    pub const RUNNING_NAMED_MAX: usize = 50;

    /// A consumer of these queues that starts now, in this process.
    pub fn new(id: impl Into<String>, host: impl Into<String>, queues: &[Box<str>]) -> Self {
        let named = queues.iter().take(Self::QUEUES_NAMED_MAX);
        Self {
            id: id.into(),
            queues: named.map(ToString::to_string).collect(),
            queues_served: queues.len(),
            host: host.into(),
            pid: Some(std::process::id()),
            via: None,
            version: None,
            since: SystemTime::now(),
            prefetch: 0,
            held: 0,
            running: Vec::new(),
        }
    }
}

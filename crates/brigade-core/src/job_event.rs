//! [`JobEvent`]: a change of state of a job, as a store keeps it for readers.
//!
//! A store records an event in the same atomic step as the change. It records only while its events
//! are read: a request for events starts the recording, and it goes on for [`RECORDED_FOR`] after
//! the last request. So a broker that is not watched pays nothing, and a reader that was away for a
//! few minutes goes on where it was. The log is bounded: a store keeps at least the newest
//! [`EVENTS_KEPT`] events, and says when a reader was too slow ([`EventPage::missed`]).
//!
//! Each change is one event. The end of an attempt has the kind of that end and the state that the
//! job has after it: a failed attempt leaves a job that is retried, dead, or cancelled if that was
//! asked for meanwhile. A job that is taken is handed out and done at once: two events. That time
//! passes makes none: a job that falls due, or that goes on after another one, is next seen when it
//! is handed out, and kept results are removed without one.
//!
//! Nothing in Brigade depends on events for what it does with a job.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::attempt_report::Cost;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId, JobState};

/// How long events are recorded after the last request for them.
pub const RECORDED_FOR: Duration = Duration::from_secs(3600);
/// Events that a store keeps at least: of all queues together, or more.
pub const EVENTS_KEPT: usize = 10_000;
/// The most events of one page.
pub const EVENTS_PER_PAGE_MAX: usize = 1_000;
/// Jobs of one purge of a queue whose removal is an event: the first of them. The others are
/// removed without one.
pub const PURGE_EVENTS_MAX: usize = 1_000;
/// Longest reason that an event has.
pub const EVENT_REASON_BYTES_MAX: usize = 1_000;

/// A place in the events of a broker: opaque text, to go on from later. Cursors of one broker mean
/// nothing to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCursor(Box<str>);

impl EventCursor {
    /// A cursor as it was printed.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The cursor as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.escape_default().to_string())
    }
}

/// A place in the events of a store that records them only while they are read: the number of the
/// recording, and that of the event in it. As a cursor it is `3-1207`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedPlace {
    /// The number of the recording, 0 at least.
    pub recording: i64,
    /// The number of the event, 0 at least.
    pub event: i64,
}

impl TryFrom<&EventCursor> for RecordedPlace {
    type Error = Error;

    fn try_from(cursor: &EventCursor) -> Result<Self, Error> {
        let number = |text: &str| text.parse().ok().filter(|number: &i64| *number >= 0);
        let parts = cursor.as_str().split_once('-');
        let place = parts.and_then(|(recording, event)| {
            Some(Self {
                recording: number(recording)?,
                event: number(event)?,
            })
        });
        place.ok_or_else(|| {
            let text = format!(
                "read events after {cursor:?}: a cursor of this broker has the form \"3-1207\""
            );
            Error::new(ErrorKind::BadOption, text)
        })
    }
}

impl From<RecordedPlace> for EventCursor {
    fn from(place: RecordedPlace) -> Self {
        Self::new(format!("{}-{}", place.recording, place.event))
    }
}

/// A change of state of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Its place: events after this one are later.
    pub cursor: EventCursor,
    /// When, by the clock of the store.
    pub at: SystemTime,
    /// The job.
    pub job: JobId,
    /// Its queue.
    pub queue: String,
    /// The task, if it is a task's.
    pub task: Option<String>,
    /// What happened.
    pub kind: JobEventKind,
    /// The state of the job after that; of one that was removed, the last that it had.
    pub state: JobState,
    /// Number of the attempt that this is about, from 1, as in
    /// [`AttemptRecord::attempt`](crate::AttemptRecord::attempt); 0 if it is about none.
    pub attempt: u32,
    /// Why, for people; cut at [`EVENT_REASON_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the attempt cost, if its holder said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JobEventKind {
    /// It was pushed.
    Pushed,
    /// It was handed out: an attempt begins.
    Leased,
    /// It ended well.
    Done,
    /// An attempt failed.
    Failed,
    /// An attempt took its worker down.
    Crashed,
    /// An attempt was cut short, without charge: a shutdown, a lost host, a lease that ran out.
    Interrupted,
    /// It was given back untouched, without charge.
    Passed,
    /// It was given back by a consumer that cannot run it.
    Unserved,
    /// It became a dead letter otherwise than by a failed or crashed attempt: too late, set aside
    /// by its holder, a parent missed.
    Dead,
    /// It was cancelled.
    Cancelled,
    /// A dead letter was put back into its queue, or waits again for one of its flow that was.
    Retried,
    /// It was removed.
    Deleted,
}

/// What the end of an attempt is.
impl From<AttemptKind> for JobEventKind {
    fn from(kind: AttemptKind) -> Self {
        match kind {
            AttemptKind::Done => Self::Done,
            AttemptKind::Failed => Self::Failed,
            AttemptKind::Crashed => Self::Crashed,
            AttemptKind::Passed => Self::Passed,
            AttemptKind::Cancelled => Self::Cancelled,
            AttemptKind::SetAside => Self::Dead,
            AttemptKind::Unserved => Self::Unserved,
            AttemptKind::Interrupted => Self::Interrupted,
        }
    }
}

impl JobEventKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Pushed,
        Self::Leased,
        Self::Done,
        Self::Failed,
        Self::Crashed,
        Self::Interrupted,
        Self::Passed,
        Self::Unserved,
        Self::Dead,
        Self::Cancelled,
        Self::Retried,
        Self::Deleted,
    ];

    /// Its name, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Leased => "leased",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
            Self::Interrupted => "interrupted",
            Self::Passed => "passed",
            Self::Unserved => "unserved",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Retried => "retried",
            Self::Deleted => "deleted",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for JobEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A request for events.
#[derive(Clone, Debug, Default)]
pub struct EventRequest {
    /// Only those after this place; `None`: those from now on.
    pub after: Option<EventCursor>,
    /// Only of this queue.
    pub queue: Option<Box<str>>,
    /// The most events to give, at most [`EVENTS_PER_PAGE_MAX`]; a store may give a few more.
    pub max: usize,
    /// How long to wait for the first event; zero does not wait.
    pub wait: Duration,
}

/// Events of a broker, in order.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// The events.
    pub events: Vec<JobEvent>,
    /// The place to go on after.
    pub next: EventCursor,
    /// There were events between the place that was asked for and these that are no longer kept, or
    /// were not recorded.
    pub missed: bool,
}

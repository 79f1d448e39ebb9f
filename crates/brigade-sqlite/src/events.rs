//! Events of jobs: a row for each change, written with it, while they are read.
//!
//! Whether they are recorded is a fact of the file, `recording`: until when, by the wall clock, and
//! the number of this recording. A request for events renews it; each transaction that changes a
//! job looks at it, so that every process records from the commit of that request on. A place is
//! the number of the recording and that of the event: one of an earlier recording has missed what
//! happened between the two.
//!
//! A trigger removes old events, at most as many at once as come between two of its runs.

use std::time::{Duration, Instant};

use rusqlite::{Row, params};
use tokio::time::sleep;

use super::Sqlite;
use super::job_change::{Cause, ChangedJob};
use super::look::state_of;
use super::operation::{OperationAccess, Synced};
use super::store::{Store, code, millis};
use crate::clock::later;
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobState};
use crate::schedule::time_of;
use brigade_core::job_event::{
    EVENT_REASON_BYTES_MAX, EVENTS_PER_PAGE_MAX, RECORDED_FOR, RecordedPlace,
};
use brigade_core::printable::shorten;
use brigade_core::{EventCursor, EventPage, EventRequest, JobEvent, JobEventKind};

/// A request renews the recording only if that adds at least so much.
const RENEWED_EVERY: Duration = Duration::from_secs(60);
/// A reader that found nothing of its own looks again after this pause at the earliest.
const PAUSE: Duration = Duration::from_millis(10);

/// The recording of events.
#[derive(Clone, Copy, Default)]
struct Recording {
    /// Until when, wall clock.
    until: i64,
    number: i64,
}

impl Recording {
    fn of_text(text: &str) -> Self {
        let (until, number) = text.split_once(' ').unwrap_or_default();
        Self {
            until: until.parse().unwrap_or(0),
            number: number.parse().unwrap_or(0),
        }
    }
}

impl Sqlite {
    /// One page, as soon as it has events or the time is over.
    pub(super) async fn read_events(&self, request: EventRequest) -> Result<EventPage, Error> {
        let until = later(Instant::now(), request.wait);
        let mut request = request;
        loop {
            let (changed, asked) = (self.wake.next(), request.clone());
            let access = OperationAccess::HandOut {
                // A new recording has a number that no other gets, not even after a loss of power.
                sync: Synced::Now,
                looks_first: true,
                at_once: false,
            };
            let thread = self.thread_for_looks().await;
            let page = thread
                .run(access, move |store| store.events(&asked))
                .await?;
            let left = until.saturating_duration_since(Instant::now());
            if !page.events.is_empty() || page.missed || left.is_zero() {
                return Ok(page);
            }
            request.after = Some(page.next);
            sleep(PAUSE.min(left)).await;
            tokio::select! {
                () = changed => {}
                () = sleep(super::LOOK_AGAIN.min(left)) => {}
            }
        }
    }
}

impl Store<'_> {
    fn recording(&self) -> Result<Recording, Error> {
        let sql = "SELECT value FROM brigade_facts WHERE name = 'recording'";
        let read = |row: &Row<'_>| Ok(Recording::of_text(&row.get::<_, String>(0)?));
        let found = self.row("look whether events are read", sql, &[], read)?;
        Ok(found.unwrap_or_default())
    }

    /// Whether changes are recorded in this transaction.
    pub(super) fn is_recording(&self) -> Result<bool, Error> {
        if let Some(is_recording) = self.recording.get() {
            return Ok(is_recording);
        }
        self.forget_if_changed()?;
        let known = self.cache.borrow().read_before.recorded_until;
        let until = match known {
            Some(until) => until,
            None => self.recording()?.until,
        };
        self.cache.borrow_mut().read_before.recorded_until = Some(until);
        let is_recording = until > self.now.wall;
        self.recording.set(Some(is_recording));
        Ok(is_recording)
    }

    /// Records a change.
    pub(super) fn record(
        &self,
        job: &ChangedJob<'_>,
        state: JobState,
        cause: &Cause<'_>,
    ) -> Result<(), Error> {
        let reason = cause
            .reason
            .map(|reason| shorten(reason, EVENT_REASON_BYTES_MAX));
        let cost = cause.cost.map(serde_json::to_string).transpose();
        let cost = cost.map_err(|e| {
            Error::new(ErrorKind::Encode, "write the cost of an attempt").with_source(e)
        })?;
        let sql = "INSERT INTO brigade_events (at, job, queue, task, kind, state, attempt, reason, \
            cost) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let values = params![
            self.now.wall,
            job.id,
            job.queue,
            job.task,
            cause.kind.name(),
            code(state),
            cause.attempt,
            reason,
            cost
        ];
        self.execute("record an event", sql, values).map(drop)
    }

    /// One page of events; sees to it that events are recorded from now on.
    fn events(&self, request: &EventRequest) -> Result<EventPage, Error> {
        let after = request
            .after
            .as_ref()
            .map(RecordedPlace::try_from)
            .transpose()?;
        let recording = self.recording()?;
        let is_on = recording.until > self.now.wall;
        let until = self.now.wall.saturating_add(millis(RECORDED_FOR));
        if !is_on || until.saturating_sub(recording.until) >= millis(RENEWED_EVERY) {
            if self.is_look {
                self.must_write.set(true);
                return Ok(EventPage {
                    events: Vec::new(),
                    next: EventCursor::new(""),
                    missed: false,
                });
            }
            let number = recording.number + i64::from(!is_on);
            self.set_recording(Recording { until, number })?;
            return self.events_after(after, number, request);
        }
        self.events_after(after, recording.number, request)
    }

    fn set_recording(&self, recording: Recording) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO brigade_facts (name, value) VALUES ('recording', ?1)";
        let text = format!("{} {}", recording.until, recording.number);
        self.execute("note that events are read", sql, params![text])?;
        self.recording.set(Some(true));
        self.cache.borrow_mut().read_before.recorded_until = Some(recording.until);
        Ok(())
    }

    fn events_after(
        &self,
        after: Option<RecordedPlace>,
        recording: i64,
        request: &EventRequest,
    ) -> Result<EventPage, Error> {
        let (first, last) = self.events_kept()?;
        let place = |event| RecordedPlace { recording, event };
        let Some(after) = after else {
            return Ok(EventPage {
                events: Vec::new(),
                next: place(last).into(),
                missed: false,
            });
        };
        // One of a file that was replaced by an older copy is ahead.
        let missed = after.recording != recording
            || after.event.saturating_add(1) < first
            || after.event > last;
        let from = if after.event > last {
            last
        } else {
            after.event
        };
        let max = request.max.clamp(1, EVENTS_PER_PAGE_MAX);
        let events = self.events_from(from, recording, request.queue.as_deref(), max)?;
        let next = match events.last() {
            Some(event) if events.len() == max => event.cursor.clone(),
            _ => place(last).into(),
        };
        Ok(EventPage {
            events,
            next,
            missed,
        })
    }

    /// The numbers of the first event that is kept and of the last one that there ever was.
    fn events_kept(&self) -> Result<(i64, i64), Error> {
        let sql = "SELECT coalesce((SELECT min(seq) FROM brigade_events), 0), coalesce((SELECT seq \
            FROM sqlite_sequence WHERE name = 'brigade_events'), 0)";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found = self.row("look for events", sql, &[], read)?;
        Ok(found.unwrap_or_default())
    }

    fn events_from(
        &self,
        after: i64,
        recording: i64,
        queue: Option<&str>,
        max: usize,
    ) -> Result<Vec<JobEvent>, Error> {
        let of_queue = if queue.is_some() {
            "queue = ?3"
        } else {
            "?3 IS NULL"
        };
        let sql = format!(
            "SELECT seq, at, job, queue, task, kind, state, attempt, reason, cost FROM \
                brigade_events WHERE seq > ?1 AND {of_queue} ORDER BY seq LIMIT ?2"
        );
        let values = params![after, i64::try_from(max).unwrap_or(i64::MAX), queue];
        self.rows("read events", &sql, values, |row| event(row, recording))
    }
}

fn event(row: &Row<'_>, recording: i64) -> rusqlite::Result<JobEvent> {
    let kind: String = row.get(5)?;
    let cost: Option<String> = row.get(9)?;
    let place = RecordedPlace {
        recording,
        event: row.get(0)?,
    };
    Ok(JobEvent {
        cursor: place.into(),
        at: time_of(row.get(1)?),
        job: JobId::new(row.get::<_, i64>(2)?.to_string()),
        queue: row.get(3)?,
        task: row.get(4)?,
        // One that a later version of this library wrote.
        kind: JobEventKind::of_name(&kind).unwrap_or(JobEventKind::Interrupted),
        state: state_of(row.get(6)?).unwrap_or(JobState::Dead),
        attempt: row.get(7)?,
        reason: row.get(8)?,
        cost: cost.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

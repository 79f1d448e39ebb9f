//! Events of jobs: a row for each change, written with it, while they are read
//! (`schema/events.sql`).
//!
//! Whether they are recorded is a fact in the database: until when, and the number of this
//! recording. A request for events renews it. A place is the number of the recording and that of
//! the event: one of an earlier recording has missed what happened between the two.
//!
//! A transaction that began before the recording does not see it, so the request that begins one
//! waits until those have ended, for at most [`OLD_WRITERS_WAIT`]. What an application pushed in a
//! longer transaction of its own by then is no event.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Row;

use super::database::{Database, Statement, millis};
use super::look::state_of;
use super::sql_error::unreadable;
use super::store::Postgres;
use crate::clock::later;
use crate::error::Error;
use crate::job::{JobId, JobState};
use brigade_core::job_event::{EVENTS_PER_PAGE_MAX, RECORDED_FOR, RecordedPlace};
use brigade_core::{EventPage, EventRequest, JobEvent, JobEventKind};

const WATCH: Statement = Statement::write_again(
    "read events",
    "select recording, is_new, is_more, last from brigade.watch_events($1, $2, $3)",
);
const READ: Statement = Statement::read(
    "read events",
    "select first, last, seq, at, job, queue, task, kind, state, attempt, reason, cost from \
        brigade.read_events($1, $2, $3)",
);
const WRITERS: Statement = Statement::read(
    "look for open transactions",
    "select pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint from \
        pg_current_snapshot() s",
);
/// A request renews the recording only if that adds at least so much.
const RENEWED_EVERY: Duration = Duration::from_secs(60);
/// Events that get their numbers in one transaction.
const NUMBERED_AT_ONCE: i32 = 5_000;
/// A reader that found nothing of its own looks again after this pause.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long the beginning of a recording waits for transactions that began before it.
const OLD_WRITERS_WAIT: Duration = Duration::from_millis(500);
/// Between two looks for them.
const OLD_WRITERS_PAUSE: Duration = Duration::from_millis(5);

impl Postgres {
    /// One page, as soon as it has events or the time is over.
    pub(super) async fn read_events(&self, request: EventRequest) -> Result<EventPage, Error> {
        let until = later(Instant::now(), request.wait);
        let mut request = request;
        loop {
            let page = self.database.events(&request).await?;
            let left = until.saturating_duration_since(Instant::now());
            if !page.events.is_empty() || page.missed || left.is_zero() {
                return Ok(page);
            }
            request.after = Some(page.next);
            sleep(PAUSE.min(left)).await;
        }
    }
}

impl Database {
    /// One page of events; sees to it that events are recorded from now on.
    async fn events(&self, request: &EventRequest) -> Result<EventPage, Error> {
        let after = request.after.as_ref();
        let after = after.map(RecordedPlace::try_from).transpose()?;
        let mut end = self.watch_events().await?;
        let Some(after) = after else {
            return Ok(EventPage {
                events: Vec::new(),
                next: end.into(),
                missed: false,
            });
        };
        if after == end {
            return Ok(EventPage {
                events: Vec::new(),
                next: end.into(),
                missed: false,
            });
        }
        let most = request.max.clamp(1, EVENTS_PER_PAGE_MAX);
        let limit = i32::try_from(most).unwrap_or(i32::MAX);
        let queue = request.queue.as_deref();
        let rows = self.rows(READ, &[&after.event, &queue, &limit]).await?;
        let kept = |column| {
            rows.first()
                .and_then(|row| row.try_get::<_, i64>(column).ok())
        };
        let (first, last) = kept(0).zip(kept(1)).ok_or_else(|| unreadable(READ.what))?;
        // One of a database that was replaced by an older copy is ahead.
        let missed = after.recording != end.recording
            || after.event.saturating_add(1) < first
            || after.event > last;
        let events = rows.iter().filter_map(|row| event(row, end.recording));
        let events: Vec<JobEvent> = events.collect();
        end.event = last;
        let next = match events.last() {
            Some(event) if events.len() == most => event.cursor.clone(),
            _ => end.into(),
        };
        Ok(EventPage {
            events,
            next,
            missed,
        })
    }

    /// Numbers what there is; gives the end of it.
    async fn watch_events(&self) -> Result<RecordedPlace, Error> {
        let (lasts, renewed) = (millis(RECORDED_FOR), millis(RENEWED_EVERY));
        loop {
            let row = self
                .row(WATCH, &[&lasts, &renewed, &NUMBERED_AT_ONCE])
                .await?;
            let read = || {
                let row = row?;
                let place = RecordedPlace {
                    recording: row.try_get(0).ok()?,
                    event: row.try_get(3).ok()?,
                };
                Some((
                    place,
                    row.try_get::<_, bool>(1).ok()?,
                    row.try_get::<_, bool>(2).ok()?,
                ))
            };
            let (place, is_new, is_more) = read().ok_or_else(|| unreadable(WATCH.what))?;
            if is_new {
                self.wait_for_old_writers().await?;
            }
            if !is_new && !is_more {
                return Ok(place);
            }
        }
    }

    async fn wait_for_old_writers(&self) -> Result<(), Error> {
        let (until, mut first) = (later(Instant::now(), OLD_WRITERS_WAIT), None);
        loop {
            let row = self.row(WRITERS, &[]).await?;
            let read = || {
                let row = row?;
                Some((
                    row.try_get::<_, i64>(0).ok()?,
                    row.try_get::<_, i64>(1).ok()?,
                ))
            };
            let (oldest, next) = read().ok_or_else(|| unreadable(WRITERS.what))?;
            if oldest >= *first.get_or_insert(next) || Instant::now() >= until {
                return Ok(());
            }
            sleep(OLD_WRITERS_PAUSE).await;
        }
    }
}

/// An event from its columns behind the first two; none where they are null.
fn event(row: &Row, recording: i64) -> Option<JobEvent> {
    let place = RecordedPlace {
        recording,
        event: row.try_get::<_, Option<i64>>(2).ok()??,
    };
    let cost: Option<&str> = row.try_get(11).ok()?;
    let attempt: i32 = row.try_get(9).ok()?;
    Some(JobEvent {
        cursor: place.into(),
        at: row.try_get(3).ok()?,
        job: JobId::new(row.try_get::<_, i64>(4).ok()?.to_string()),
        queue: row.try_get(5).ok()?,
        task: row.try_get(6).ok()?,
        // One that a later version of this library wrote.
        kind: JobEventKind::of_name(row.try_get(7).ok()?).unwrap_or(JobEventKind::Interrupted),
        state: row
            .try_get(8)
            .ok()
            .and_then(state_of)
            .unwrap_or(JobState::Dead),
        attempt: attempt.unsigned_abs(),
        reason: row.try_get(10).ok()?,
        cost: cost.and_then(|text| serde_json::from_str(text).ok()),
    })
}

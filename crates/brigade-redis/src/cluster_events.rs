//! Events of a cluster: each queue has a log, and their events are merged by their moments.
//!
//! A page has only events of moments that are over on every node, so that no later event sorts
//! before a cursor that was given out. Nodes whose clocks are further apart than [`HELD_BACK`] may
//! have events left out. The mark [`RECORDED`] says that events are read: a process that uses a
//! queue for the first time then has its events recorded.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::{Value, cmd, pipe};
use tokio::time::sleep;

use super::arguments::millis;
use super::client::RedisClient;
use super::events::{LogEntry, LogPlace, READ};
use super::keys::{COUNTED, key};
use super::reply::convert;
use crate::error::Error;
use crate::sync::lock;
use brigade_core::job_event::{EVENTS_PER_PAGE_MAX, EventPage, EventRequest, RECORDED_FOR};

/// Events are read.
pub(super) const RECORDED: &str = "brigade:{brigade:queues}:recorded";
/// An event is given when it is so old, by the clock of the node that is behind most.
const HELD_BACK: Duration = Duration::from_millis(500);
/// Between two looks of a request that waits, at least.
const PAUSE: Duration = Duration::from_millis(200);
/// The same as a multiple of what a look took: many queues are looked at less often.
const PAUSE_OF_LOOK: u32 = 10;
/// A log that this process asked to go on is not asked again for this time.
const RENEWED_EVERY: Duration = Duration::from_secs(60);
/// Entries that are read of each of many logs, at least.
const READ_OF_EACH: usize = 16;
const WHAT: &str = "read events";

/// What is read of the logs of some queues.
struct MergedLogs<'a> {
    queues: &'a [String],
    /// The number before the first event of each that is recorded.
    begun: &'a [u64],
    /// What comes after this.
    place: &'a LogPlace,
    /// Up to this moment.
    last: u64,
}

impl RedisClient {
    pub(super) async fn events_of_cluster(
        &self,
        request: &EventRequest,
    ) -> Result<EventPage, Error> {
        let until = Instant::now() + request.wait.min(RECORDED_FOR);
        let was_recorded = self.mark_recorded().await?;
        let after = match &request.after {
            Some(cursor) => Some(LogPlace::of_cursor(cursor, true)?),
            None => None,
        };
        let (_, newest) = self.moments().await?;
        let place = after.clone().unwrap_or(LogPlace {
            moment: newest,
            queue: String::new(),
            number: u64::MAX,
        });
        let mut page = EventPage {
            events: Vec::new(),
            next: place.cursor(),
            missed: after.is_some() && !was_recorded,
        };
        loop {
            let began = Instant::now();
            let queues = match &request.queue {
                Some(queue) => vec![queue.to_string()],
                None => self.logged_queues().await?,
            };
            let begun = try_join_all(queues.iter().map(|queue| self.go_on_recording(queue)));
            let begun = begun.await?;
            let (oldest, _) = self.moments().await?;
            let logs = MergedLogs {
                queues: &queues,
                begun: &begun,
                place: &place,
                last: oldest.saturating_sub(millis(HELD_BACK)),
            };
            self.read_logs(&logs, request.max, &mut page).await?;
            if !page.events.is_empty() || page.missed || Instant::now() >= until {
                return Ok(page);
            }
            sleep(PAUSE.max(began.elapsed().saturating_mul(PAUSE_OF_LOOK))).await;
        }
    }

    /// Has the log of a queue go on, unless that was done lately. The number before its first
    /// event.
    async fn go_on_recording(&self, queue: &str) -> Result<u64, Error> {
        let known = lock(&self.recorded).get(queue).copied();
        if let Some((at, begun)) = known
            && at.elapsed() < RENEWED_EVERY
        {
            return Ok(begun);
        }
        let (now, state) = (Instant::now(), self.record_events(queue).await?);
        let mut recorded = lock(&self.recorded);
        recorded.retain(|_, (at, _)| at.elapsed() < RENEWED_EVERY);
        recorded.insert(queue.into(), (now, state.begun));
        Ok(state.begun)
    }

    /// Queues that may have events.
    async fn logged_queues(&self) -> Result<Vec<String>, Error> {
        let mut queues: Vec<String> = self
            .ask(WHAT, cmd("ZRANGE").arg(COUNTED).arg(0).arg(-1))
            .await?;
        queues.extend(self.queues().await?);
        queues.sort();
        queues.dedup();
        Ok(queues)
    }

    /// Whether the mark was there; it is now.
    async fn mark_recorded(&self) -> Result<bool, Error> {
        let mut command = cmd("SET");
        command
            .arg(RECORDED)
            .arg("1")
            .arg("PX")
            .arg(millis(RECORDED_FOR))
            .arg("GET");
        let before: Option<String> = self.ask(WHAT, &command).await?;
        Ok(before.is_some())
    }

    /// The time of the node that is behind most, and of the one that is ahead most.
    async fn moments(&self) -> Result<(u64, u64), Error> {
        let fault = |fault: super::fault::RedisFault| fault.into_error(WHAT, false);
        let targets = self.nodes().targets().await.map_err(fault)?;
        let mut pipeline = pipe();
        pipeline.cmd("TIME");
        let asked = targets
            .into_iter()
            .map(|target| self.nodes().send_to(target, &pipeline));
        let (mut oldest, mut newest) = (u64::MAX, 0);
        for answers in try_join_all(asked).await.map_err(fault)? {
            let time = answers.into_iter().next().unwrap_or(Value::Nil);
            let (seconds, micros): (u64, u64) = convert(WHAT, time, false)?;
            let now = seconds * 1000 + micros / 1000;
            (oldest, newest) = (oldest.min(now), newest.max(now));
        }
        Ok((oldest, newest))
    }

    /// Adds to a page what these logs have.
    async fn read_logs(
        &self,
        logs: &MergedLogs<'_>,
        max: usize,
        page: &mut EventPage,
    ) -> Result<(), Error> {
        if logs.queues.is_empty() {
            return Ok(());
        }
        let wanted = max.clamp(1, EVENTS_PER_PAGE_MAX);
        let count = (4 * wanted / logs.queues.len()).clamp(READ_OF_EACH, READ);
        let mut pipeline = pipe();
        for queue in logs.queues {
            let log = key(queue, "events");
            let (from, before) = bounds(logs.place, queue);
            let mut command = cmd("XREVRANGE");
            command.arg(&log).arg(before).arg("-").arg("COUNT").arg(1);
            pipeline.add_command(command);
            let mut command = cmd("XRANGE");
            command.arg(&log).arg(from).arg(logs.last);
            command.arg("COUNT").arg(count);
            pipeline.add_command(command);
        }
        type Entries = Vec<(String, Vec<Vec<u8>>)>;
        let answers: Vec<Entries> = self.ask_all(WHAT, &pipeline).await?;
        let mut answers = answers.into_iter();
        let (mut all, mut end) = (Vec::new(), None);
        for begun in logs.begun {
            let mut next = || answers.next().unwrap_or_default();
            let (before, entries) = (LogEntry::read_all(next()), next());
            let is_all = entries.len() < count;
            let entries = LogEntry::read_all(entries);
            // Of a log that was not read to its end there may be more behind its last entry.
            if let Some(last) = entries.last().filter(|_| !is_all) {
                end = [end, Some(last.place.clone())].into_iter().flatten().min();
            }
            let mut number = before
                .first()
                .map_or(0, |entry| entry.place.number)
                .max(*begun);
            for entry in entries {
                let is_gap = entry.place.number > number.saturating_add(1);
                number = entry.place.number;
                all.push((is_gap, entry));
            }
        }
        all.retain(|(_, entry)| end.as_ref().is_none_or(|end| entry.place <= *end));
        all.sort_by(|(_, one), (_, other)| one.place.cmp(&other.place));
        for (is_gap, entry) in all.into_iter().take(wanted) {
            page.missed |= is_gap;
            let cursor = entry.place.cursor();
            page.next = cursor.clone();
            page.events.extend(entry.into_event(cursor, None));
        }
        Ok(())
    }
}

/// Where the log of a queue goes on after a place, and where what was read before that begins.
fn bounds(place: &LogPlace, queue: &str) -> (String, String) {
    if place.queue.is_empty() || place.queue == queue {
        (format!("({}", place.id()), place.id())
    } else if queue > place.queue.as_str() {
        (place.moment.to_string(), format!("({}-0", place.moment))
    } else {
        let moment = place.moment.saturating_add(1);
        (moment.to_string(), format!("({moment}-0"))
    }
}

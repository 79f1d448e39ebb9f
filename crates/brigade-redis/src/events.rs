//! Events of jobs: pages of what the scripts record (`record.lua`), in order.
//!
//! Each request has the recording go on (`watch.lua`). On one server all queues share one log, and
//! a request that waits blocks on a connection of its own. In a cluster each queue has a log; see
//! [`cluster_events`](super::cluster_events). Events are numbered without gaps, so a gap shows that
//! some are missing.

use std::fmt;
use std::time::{Duration, Instant, UNIX_EPOCH};

use redis::{Value, cmd};

use super::arguments::{Arguments, millis};
use super::client::RedisClient;
use super::keys::id_of;
use super::reach::Connection;
use super::reply::convert;
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::JobState;
use crate::sync::lock;
use brigade_core::attempt_report::Cost;
use brigade_core::job_event::{
    EVENTS_PER_PAGE_MAX, EventCursor, EventPage, EventRequest, JobEvent, JobEventKind,
};

/// The log of one server.
const LOG: &str = "brigade:events";
/// No queue of a user has this name.
const EVENTS_QUEUE: &str = "brigade.events";
/// Events that one command reads.
pub(super) const READ: usize = EVENTS_PER_PAGE_MAX;
/// Connections that are kept for requests that wait: as many readers open none each time.
const WAITING_MAX: usize = 64;
const WHAT: &str = "read events";

/// A place in a log, and where logs are merged, the queue whose log it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogPlace {
    pub(super) moment: u64,
    /// Empty: that place in each log.
    pub(super) queue: String,
    pub(super) number: u64,
}

impl LogPlace {
    /// `is_merged`: whether it may be one of several logs.
    pub(super) fn of_cursor(cursor: &EventCursor, is_merged: bool) -> Result<Self, Error> {
        let mut words = cursor.as_str().splitn(3, '-');
        let place = (|| {
            Some(Self {
                moment: words.next()?.parse().ok()?,
                number: words.next()?.parse().ok()?,
                queue: words.next().unwrap_or_default().to_owned(),
            })
        })();
        place
            .filter(|place: &Self| is_merged || place.queue.is_empty())
            .ok_or_else(|| {
                let text = format!(
                    "{WHAT} after {cursor}: not a cursor of this broker; give one that a page of \
                    events had, or none to begin now"
                );
                Error::new(ErrorKind::BadOption, text)
            })
    }

    pub(super) fn cursor(&self) -> EventCursor {
        EventCursor::new(self.to_string())
    }

    /// The id of the entry.
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.moment, self.number)
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            moment,
            queue,
            number,
        } = self;
        match queue.is_empty() {
            true => write!(f, "{moment}-{number}"),
            false => write!(f, "{moment}-{number}-{queue}"),
        }
    }
}

/// An entry of a log: the place with its queue, and the event, if this version knows its kind.
pub(super) struct LogEntry {
    pub(super) place: LogPlace,
    event: Option<JobEvent>,
}

impl LogEntry {
    /// Entries as XRANGE gives them. Those of other programs are left out.
    pub(super) fn read_all(entries: Vec<(String, Vec<Vec<u8>>)>) -> Vec<Self> {
        let read = |(id, fields): (String, Vec<Vec<u8>>)| {
            let (moment, number) = id.split_once('-')?;
            let field = |name: &str| {
                let mut pairs = fields.chunks_exact(2);
                let pair = pairs.find(|pair| pair[0] == name.as_bytes())?;
                Some(String::from_utf8_lossy(&pair[1]).into_owned())
            };
            let place = LogPlace {
                moment: moment.parse().ok()?,
                queue: field("queue")?,
                number: number.parse().ok()?,
            };
            let event = event_of(&place, field);
            Some(Self { place, event })
        };
        entries.into_iter().filter_map(read).collect()
    }

    /// The event with this cursor, unless it is of another queue.
    pub(super) fn into_event(self, cursor: EventCursor, queue: Option<&str>) -> Option<JobEvent> {
        let event = self.event?;
        let is_wanted = queue.is_none_or(|queue| event.queue == queue);
        is_wanted.then_some(JobEvent { cursor, ..event })
    }
}

fn event_of(place: &LogPlace, field: impl Fn(&str) -> Option<String>) -> Option<JobEvent> {
    let given = |name: &str| field(name).filter(|text| !text.is_empty());
    let at: u64 = field("at")?.parse().ok()?;
    let state = field("state")?;
    Some(JobEvent {
        cursor: place.cursor(),
        at: UNIX_EPOCH.checked_add(Duration::from_millis(at))?,
        job: id_of(&place.queue, &field("job")?),
        queue: place.queue.clone(),
        task: given("task"),
        kind: JobEventKind::of_name(&field("kind")?)?,
        state: JobState::ALL
            .into_iter()
            .find(|known| known.to_string() == state)?,
        attempt: field("attempt")?.parse().ok()?,
        reason: given("reason"),
        cost: given("cost").and_then(|text| cost_of(&text)),
    })
}

/// A cost as scripts take and record it: microseconds of time and of CPU, and bytes of memory; `-`
/// for what is not known.
pub(super) fn text_of_cost(cost: Option<&Cost>) -> String {
    let Some(cost) = cost else {
        return String::new();
    };
    let given = |number: Option<u128>| number.map_or("-".to_owned(), |number| number.to_string());
    let cpu = given(cost.cpu.map(|cpu| cpu.as_micros()));
    let memory = given(cost.memory_peak.map(u128::from));
    format!("{} {cpu} {memory}", cost.wall.as_micros())
}

fn cost_of(text: &str) -> Option<Cost> {
    let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
    let mut cost = Cost::of_wall(Duration::from_micros(numbers.next()??));
    cost.cpu = numbers.next()?.map(Duration::from_micros);
    cost.memory_peak = numbers.next()?;
    Some(cost)
}

/// The state of a log, after it was asked to go on.
pub(super) struct LogState {
    /// Its last event.
    pub(super) last: LogPlace,
    /// The number before its first event since it is recorded without a break.
    pub(super) begun: u64,
}

impl RedisClient {
    pub(super) async fn events(&self, request: &EventRequest) -> Result<EventPage, Error> {
        if self.is_cluster() {
            return self.events_of_cluster(request).await;
        }
        let until = Instant::now().checked_add(request.wait);
        let log = self.record_events(EVENTS_QUEUE).await?.last;
        let mut place = match &request.after {
            Some(cursor) => LogPlace::of_cursor(cursor, false)?,
            None => log.clone(),
        };
        let wanted = request.max.clamp(1, EVENTS_PER_PAGE_MAX);
        let count = if request.queue.is_some() {
            READ
        } else {
            wanted
        };
        let mut page = EventPage {
            events: Vec::new(),
            next: place.cursor(),
            missed: false,
        };
        let mut is_read = false;
        loop {
            let entries = self.entries_after(&place, count).await?;
            if entries.is_empty() && place.number != log.number && !is_read {
                // They are gone, were never recorded, or the server has lost them.
                (place, page.missed) = (log.clone(), true);
            }
            is_read = true;
            let is_all = entries.len() < count;
            for entry in entries {
                if page.events.len() == wanted {
                    break;
                }
                page.missed |= entry.place.number != place.number.saturating_add(1);
                place = LogPlace {
                    queue: String::new(),
                    ..entry.place.clone()
                };
                let event = entry.into_event(place.cursor(), request.queue.as_deref());
                page.events.extend(event);
            }
            page.next = place.cursor();
            if !page.events.is_empty() || page.missed {
                return Ok(page);
            }
            let left = until.map_or(request.wait, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(page);
            }
            if is_all {
                self.wait_for_event(&place, left).await?;
            }
        }
    }

    /// Has the log that a queue's events are in go on.
    pub(super) async fn record_events(&self, queue: &str) -> Result<LogState, Error> {
        let answer: Vec<String> = self
            .run(WHAT, scripts::watch(), queue, Arguments::default())
            .await?;
        let number = |at: usize| answer.get(at).and_then(|text| text.parse::<u64>().ok());
        let (Some(number), Some(moment), Some(begun)) = (number(0), number(1), number(2)) else {
            let text = format!("{WHAT}: the state of their log is not what a script gives");
            return Err(Error::new(ErrorKind::Protocol, text));
        };
        let queue = String::new();
        Ok(LogState {
            last: LogPlace {
                moment,
                queue,
                number,
            },
            begun,
        })
    }

    async fn entries_after(&self, place: &LogPlace, count: usize) -> Result<Vec<LogEntry>, Error> {
        let mut command = cmd("XRANGE");
        command.arg(LOG).arg(format!("({}", place.id())).arg("+");
        command.arg("COUNT").arg(count);
        Ok(LogEntry::read_all(self.ask(WHAT, &command).await?))
    }

    /// Waits until there is an entry after this one, or the time is over. May end early.
    async fn wait_for_event(&self, place: &LogPlace, left: Duration) -> Result<(), Error> {
        let broken = |fault: super::fault::RedisFault| fault.into_error(WHAT, false);
        let target = self
            .nodes()
            .target_of(LOG.as_bytes())
            .await
            .map_err(broken)?;
        let kept = lock(&self.waiting).pop().filter(|kept| !kept.is_over());
        let connection: Connection = match kept {
            Some(connection) => connection,
            None => self
                .nodes()
                .reach()
                .open(&target, None)
                .await
                .map_err(broken)?,
        };
        // The server has to answer in time.
        let at_most = self.nodes().reach().config.answer_timeout / 2;
        let mut command = cmd("XREAD");
        command
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(millis(left.min(at_most)).max(1));
        command.arg("STREAMS").arg(LOG).arg(place.id());
        // A request that is dropped ends its connection.
        let answer = connection.ask::<Value>(command).await.map_err(broken)?;
        let mut waiting = lock(&self.waiting);
        if waiting.len() < WAITING_MAX {
            waiting.push(connection);
        }
        drop(waiting);
        convert::<Value>(WHAT, answer, false).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for queue in ["", "emails", "a-b-c"] {
            let place = LogPlace {
                moment: 17,
                queue: queue.to_owned(),
                number: 4,
            };
            assert_eq!(LogPlace::of_cursor(&place.cursor(), true).unwrap(), place);
        }
        for wrong in ["", "17", "a-b", "1-", "1-2-emails"] {
            let error = LogPlace::of_cursor(&EventCursor::new(wrong), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadOption, "{wrong}");
        }
    }

    #[test]
    fn a_cost_is_read_as_it_was_written() {
        let mut cost = Cost::of_wall(Duration::from_micros(1_500_000));
        cost.memory_peak = Some(9);
        assert_eq!(cost_of(&text_of_cost(Some(&cost))), Some(cost));
        assert_eq!(cost_of(&text_of_cost(None)), None);
    }
}

//! `GET /v1/events`: changes of state of jobs, as server-sent events.
//!
//! Each event has the store's cursor as its `id`, so a browser or a client that lost the connection
//! goes on where it was (`Last-Event-ID`). The server remembers nothing. A stream ends when the
//! server stops, or with an event `problem` when the broker is away; clients connect again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use brigade::{Broker, EventCursor, EventPage, EventRequest, JobEvent};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::jobs::value;
use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsRead};
use crate::extract::Params;
use crate::problem::Problem;
use crate::values::rfc3339;

/// Events that are asked for at once.
const EVENTS_PER_PAGE: usize = 500;
/// How long one request to the broker waits for an event.
const WAIT: Duration = Duration::from_secs(20);
/// A comment is sent when nothing happened for this long, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Only of this queue.
    queue: Option<String>,
    /// Only those after this cursor; the header `Last-Event-ID` goes before it. Default: those from
    /// now on.
    after: Option<String>,
}

/// A change of state of a job: the `data` of an event whose name is its `kind`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventDocument {
    /// Its place in the events.
    cursor: String,
    /// When it happened.
    #[schema(format = DateTime)]
    at: String,
    /// The job.
    job: String,
    /// Its queue.
    queue: String,
    /// The task, if it is a task's.
    task: Option<String>,
    /// What happened: pushed, leased, done, failed, crashed, interrupted, passed, unserved, dead,
    /// cancelled, retried, deleted.
    kind: &'static str,
    /// The state of the job after that.
    #[schema(value_type = super::jobs::StateName)]
    state: brigade::JobState,
    /// Number of the attempt that it is about, from 1; 0 if it is about none.
    attempt: u32,
    /// Why, for people.
    reason: Option<String>,
    /// What the attempt cost, if its holder said so.
    #[schema(value_type = Option<Object>)]
    cost: Option<serde_json::Value>,
}

impl From<JobEvent> for EventDocument {
    fn from(event: JobEvent) -> Self {
        Self {
            cursor: event.cursor.as_str().to_owned(),
            at: rfc3339(event.at),
            job: event.job.as_str().to_owned(),
            queue: event.queue,
            task: event.task,
            kind: event.kind.name(),
            state: event.state,
            attempt: event.attempt,
            reason: event.reason,
            cost: event.cost.as_ref().map(value),
        }
    }
}

/// Changes of state of jobs, as server-sent events
///
/// The first event is `open` and has the cursor that the stream begins at. An event `missed` says
/// that there were events that the broker does not have any more.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "jobs",
    security(("token" = ["read"])),
    params(EventParams, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was read")),
    responses((status = 200, description = "the events, without end", body = EventDocument, content_type = "text/event-stream"), CommonProblems),
)]
pub(crate) async fn stream(
    _: May<NeedsRead>,
    State(app): State<App>,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = last.filter(|id| !id.is_empty()).or(params.after.as_deref());
    let request = EventRequest {
        after: after.map(EventCursor::new),
        queue: params.queue.map(Into::into),
        max: EVENTS_PER_PAGE,
        wait: Duration::ZERO,
    };
    let room = app.room_to_wait()?;
    // Before the stream begins, so that a broker without events is a plain problem.
    let first = app.broker.events(request.clone()).await?;
    let begin = request.after.clone().unwrap_or_else(|| first.next.clone());
    let open = Event::default()
        .event("open")
        .id(text(begin.as_str()))
        .data("{}");
    let events = EventPager {
        broker: app.broker.clone(),
        request: EventRequest {
            wait: WAIT,
            ..request
        },
        stop: app.options.stop.clone(),
        page: Some(first),
        _room: room,
    };
    let pages = stream::unfold(Some(events), EventPager::next);
    let all = stream::StreamExt::flat_map(pages, stream::iter);
    let all = stream::StreamExt::chain(stream::iter([Ok(open)]), all);
    Ok(sse(all))
}

fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// Reads page after page.
struct EventPager {
    broker: Broker,
    request: EventRequest,
    stop: CancellationToken,
    /// The first page, which is there already.
    page: Option<EventPage>,
    /// Its room among the requests that wait.
    _room: OwnedSemaphorePermit,
}

type PageEvents = Vec<Result<Event, Infallible>>;

impl EventPager {
    /// The events of the next page, and the reader for the one after it; `None` at the end.
    async fn next(reader: Option<Self>) -> Option<(PageEvents, Option<Self>)> {
        let mut reader = reader?;
        let page = match reader.page.take() {
            Some(page) => page,
            None => {
                let page = tokio::select! {
                    page = reader.broker.events(reader.request.clone()) => page,
                    () = reader.stop.cancelled() => return None,
                };
                match page {
                    Ok(page) => page,
                    Err(error) => return Some((vec![Ok(problem(error.into()))], None)),
                }
            }
        };
        let mut events = PageEvents::new();
        if page.missed {
            events.push(Ok(Event::default().event("missed").data("{}")));
        }
        events.extend(page.events.into_iter().map(|event| Ok(document(event))));
        reader.request.after = Some(page.next);
        Some((events, Some(reader)))
    }
}

fn document(event: JobEvent) -> Event {
    let document = EventDocument::from(event);
    let data = serde_json::to_string(&document).unwrap_or_default();
    Event::default()
        .event(document.kind)
        .id(text(&document.cursor))
        .data(data)
}

fn problem(problem: Problem) -> Event {
    Event::default().event("problem").data(problem.json())
}

/// An id of an event: axum panics for line breaks and NUL in one.
fn text(cursor: &str) -> String {
    cursor.replace(['\n', '\r', '\0'], "")
}

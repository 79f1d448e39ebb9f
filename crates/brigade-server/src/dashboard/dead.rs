//! Dead letters, in groups of one task and like reasons, and their export.
//!
//! The broker makes the groups (`Broker::dead_groups`), which may read every dead letter; they are
//! read at most once in a few seconds for all viewers. The export reads page after page of the
//! filter and sends each at once, so that it needs no more memory for 100,000 jobs than for fifty.

use std::convert::Infallible;

use askama::Template;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use brigade::{DeadGroup, JobFilter, JobId, JobState};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;

use super::ansi::plain;
use super::job_filter::FilterQuery;
use super::job_row::start_of;
use super::sentence::jobs_in;
use super::shell::{Failed, PageShell, page};
use super::viewer::{Viewer, encoded};
use super::watch::{BrokerWatch, Snapshot};
use super::words::{ShownTime, number};
use crate::app::App;

/// Groups that the page shows.
const GROUPS: usize = 50;
/// Jobs that are read at once for an export, with their payloads.
const EXPORT_PAGE: usize = 50;

/// A group as text, with the paths of what can be done to it.
struct GroupView {
    queue: String,
    queue_path: String,
    task: String,
    reason: String,
    count: String,
    first: ShownTime,
    last: ShownTime,
    example: String,
    example_path: String,
    example_text: String,
    /// The filter of its jobs, as a query.
    query: String,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct DeadPage {
    page: PageShell,
    lists: bool,
    /// Otherwise the broker still reads them.
    is_read: bool,
    queue: String,
    groups: Vec<GroupView>,
    hidden: usize,
    all: String,
    query: String,
}

/// The query of the page.
#[derive(Deserialize)]
pub(super) struct DeadQuery {
    #[serde(default)]
    queue: String,
}

pub(super) async fn dead(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(query): Query<DeadQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    match show(&viewer, &app, &watch, &snapshot, query.queue).await {
        Ok(response) => response,
        Err(failed) => failed.page(&viewer, &snapshot),
    }
}

async fn show(
    viewer: &Viewer,
    app: &App,
    watch: &BrokerWatch,
    snapshot: &Snapshot,
    queue: String,
) -> Result<Response, Failed> {
    let lists = app.broker.capabilities().listing;
    let read = match lists {
        true => watch.dead_groups(&app.broker, &queue).await?,
        false => Some(Vec::new()),
    };
    let is_read = read.is_some();
    let groups = read.unwrap_or_default();
    let now = app.broker.clock().now();
    let all: u64 = match is_read {
        true => groups.iter().map(|group| group.count).sum(),
        false => counted(snapshot, &queue),
    };
    let mut views = Vec::new();
    for (place, group) in groups.iter().take(GROUPS).enumerate() {
        // One example of each of the first groups is open.
        let example = match place < 5 {
            true => app.broker.job(&group.example).await?,
            false => None,
        };
        let text =
            example.map(|job| start_of(&plain(job.reason.as_deref().unwrap_or(&job.payload))));
        views.push(view(group, text.unwrap_or_default(), now));
    }
    let query = match queue.as_str() {
        "" => "state=dead".to_owned(),
        queue => format!("queue={}&state=dead", encoded(queue)),
    };
    Ok(page(&DeadPage {
        page: PageShell::new(viewer, "dead", "Dead letters", snapshot),
        lists,
        is_read,
        hidden: groups.len().saturating_sub(GROUPS),
        groups: views,
        all: number(all),
        query,
        queue,
    }))
}

/// How many dead letters the snapshot has of a queue, or of all with an empty name.
fn counted(snapshot: &Snapshot, queue: &str) -> u64 {
    match queue {
        "" => snapshot.jobs_in(JobState::Dead),
        queue => snapshot
            .queue(queue)
            .map_or(0, |counts| jobs_in(counts, JobState::Dead)),
    }
}

fn view(group: &DeadGroup, example_text: String, now: std::time::SystemTime) -> GroupView {
    let mut query = format!("queue={}&state=dead", encoded(&group.queue));
    match &group.task {
        Some(task) => query.push_str(&format!("&task={}", encoded(task))),
        None => query.push_str("&no_task=1"),
    }
    match group.reason.as_str() {
        "" => query.push_str("&no_reason=1"),
        reason => query.push_str(&format!("&reason={}", encoded(reason))),
    }
    GroupView {
        queue: group.queue.clone(),
        queue_path: format!("/queues/{}", encoded(&group.queue)),
        task: group.task.clone().unwrap_or_default(),
        reason: match group.reason.as_str() {
            "" => "without a reason".to_owned(),
            reason => plain(reason),
        },
        count: number(group.count),
        first: ShownTime::new(group.first, now),
        last: ShownTime::new(group.last, now),
        example: group.example.to_string(),
        example_path: format!("/jobs/{}", encoded(group.example.as_str())),
        example_text,
        query,
    }
}

/// The jobs of a filter as lines of JSON, one a job.
pub(super) async fn export(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(filter): Query<FilterQuery>,
) -> Response {
    if !viewer.can_read() {
        let snapshot = watch.look(&app.broker).await;
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    let mut filter = match filter.filter(EXPORT_PAGE) {
        Ok(filter) => filter,
        Err(failed) => {
            let snapshot = watch.look(&app.broker).await;
            return failed.page(&viewer, &snapshot);
        }
    };
    filter.state = filter.state.or(Some(JobState::Dead));
    filter.newest_first = false;
    let lines = stream::unfold(Some((app, filter)), |state| async {
        let (app, mut filter) = state?;
        let (lines, next) = next_lines(&app, &filter).await;
        let state = next.map(|next| {
            filter.after = Some(next);
            (app, filter)
        });
        Some((Ok::<Bytes, Infallible>(Bytes::from(lines)), state))
    });
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (
            CONTENT_DISPOSITION,
            "attachment; filename=\"dead-letters.jsonl\"",
        ),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(lines)).into_response()
}

/// A page of the export, and after which job it goes on.
async fn next_lines(app: &App, filter: &JobFilter) -> (String, Option<JobId>) {
    // The status is sent already: the last line says that there would be more.
    let cut = |error: &str| (format!("{}\n", serde_json::json!({ "error": error })), None);
    if app.options.stop.is_cancelled() {
        return cut("this server is about to end: export again");
    }
    match app.broker.find(filter).await {
        Ok(found) => (lines(&found.jobs), found.next),
        Err(error) => cut(&error.to_string()),
    }
}

fn lines(jobs: &[brigade::JobInfo]) -> String {
    let mut lines = String::new();
    for job in jobs {
        if let Ok(line) = serde_json::to_string(job) {
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    lines
}

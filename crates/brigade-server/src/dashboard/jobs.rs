//! The list of jobs, with its filter in the address.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use brigade::JobState;

use super::job_filter::FilterQuery;
use super::job_row::JobRow;
use super::series::Series;
use super::shell::{Failed, PageShell, page};
use super::viewer::{Viewer, encoded};
use super::watch::{BrokerWatch, Snapshot};
use super::words::state_word;
use crate::app::App;

/// Rows of one page.
const ROWS: usize = 50;

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    page: PageShell,
    filter: FilterQuery,
    query: String,
    rows: Vec<JobRow>,
    lists: bool,
    states: Vec<&'static str>,
    more: Option<String>,
    /// A page that ended early: the store read as much as it may.
    is_cut: bool,
    bulk: Vec<(&'static str, String)>,
    /// Names that the fields of the filter suggest.
    queues: Vec<String>,
    tasks: Vec<String>,
}

/// Names that a field suggests.
const SUGGESTIONS: usize = 200;

pub(super) async fn jobs(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(filter): Query<FilterQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    match list(&viewer, &app, &snapshot, filter).await {
        Ok(response) => response,
        Err(failed) => failed.page(&viewer, &snapshot),
    }
}

async fn list(
    viewer: &Viewer,
    app: &App,
    snapshot: &Snapshot,
    filter: FilterQuery,
) -> Result<Response, Failed> {
    let lists = app.broker.capabilities().listing;
    let found = match lists {
        true => app.broker.find(&filter.filter(ROWS)?).await?,
        false => brigade::JobPage::default(),
    };
    let now = app.broker.clock().now();
    let query = filter.query();
    let more = found.next.as_ref().map(|next| {
        let next = encoded(next.as_str());
        format!("{}/jobs?{query}&after={next}", viewer.base)
    });
    let bulk = bulk_actions(&filter, &query);
    let queues = snapshot.queues.as_deref().unwrap_or_default();
    let tasks = snapshot.series.iter().flat_map(Series::tasks);
    Ok(page(&JobsPage {
        page: PageShell::new(viewer, "jobs", "Jobs", snapshot),
        is_cut: more.is_some() && found.jobs.len() < ROWS,
        rows: found.jobs.iter().map(|job| JobRow::new(job, now)).collect(),
        lists,
        states: JobState::ALL.map(state_word).into(),
        more,
        bulk,
        queues: queues
            .iter()
            .map(|queue| queue.queue.clone())
            .take(SUGGESTIONS)
            .collect(),
        tasks: tasks.map(str::to_owned).take(SUGGESTIONS).collect(),
        query,
        filter,
    }))
}

/// What can be done to all jobs of a filter: label and path.
fn bulk_actions(filter: &FilterQuery, query: &str) -> Vec<(&'static str, String)> {
    if !filter.is_narrow() {
        return Vec::new();
    }
    let state = super::words::state_of(&filter.state);
    let mut actions = Vec::new();
    let mut add = |label, verb| actions.push((label, format!("/bulk/{verb}?{query}")));
    if state == Some(JobState::Dead) {
        add("Retry all…", "retry");
    }
    if state.is_none_or(|state| !state.is_terminal()) {
        add("Cancel all…", "cancel");
    }
    if state != Some(JobState::Leased) {
        add("Delete all…", "delete");
    }
    actions
}

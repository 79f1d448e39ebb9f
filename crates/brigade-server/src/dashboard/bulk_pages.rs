//! The pages of an operation on many jobs: the question before it, and how far it is.
//!
//! The question names the operation, the jobs by their conditions, and their number, which is
//! counted for a bounded time. Its form sends the conditions, not the ids, so the operation acts on
//! the jobs that meet them when it reads them. Operations on all jobs without a condition are
//! refused.

use std::time::SystemTime;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use brigade::{JobFilter, JobState};

use super::acting::{Acting, Sent};
use super::bulk::{BulkProgress, Operations, PAGE, Verb, count};
use super::filters;
use super::job_filter::FilterQuery;
use super::shell::{Failed, PageShell, back, page};
use super::viewer::Viewer;
use super::watch::{BrokerWatch, Snapshot};
use super::words::{ShownTime, number, state_of};
use crate::app::App;

#[derive(Template)]
#[template(path = "bulk_question.html")]
struct QuestionPage {
    page: PageShell,
    verb: &'static str,
    name: &'static str,
    what: String,
    warning: &'static str,
    fields: Vec<(&'static str, String)>,
    is_none: bool,
    back: String,
}

#[derive(Template)]
#[template(path = "bulk_progress.html")]
struct ProgressPage {
    page: PageShell,
    number: u64,
    what: String,
    done: &'static str,
    progress: BulkProgress,
    began: ShownTime,
}

/// The jobs that an operation acts on.
fn selection(query: &FilterQuery, verb: Verb) -> Result<JobFilter, Failed> {
    let mut filter = query.filter(PAGE)?;
    filter.newest_first = false;
    filter.after = None;
    match (verb, filter.state) {
        (Verb::Retry, None) => filter.state = Some(JobState::Dead),
        (Verb::Retry, Some(state)) if state != JobState::Dead => {
            let text = "Only dead letters can be retried: choose the state dead.";
            return Err(Failed::Form(text.to_owned()));
        }
        _ => {}
    }
    if !query.is_narrow() {
        let text = "This would touch every job. Choose a queue, a state or another condition.";
        return Err(Failed::Form(text.to_owned()));
    }
    Ok(filter)
}

/// Asks before an operation, with the number of jobs.
pub(super) async fn question(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Path(verb): Path<String>,
    Query(query): Query<FilterQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    let asked = ask(&viewer, &app, &snapshot, &verb, &query).await;
    asked.unwrap_or_else(|failed| failed.page(&viewer, &snapshot))
}

async fn ask(
    viewer: &Viewer,
    app: &App,
    snapshot: &Snapshot,
    verb: &str,
    query: &FilterQuery,
) -> Result<Response, Failed> {
    if !viewer.can_change() {
        return Err(Failed::Role("admin"));
    }
    let verb = verb_of(verb)?;
    let selection = selection(query, verb)?;
    let (count, is_all) = count(&app.broker, selection).await?;
    let count = match is_all {
        true => number(count),
        false => format!("more than {}", number(count)),
    };
    let state = state_of(&query.state);
    let back = match state {
        Some(JobState::Dead) => "/dead".to_owned(),
        _ => format!("/jobs?{}", query.query()),
    };
    Ok(page(&QuestionPage {
        page: PageShell::new(viewer, "", verb.word(), snapshot),
        what: query.in_words(&count),
        is_none: count == "0",
        verb: verb.word(),
        name: verb.name(),
        warning: match verb {
            Verb::Retry => "Each goes back to its queue, its counters at zero.",
            Verb::Cancel => {
                "Those that wait end at once; those that run are stopped by their holders. This cannot be undone."
            }
            Verb::Delete => {
                "They are gone for good, with their payloads and reports. This cannot be undone."
            }
        },
        fields: owned(query.fields()),
        back,
    }))
}

fn owned(fields: Vec<(&'static str, &str)>) -> Vec<(&'static str, String)> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

fn verb_of(name: &str) -> Result<Verb, Failed> {
    Verb::of(name).ok_or_else(|| Failed::Missing(format!("There is no operation {name:?}.")))
}

/// Begins an operation.
pub(super) async fn begin(
    acting: Acting,
    Extension(operations): Extension<Operations>,
    Path(verb): Path<String>,
    Sent(query): Sent<FilterQuery>,
) -> Response {
    let begun = start(&acting, &operations, &verb, &query).await;
    acting.answer(begun).await
}

async fn start(
    acting: &Acting,
    operations: &Operations,
    verb: &str,
    query: &FilterQuery,
) -> Result<String, Failed> {
    let verb = verb_of(verb)?;
    let selection = selection(query, verb)?;
    let (count, is_all) = count(&acting.app.broker, selection.clone()).await?;
    let count = match is_all {
        true => number(count),
        false => format!("more than {}", number(count)),
    };
    let text = format!("{} {}", verb.word(), query.in_words(&count));
    let by = &acting.viewer.name;
    tracing::info!(%by, operation = %text, "an operation on many jobs begins");
    let operation = operations
        .begin(&acting.app, verb, text, selection)
        .ok_or_else(|| {
            Failed::Form("Three operations run already; wait for one of them.".to_owned())
        })?;
    Ok(format!("/operations/{}", operation.number))
}

/// How far an operation is.
pub(super) async fn progress(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Extension(operations): Extension<Operations>,
    Path(number): Path<u64>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    let Some(operation) = operations.get(number).filter(|_| viewer.can_read()) else {
        let text = "There is no operation of this number (any more): a server that starts again \
            forgets them.";
        return Failed::Missing(text.to_owned()).page(&viewer, &snapshot);
    };
    page(&ProgressPage {
        page: PageShell::new(&viewer, "", operation.text.clone(), &snapshot),
        number,
        what: operation.text.clone(),
        done: operation.verb.done(),
        progress: operation.progress(),
        began: ShownTime::new(operation.began, SystemTime::now()),
    })
}

/// Stops an operation where it is.
pub(super) async fn stop(
    acting: Acting,
    Extension(operations): Extension<Operations>,
    Path(number): Path<u64>,
) -> Response {
    if let Some(operation) = operations.get(number) {
        operation.stop.cancel();
    }
    back(&acting.viewer, &format!("/operations/{number}"))
}

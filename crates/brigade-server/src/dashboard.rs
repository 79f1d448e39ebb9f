//! The dashboard: pages for people, on the same broker as the API.
//!
//! Pages are made by the server and work without the script: links, and forms that POST. The script
//! (`assets/brigade.js`) asks for the content of the page that it is on every two seconds and puts
//! what changed into its place. Each page of a list or a job asks the broker when it is asked for;
//! what all pages share (counts, consumers, statistics, the sentence at the top) is one
//! [`BrokerWatch`].
//!
//! | file | content |
//! |---|---|
//! | `overview`, `queues`, .. | a page each: its handler, its template's struct |
//! | `watch`, `series`, `sentence` | the shared look at the broker, and what it comes to in words |
//! | `chart`, `charts` | SVG |
//! | `words`, `filters` | numbers, durations, moments as text |
//! | `shell`, `viewer`, `notice` | the frame of a page, who looks at it, what an action did |
//! | `acting`, `actions` | who may act and the form that was sent, and what is done |
//! | `templates`, `assets` | HTML, style sheet, script, icon |
//!
//! Invariants: what comes from a broker (payloads, names, reasons, output of workers) is only ever
//! written as escaped text; the pages' policy allows no inline script or style. An action is a POST
//! and needs its role; the middleware of the server refuses those from other sites.

mod acting;
mod actions;
mod ansi;
mod asset;
mod bulk;
mod bulk_pages;
mod chart;
mod charts;
mod consumer_row;
mod consumers;
mod dead;
mod filters;
mod flow_graph;
mod job;
mod job_filter;
mod job_row;
mod jobs;
mod json_text;
mod limit_view;
mod limits;
mod login_page;
mod notice;
mod overview;
mod push_command;
mod queue;
mod queue_row;
mod queues;
mod reasons;
mod recurrence;
mod schedules;
mod sentence;
mod series;
mod settings;
mod shell;
mod timeline;
mod undo;
mod viewer;
mod watch;
mod words;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

pub(crate) use self::login_page::login_page;

use self::bulk::Operations;
use self::undo::Undos;
use self::watch::BrokerWatch;
use crate::app::App;

/// The pages and their files.
///
/// `ended` is cancelled when the connection to the broker has ended for good.
pub(crate) fn routes(ended: &CancellationToken) -> Router<App> {
    Router::new()
        .route("/", get(overview::overview))
        .route("/queues", get(queues::queues))
        .route("/queues/{queue}", get(queue::queue))
        .route("/queues/{queue}/pause", post(actions::pause))
        .route("/queues/{queue}/resume", post(actions::resume))
        .route("/queues/{queue}/limits", post(actions::limit))
        .route("/queues/{queue}/purge", post(actions::purge))
        .route("/queues/{queue}/push", post(actions::push))
        .route("/jobs", get(jobs::jobs))
        .route("/jobs/{id}", get(job::job))
        .route("/jobs/{id}/cancel", post(actions::cancel))
        .route("/jobs/{id}/retry", post(actions::retry))
        .route("/jobs/{id}/delete", post(actions::delete))
        .route("/consumers", get(consumers::consumers))
        .route("/dead", get(dead::dead))
        .route("/dead/export", get(dead::export))
        .route(
            "/bulk/{verb}",
            get(bulk_pages::question).post(bulk_pages::begin),
        )
        .route("/operations/{number}", get(bulk_pages::progress))
        .route("/operations/{number}/stop", post(bulk_pages::stop))
        .route("/schedules", get(schedules::schedules))
        .route("/schedules/{name}/run", post(actions::run_schedule))
        .route("/schedules/{name}/pause", post(actions::pause_schedule))
        .route("/schedules/{name}/resume", post(actions::resume_schedule))
        .route("/schedules/{name}/remove", post(actions::unschedule))
        .route("/limits", get(limits::limits))
        .route("/settings", get(settings::settings))
        .route("/settings/check", post(actions::check))
        .route("/assets/{hash}/{name}", get(asset::serve))
        .layer(DefaultBodyLimit::max(acting::FORM_BYTES_MAX))
        .layer(Extension(Operations::default()))
        .layer(Extension(Undos::default()))
        .layer(Extension(BrokerWatch::new(ended.clone())))
}

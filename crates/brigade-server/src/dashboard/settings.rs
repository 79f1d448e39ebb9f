//! What this server is connected to, what that can do, and who looks.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use brigade::Level;

use super::notice::{Done, Notice};
use super::shell::{PageShell, page};
use super::viewer::{Viewer, queue_path};
use super::watch::BrokerWatch;
use super::words::{ShownTime, bytes};
use crate::app::App;

/// Findings that the page shows.
const FINDINGS: usize = 20;

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    page: PageShell,
    version: &'static str,
    checked: Option<ShownTime>,
    findings: Vec<(&'static str, String, String)>,
    hidden: usize,
    can_read: bool,
    abilities: Vec<(bool, &'static str)>,
    payload: String,
    roles: String,
}

pub(super) async fn settings(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(done): Query<Done>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    let can = app.broker.capabilities();
    // They name queues.
    let known = viewer.can_read().then_some(&snapshot.findings);
    let findings = known.into_iter().flatten().map(|finding| {
        let mood = match finding.level {
            Level::Problem => "problem",
            Level::Warning => "warning",
            Level::Note => "unknown",
        };
        (mood, finding.what.clone(), finding.advice.clone())
    });
    let hidden = known.map_or(0, |findings| findings.len().saturating_sub(FINDINGS));
    page(&SettingsPage {
        page: PageShell::new(&viewer, "settings", "Settings", &snapshot)
            .with_notice(Notice::of_list(&done, queue_path, &viewer.undos)),
        version: env!("CARGO_PKG_VERSION"),
        checked: snapshot
            .checked
            .map(|at| ShownTime::new(at, std::time::SystemTime::now())),
        findings: findings.take(FINDINGS).collect(),
        hidden,
        can_read: viewer.can_read(),
        abilities: vec![
            (can.durable, "jobs survive the end of every process"),
            (can.listing, "jobs and queues can be listed"),
            (
                can.statistics,
                "what happened is counted, minute by minute, for a day",
            ),
            (can.events, "changes of state of jobs can be read as events"),
            (can.consumers, "consumers that are alive are known"),
            (can.cancels, "jobs can be cancelled wherever they are"),
            (can.pauses, "queues can be paused"),
            (
                can.limits,
                "queues can be limited, for all consumers together",
            ),
            (can.schedules, "schedules push jobs"),
            (can.scheduling, "jobs can have a delay"),
            (can.priorities, "jobs can have a priority"),
            (can.keys, "jobs of one key run in order"),
            (can.unique, "unique keys"),
            (can.flows, "flows: jobs that wait for others"),
            (can.results, "results can be waited for"),
        ],
        payload: bytes(can.payload_bytes_max as u64),
        roles: viewer.roles(),
    })
}

//! The consumers that are alive, with what each runs.

use std::collections::HashMap;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use brigade::LiveConsumer;

use super::consumer_row::ConsumerRow;
use super::shell::{Failed, PageShell, page};
use super::viewer::Viewer;
use super::watch::BrokerWatch;
use super::words::{count, number};
use crate::app::App;

/// Consumers that the page shows.
const ROWS: usize = 200;

#[derive(Template)]
#[template(path = "consumers.html")]
struct ConsumersPage {
    page: PageShell,
    lists: bool,
    rows: Vec<ConsumerRow>,
    hidden: usize,
    summary: String,
    versions: Vec<(String, String)>,
}

pub(super) async fn consumers(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    let now = app.broker.clock().now();
    let all = snapshot.consumers.as_deref().unwrap_or_default();
    let versions = versions(all);
    let usual = versions.first().map(|(version, _)| version.as_str());
    let usual = usual.filter(|_| versions.len() > 1);
    let mut sorted: Vec<&LiveConsumer> = all.iter().collect();
    sorted.sort_by(|a, b| (&a.host, a.pid, &a.id).cmp(&(&b.host, b.pid, &b.id)));
    let held: usize = all.iter().map(|consumer| consumer.held).sum();
    let slots: usize = all.iter().map(|consumer| consumer.prefetch).sum();
    let summary = format!(
        "{}, {} of {} slots run",
        count(all.len() as u64, "consumer"),
        number(held as u64),
        number(slots as u64)
    );
    page(&ConsumersPage {
        page: PageShell::new(&viewer, "consumers", "Consumers", &snapshot),
        lists: app.broker.capabilities().consumers,
        rows: sorted
            .iter()
            .take(ROWS)
            .map(|consumer| ConsumerRow::new(consumer, now, usual))
            .collect(),
        hidden: sorted.len().saturating_sub(ROWS),
        summary,
        versions: versions
            .iter()
            .map(|(version, consumers)| (version.clone(), count(*consumers, "consumer")))
            .collect(),
    })
}

/// Versions with the number of consumers of each, the most frequent first.
fn versions(consumers: &[LiveConsumer]) -> Vec<(String, u64)> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for consumer in consumers {
        *counts
            .entry(consumer.version.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    let mut versions: Vec<(String, u64)> = counts
        .into_iter()
        .map(|(version, count)| (version.to_owned(), count))
        .collect();
    versions.sort_by(|(a, first), (b, second)| second.cmp(first).then(a.cmp(b)));
    versions
}

//! The list of queues.

use std::collections::BTreeSet;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::filters;
use super::notice::{Done, Notice};
use super::queue_row::QueueRow;
use super::shell::{Failed, PageShell, page};
use super::viewer::{Viewer, encoded, queue_path};
use super::watch::{BrokerWatch, Snapshot};
use super::words::number;
use crate::app::App;

/// Rows of one page.
const ROWS: usize = 50;

#[derive(Template)]
#[template(path = "queues.html")]
struct QueuesPage {
    page: PageShell,
    rows: Vec<QueueRow>,
    text: String,
    sort: &'static str,
    found: String,
    all: String,
    lists: bool,
    can_pause: bool,
    counts: bool,
    before: Option<String>,
    after: Option<String>,
    /// Names and paths of the queues that consumers serve, where the broker lists none.
    served: Vec<(String, String)>,
    /// The path of the queue that the filter names.
    named: String,
}

/// The query of the page.
#[derive(Deserialize)]
pub(super) struct QueuesQuery {
    q: Option<String>,
    sort: Option<String>,
    from: Option<usize>,
    #[serde(flatten)]
    done: Done,
}

/// Orders of the list, by their names in the address.
const SORTS: [&str; 6] = ["wait", "name", "ready", "running", "dead", "rate"];

pub(super) async fn queues(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(query): Query<QueuesQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    let text = query.q.unwrap_or_default();
    let sort = SORTS
        .into_iter()
        .find(|sort| Some(*sort) == query.sort.as_deref());
    let sort = sort.unwrap_or("wait");
    let all = snapshot.queues.as_deref().unwrap_or_default();
    let mut rows: Vec<QueueRow> = all
        .iter()
        .filter(|queue| queue.queue.contains(text.trim()))
        .map(|queue| QueueRow::new(queue, &snapshot))
        .collect();
    sort_rows(&mut rows, sort);
    let found = rows.len();
    let from = query.from.unwrap_or(0).min(found);
    let address = |from: usize| {
        let text = encoded(&text);
        format!("{}/queues?q={text}&sort={sort}&from={from}", viewer.base)
    };
    let before = (from > 0).then(|| address(from.saturating_sub(ROWS)));
    let after = (from + ROWS < found).then(|| address(from + ROWS));
    let rows = rows.into_iter().skip(from).take(ROWS);
    page(&QueuesPage {
        page: PageShell::new(&viewer, "queues", "Queues", &snapshot).with_notice(Notice::of_list(
            &query.done,
            queue_path,
            &viewer.undos,
        )),
        rows: rows.map(|row| row.with_spark(&snapshot)).collect(),
        sort,
        found: number(found as u64),
        all: number(all.len() as u64),
        lists: snapshot.queues.is_some(),
        served: served(&snapshot, text.trim()),
        named: format!("/queues/{}", encoded(text.trim())),
        can_pause: app.broker.capabilities().pauses,
        counts: snapshot.series.is_some(),
        before,
        after,
        text,
    })
}

/// The queues with this text in their name that the consumers name.
fn served(snapshot: &Snapshot, text: &str) -> Vec<(String, String)> {
    let consumers = snapshot.consumers.as_deref().unwrap_or_default();
    let names = consumers.iter().flat_map(|consumer| &consumer.queues);
    let names: BTreeSet<&String> = names.filter(|name| name.contains(text)).collect();
    let names = names.into_iter().take(ROWS);
    names
        .map(|name| (name.clone(), format!("/queues/{}", encoded(name))))
        .collect()
}

fn sort_rows(rows: &mut [QueueRow], sort: &str) {
    match sort {
        "name" => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        "ready" => rows.sort_by(|a, b| b.ready.cmp(&a.ready).then(a.name.cmp(&b.name))),
        "running" => rows.sort_by(|a, b| b.running.cmp(&a.running).then(a.name.cmp(&b.name))),
        "dead" => rows.sort_by(|a, b| b.dead.cmp(&a.dead).then(a.name.cmp(&b.name))),
        "rate" => rows.sort_by(|a, b| {
            let rate = |row: &QueueRow| row.rate.unwrap_or(0.0);
            rate(b).total_cmp(&rate(a)).then(a.name.cmp(&b.name))
        }),
        _ => rows.sort_by(QueueRow::worst_first),
    }
}

//! The queues that have limits, with what is used of them.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use brigade::Limits;

use super::filters;
use super::limit_view::LimitView;
use super::queue_row::QueueRow;
use super::shell::{Failed, PageShell, page};
use super::viewer::Viewer;
use super::watch::BrokerWatch;
use crate::app::App;

/// Queues that the page shows.
const ROWS: usize = 200;

#[derive(Template)]
#[template(path = "limits.html")]
struct LimitsPage {
    page: PageShell,
    can: bool,
    lists: bool,
    rows: Vec<(QueueRow, LimitView)>,
    hidden: usize,
}

pub(super) async fn limits(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    let queues = snapshot.queues.as_deref().unwrap_or_default();
    let mut rows: Vec<(QueueRow, LimitView)> = queues
        .iter()
        .filter_map(|queue| {
            let limits = queue.limits.filter(|limits| *limits != Limits::new())?;
            Some((
                QueueRow::new(queue, &snapshot),
                LimitView::new(limits, queue),
            ))
        })
        .collect();
    rows.sort_by(|(a, first), (b, second)| {
        second.share.cmp(&first.share).then(a.name.cmp(&b.name))
    });
    let hidden = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    page(&LimitsPage {
        page: PageShell::new(&viewer, "limits", "Limits", &snapshot),
        can: app.broker.capabilities().limits,
        lists: snapshot.queues.is_some(),
        rows,
        hidden,
    })
}

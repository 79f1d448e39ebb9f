//! `/metrics`: the numbers of the queues and of the server, as OpenMetrics text.
//!
//! Gauges are read from the broker at each scrape. Counters and histograms are sums of the broker's
//! minutes since this server started: [`CounterSums`](crate::counters::CounterSums) adds each
//! minute once, when it is over for good, and the minutes that are not on top, so a counter never
//! falls. Several servers of one broker count the same jobs: scrape one, or take the maximum.
//!
//! The number of queues that are named is bounded ([`QUEUES_MAX`]); the others are counted together
//! as `(others)`. Names and labels are documented in `docs/http.md`.

mod scrape;
mod text;

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use brigade::{QueueCounts, StatisticsFilter};

use self::scrape::Scrape;
use crate::app::App;
use crate::auth::{May, NeedsRead};
use crate::problem::Problem;

/// Queues that have metrics of their own.
const QUEUES_MAX: usize = 1_000;
/// The name of all queues beyond that.
const OTHERS: &str = "(others)";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    security(("token" = ["read"])),
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"), crate::api::CommonProblems),
)]
pub(crate) async fn metrics(
    _: May<NeedsRead>,
    State(app): State<App>,
) -> Result<impl IntoResponse, Problem> {
    let can = app.broker.capabilities();
    let queues = match can.listing {
        true => app.broker.queues().await?,
        false => Vec::new(),
    };
    let consumers = match can.consumers {
        true => u64::try_from(app.broker.consumers().await?.len()).ok(),
        false => None,
    };
    let counts = match can.statistics {
        true => {
            let filter = StatisticsFilter {
                since: Some(app.sums.since()),
                ..StatisticsFilter::default()
            };
            app.sums
                .add(app.broker.statistics(filter).await?, QUEUES_MAX, OTHERS)
        }
        false => BTreeMap::new(),
    };
    let scrape = Scrape {
        queues: bounded(queues),
        counts,
        consumers,
        requests: app.requests.snapshot(),
        now: SystemTime::now(),
    };
    let text = text::of(scrape).map_err(|_| Problem::internal("cannot write the metrics"))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text))
}

/// The queues by name, those beyond the bound together.
fn bounded(mut queues: Vec<QueueCounts>) -> Vec<QueueCounts> {
    queues.sort_by(|one, other| one.queue.cmp(&other.queue));
    if queues.len() <= QUEUES_MAX {
        return queues;
    }
    let mut others = QueueCounts::new(OTHERS);
    for queue in queues.drain(QUEUES_MAX..) {
        for (state, count) in queue.jobs {
            match others.jobs.iter_mut().find(|(of, _)| *of == state) {
                Some((_, sum)) => *sum += count,
                None => others.jobs.push((state, count)),
            }
        }
        let first = |one: SystemTime, other: SystemTime| one.min(other);
        others.waits_since = match (others.waits_since, queue.waits_since) {
            (Some(one), Some(other)) => Some(first(one, other)),
            (one, other) => one.or(other),
        };
    }
    queues.push(others);
    queues
}

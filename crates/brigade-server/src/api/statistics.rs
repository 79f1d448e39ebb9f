//! `/v1/statistics`: what queues and tasks did, minute by minute, for the last day.
//!
//! The broker counts in the same step as it changes a job, and keeps the minutes; the server only
//! writes them down. A histogram has the bounds of the library, in milliseconds, without the
//! buckets that are empty.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use brigade::statistics::Durations;
use brigade::{MinuteCounts, StatisticsFilter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsRead};
use crate::extract::Params;
use crate::problem::Problem;
use crate::values::{Moment, rfc3339};

/// Which statistics.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatisticsParams {
    /// Only of this queue.
    queue: Option<String>,
    /// Only minutes that begin at this moment or later. Default: all that are kept.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Moment>,
    /// Put the minutes of each queue and task together into one entry.
    #[serde(default)]
    summed: bool,
}

/// What happened to the jobs of one queue and task in one minute, or in several.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MinuteDocument {
    /// The queue.
    queue: String,
    /// The task; none for jobs without one.
    task: Option<String>,
    /// When the minute, or the first of them, begins.
    #[schema(format = DateTime)]
    minute: String,
    /// Jobs that were pushed.
    pushed: u64,
    /// Jobs that ended well.
    done: u64,
    /// Attempts that failed.
    failed: u64,
    /// Attempts that took their worker down.
    crashed: u64,
    /// Attempts that were cut short, without charge.
    interrupted: u64,
    /// Jobs that became dead letters.
    dead: u64,
    /// Jobs that were cancelled.
    cancelled: u64,
    /// How long jobs waited until they were handed out.
    wait: DurationsDocument,
    /// How long attempts ran.
    run: DurationsDocument,
}

/// How long things took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DurationsDocument {
    /// How many there are.
    count: u64,
    /// Seconds of all of them together.
    sum: f64,
    /// About the seconds that half of them did not exceed, from the buckets.
    p50: Option<f64>,
    /// About the seconds that 95 of 100 did not exceed, from the buckets.
    p95: Option<f64>,
    /// How many took longer than the bucket before and at most so many milliseconds (`inf`: all
    /// that took longer); empty buckets are left out.
    buckets: BTreeMap<String, u64>,
}

impl From<&Durations> for DurationsDocument {
    fn from(durations: &Durations) -> Self {
        let bounds = Durations::BOUNDS.iter().map(ToString::to_string);
        let bounds = bounds.chain(["inf".to_owned()]);
        let quantile = |share| durations.quantile(share).map(|time| time.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a day")]
        let sum = durations.sum_ms as f64 / 1000.0;
        Self {
            count: durations.count(),
            sum,
            p50: quantile(0.5),
            p95: quantile(0.95),
            buckets: bounds
                .zip(durations.counts)
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

impl From<MinuteCounts> for MinuteDocument {
    fn from(of: MinuteCounts) -> Self {
        let counts = of.counts;
        Self {
            queue: of.queue,
            task: of.task,
            minute: rfc3339(of.minute),
            pushed: counts.pushed,
            done: counts.done,
            failed: counts.failed,
            crashed: counts.crashed,
            interrupted: counts.interrupted,
            dead: counts.dead,
            cancelled: counts.cancelled,
            wait: DurationsDocument::from(&counts.wait),
            run: DurationsDocument::from(&counts.run),
        }
    }
}

/// What queues and tasks did, minute by minute, for the last day
#[utoipa::path(
    get,
    path = "/v1/statistics",
    tag = "queues",
    security(("token" = ["read"])),
    params(StatisticsParams),
    responses((status = 200, description = "the minutes in which something happened", body = [MinuteDocument]), CommonProblems),
)]
pub(crate) async fn list(
    _: May<NeedsRead>,
    State(app): State<App>,
    Params(params): Params<StatisticsParams>,
) -> Result<Json<Vec<MinuteDocument>>, Problem> {
    let filter = StatisticsFilter {
        queue: params.queue.map(Into::into),
        since: params.since.map(|moment| moment.0),
        summed: params.summed,
    };
    let minutes = app.broker.statistics(filter).await?;
    Ok(Json(
        minutes.into_iter().map(MinuteDocument::from).collect(),
    ))
}

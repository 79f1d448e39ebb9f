//! `/v1/queues`: which queues there are, and operations on whole queues.
//!
//! The broker owns counts, pauses and limits; a request asks it once. The documents keep the names
//! of `brigade queues --json`, and a new field is an addition. A queue need not be declared, so an
//! operation on a name without jobs is carried out like on any other.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use brigade::{JobState, Limits, QueueCounts};
use serde::Serialize;
use utoipa::ToSchema;

use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsAdmin, NeedsRead};
use crate::problem::Problem;

/// A queue at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueDocument {
    /// Its name.
    #[schema(example = "emails")]
    pub(crate) queue: String,
    /// Whether it is paused: it hands out nothing.
    pub(crate) paused: bool,
    /// Its limits.
    pub(crate) limits: Option<LimitsDocument>,
    /// How many jobs are in each state.
    pub(crate) jobs: StateCounts,
}

/// How many jobs are in each state.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct StateCounts {
    pub(crate) scheduled: u64,
    pub(crate) ready: u64,
    pub(crate) blocked: u64,
    pub(crate) leased: u64,
    pub(crate) retrying: u64,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
}

/// How much of a queue may run and start at once, over all consumers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsDocument {
    /// Jobs that are leased at the same time, at most.
    pub(crate) running: Option<u32>,
    /// Attempts that begin in any stretch of time, at most.
    pub(crate) starts: Option<RateDocument>,
    /// As `running`, for each partition.
    pub(crate) running_per_partition: Option<u32>,
    /// As `starts`, for each partition.
    pub(crate) starts_per_partition: Option<RateDocument>,
    /// Whether partitions take turns.
    pub(crate) turns: bool,
}

/// At most so many attempts in any stretch of time of this length.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RateDocument {
    /// How many.
    #[schema(example = 60)]
    pub(crate) starts: u32,
    /// In how many seconds.
    #[schema(example = 60.0)]
    pub(crate) per: f64,
}

impl From<QueueCounts> for QueueDocument {
    fn from(counts: QueueCounts) -> Self {
        Self {
            queue: counts.queue,
            paused: counts.paused,
            limits: counts.limits.map(LimitsDocument::from),
            jobs: StateCounts::from(&*counts.jobs),
        }
    }
}

impl From<&[(JobState, u64)]> for StateCounts {
    fn from(jobs: &[(JobState, u64)]) -> Self {
        let mut counts = Self::default();
        for (state, count) in jobs {
            *match state {
                JobState::Scheduled => &mut counts.scheduled,
                JobState::Ready => &mut counts.ready,
                JobState::Blocked => &mut counts.blocked,
                JobState::Leased => &mut counts.leased,
                JobState::Retrying => &mut counts.retrying,
                JobState::Done => &mut counts.done,
                JobState::Dead => &mut counts.dead,
                JobState::Cancelled => &mut counts.cancelled,
            } = *count;
        }
        counts
    }
}

impl From<Limits> for LimitsDocument {
    fn from(limits: Limits) -> Self {
        let rate = |rate: brigade::Rate| RateDocument {
            starts: rate.starts,
            per: rate.per.as_secs_f64(),
        };
        Self {
            running: limits.running,
            starts: limits.starts.map(rate),
            running_per_partition: limits.running_per_partition,
            starts_per_partition: limits.starts_per_partition.map(rate),
            turns: limits.turns,
        }
    }
}

/// Every queue that has jobs, limits or a pause
#[utoipa::path(
    get,
    path = "/v1/queues",
    tag = "queues",
    security(("token" = ["read"])),
    responses((status = 200, description = "the queues, by name", body = [QueueDocument]), CommonProblems),
)]
pub(crate) async fn list(
    _: May<NeedsRead>,
    State(app): State<App>,
) -> Result<Json<Vec<QueueDocument>>, Problem> {
    let queues = app.broker.queues().await?;
    Ok(Json(queues.into_iter().map(QueueDocument::from).collect()))
}

/// Hand out no jobs of a queue until it is resumed
///
/// Running jobs go on, and pushes still work.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/pause",
    tag = "queues",
    security(("token" = ["admin"])),
    params(("queue" = String, Path, description = "The name of the queue")),
    responses((status = 204, description = "it is paused"), CommonProblems),
)]
pub(crate) async fn pause(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Path(queue): Path<String>,
) -> Result<StatusCode, Problem> {
    app.broker.queue(queue.as_str()).pause().await?;
    tracing::info!(queue, by = %by.principal.name, "paused a queue");
    Ok(StatusCode::NO_CONTENT)
}

/// End the pause of a queue
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/resume",
    tag = "queues",
    security(("token" = ["admin"])),
    params(("queue" = String, Path, description = "The name of the queue")),
    responses((status = 204, description = "it is not paused any more"), CommonProblems),
)]
pub(crate) async fn resume(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Path(queue): Path<String>,
) -> Result<StatusCode, Problem> {
    app.broker.queue(queue.as_str()).resume().await?;
    tracing::info!(queue, by = %by.principal.name, "resumed a queue");
    Ok(StatusCode::NO_CONTENT)
}

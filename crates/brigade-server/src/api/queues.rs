//! `/v1/queues`: which queues there are, and operations on whole queues.
//!
//! The broker owns counts, pauses and limits; a request asks it once. The documents keep the names
//! of `brigade queues --json`, and a new field is an addition. A queue need not be declared, so an
//! operation on a name without jobs is carried out like on any other.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use brigade::{JobState, Limits, QueueCounts, Rate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use std::time::Duration;

use super::responses::{BodyProblems, CommonProblems, NameProblems};
use crate::app::App;
use crate::auth::{May, NeedsAdmin, NeedsRead};
use crate::extract::{Body, Segment};
use crate::problem::Problem;
use crate::values::rfc3339;

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
    /// Since when the job waits that is to be handed out next, if one is ready.
    #[schema(format = DateTime)]
    pub(crate) waits_since: Option<String>,
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"running": 20, "starts": {"starts": 60, "per": 60.0}}))]
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
    #[serde(default)]
    pub(crate) turns: bool,
}

/// At most so many attempts in any stretch of time of this length.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
            waits_since: counts.waits_since.map(rfc3339),
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
        let rate = |rate: Rate| RateDocument {
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

impl LimitsDocument {
    /// The limits, whose ranges the library checks.
    fn limits(&self) -> Result<Limits, Problem> {
        let rate = |rate: RateDocument| match Duration::try_from_secs_f64(rate.per) {
            Ok(per) => Ok(Rate {
                starts: rate.starts,
                per,
            }),
            Err(_) => Err(Problem::bad_request("`per` is a number of seconds")),
        };
        let mut limits = Limits::new();
        limits.running = self.running;
        limits.starts = self.starts.map(rate).transpose()?;
        limits.running_per_partition = self.running_per_partition;
        limits.starts_per_partition = self.starts_per_partition.map(rate).transpose()?;
        limits.turns = self.turns;
        Ok(limits)
    }
}

/// Jobs that were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PurgedJobs {
    /// How many.
    purged: u64,
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
    Segment(queue): Segment,
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
    Segment(queue): Segment,
) -> Result<StatusCode, Problem> {
    app.broker.queue(queue.as_str()).resume().await?;
    tracing::info!(queue, by = %by.principal.name, "resumed a queue");
    Ok(StatusCode::NO_CONTENT)
}

/// One queue
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}",
    tag = "queues",
    security(("token" = ["read"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails")),
    responses((status = 200, description = "the queue", body = QueueDocument), CommonProblems, NameProblems),
)]
pub(crate) async fn look(
    _: May<NeedsRead>,
    State(app): State<App>,
    Segment(name): Segment,
) -> Result<Json<QueueDocument>, Problem> {
    let counts = find(&app, &name).await?;
    Ok(Json(QueueDocument::from(counts)))
}

/// The queue of this name, or a problem with near names.
pub(crate) async fn find(app: &App, name: &str) -> Result<QueueCounts, Problem> {
    let queues = app.broker.queues().await?;
    if let Some(place) = queues.iter().position(|counts| counts.queue == name) {
        return Ok(queues
            .into_iter()
            .nth(place)
            .unwrap_or_else(|| QueueCounts::new(name)));
    }
    let names = queues.iter().map(|counts| counts.queue.as_str());
    Err(Problem::unknown_queue(name).near(name, names))
}

/// Remove every waiting job of a queue
///
/// Running jobs go on; done, dead and cancelled jobs stay.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/purge",
    tag = "queues",
    security(("token" = ["admin"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails")),
    responses((status = 200, description = "they are removed", body = PurgedJobs), CommonProblems),
)]
pub(crate) async fn purge(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(queue): Segment,
) -> Result<Json<PurgedJobs>, Problem> {
    let purged = app.broker.queue(queue.as_str()).purge().await?;
    tracing::info!(queue, purged, by = %by.principal.name, "purged a queue");
    Ok(Json(PurgedJobs { purged }))
}

/// Limit a queue, in place of the limits it had
///
/// They apply to jobs that are handed out from now on, to the consumers of all hosts together.
#[utoipa::path(
    put,
    path = "/v1/queues/{queue}/limits",
    tag = "queues",
    security(("token" = ["admin"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails")),
    request_body = LimitsDocument,
    responses((status = 204, description = "it is limited"), CommonProblems, BodyProblems),
)]
pub(crate) async fn limit(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(queue): Segment,
    Body(document): Body<LimitsDocument>,
) -> Result<StatusCode, Problem> {
    let limits = document.limits()?;
    app.broker.queue(queue.as_str()).limit(limits).await?;
    tracing::info!(queue, %limits, by = %by.principal.name, "limited a queue");
    Ok(StatusCode::NO_CONTENT)
}

/// Remove the limits of a queue
#[utoipa::path(
    delete,
    path = "/v1/queues/{queue}/limits",
    tag = "queues",
    security(("token" = ["admin"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails")),
    responses((status = 204, description = "it has no limits"), CommonProblems),
)]
pub(crate) async fn unlimit(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(queue): Segment,
) -> Result<StatusCode, Problem> {
    app.broker.queue(queue.as_str()).unlimit().await?;
    tracing::info!(queue, by = %by.principal.name, "removed the limits of a queue");
    Ok(StatusCode::NO_CONTENT)
}

//! `/v1/schedules`: jobs that are pushed by the clock.
//!
//! The document of a schedule has the names of `brigade cron ls --json`; moments are RFC 3339 and
//! times are seconds. Any consumer of the broker fires the schedules that are due; the server fires
//! none.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use brigade::{Missed, Recurrence, Schedule, Scheduled};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::jobs::raw;
use super::new_job::NewJob;
use super::push::PushedDocument;
use super::responses::{BodyProblems, CommonProblems, NameProblems};
use crate::app::App;
use crate::auth::{May, NeedsAdmin, NeedsRead};
use crate::extract::{Body, Segment};
use crate::problem::Problem;
use crate::values::{Seconds, rfc3339};

/// A schedule to set: `cron` or `every`, and the job of each tick.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"cron": "30 3 * * mon-fri", "zone": "Europe/Berlin", "job": {"queue": "reports", "payload": {"kind": "sales"}}}))]
pub(crate) struct NewSchedule {
    /// A cron expression: minute, hour, day, month, weekday; or six fields, second first.
    cron: Option<String>,
    /// The time zone of the expression. Default: UTC.
    zone: Option<String>,
    /// An interval; ticks are its multiples since 1970.
    every: Option<Seconds>,
    /// What happens with missed ticks. Default: `once`.
    #[serde(default)]
    #[schema(inline)]
    missed: MissedName,
    /// How late a tick may be before it counts as missed. Default: 60 s.
    grace: Option<Seconds>,
    /// The job of each tick, with its queue.
    job: NewJob,
}

/// What happens with missed ticks.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum MissedName {
    /// No job.
    Skip,
    /// One job for all of them.
    #[default]
    Once,
    /// A job for each, up to the first 1,000.
    All,
}

/// A schedule as the broker has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScheduleDocument {
    /// Its name.
    #[schema(example = "nightly")]
    pub(crate) name: String,
    /// Its cron expression, if it has one.
    cron: Option<String>,
    /// The time zone of the expression.
    zone: Option<String>,
    /// Its interval in seconds, if it has one.
    every: Option<f64>,
    /// What happens with missed ticks: skip, once, all.
    missed: serde_json::Value,
    /// How many seconds late a tick may be before it counts as missed.
    grace: f64,
    /// The queue of its jobs.
    queue: String,
    /// The task of its jobs.
    task: Option<String>,
    /// The payload of its jobs.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Its next tick.
    #[schema(format = DateTime)]
    next: String,
    /// The group that it is of.
    group: Option<String>,
    /// Whether it is paused: its ticks push nothing.
    paused: bool,
}

impl From<Scheduled> for ScheduleDocument {
    fn from(schedule: Scheduled) -> Self {
        let (cron, zone, every) = match schedule.recurrence {
            Recurrence::Cron { expression, zone } => (Some(expression), Some(zone), None),
            Recurrence::Every(interval) => (None, None, Some(interval.as_secs_f64())),
            _ => (None, None, None),
        };
        Self {
            name: schedule.name,
            cron,
            zone,
            every,
            missed: super::jobs::value(&schedule.missed),
            grace: schedule.grace.as_secs_f64(),
            queue: schedule.queue,
            task: schedule.task,
            payload: raw(&schedule.payload),
            next: rfc3339(schedule.next),
            group: schedule.group,
            paused: schedule.paused,
        }
    }
}

impl NewSchedule {
    fn schedule(self, name: &str) -> Result<Schedule, Problem> {
        // The trace of this request is not that of the ticks.
        let job = self.job.job(None, &HeaderMap::new())?;
        let schedule = match (self.cron, self.every) {
            (Some(cron), None) => {
                let zone = self.zone.unwrap_or_else(|| "UTC".to_owned());
                Schedule::cron(name, &cron, job)?.zone(zone)
            }
            (None, Some(every)) if self.zone.is_none() => Schedule::every(name, every.0, job)?,
            (None, Some(_)) => {
                return Err(Problem::bad_request("an interval has no `zone`"));
            }
            _ => {
                return Err(Problem::bad_request(
                    "a schedule has either `cron` or `every`",
                ));
            }
        };
        let schedule = schedule.missed(match self.missed {
            MissedName::Skip => Missed::Skip,
            MissedName::Once => Missed::Once,
            MissedName::All => Missed::All,
        });
        Ok(match self.grace {
            Some(grace) => schedule.grace(grace.0),
            None => schedule,
        })
    }
}

/// Every schedule, by name
#[utoipa::path(
    get,
    path = "/v1/schedules",
    tag = "schedules",
    security(("token" = ["read"])),
    responses((status = 200, description = "the schedules", body = [ScheduleDocument]), CommonProblems),
)]
pub(crate) async fn list(
    _: May<NeedsRead>,
    State(app): State<App>,
) -> Result<Json<Vec<ScheduleDocument>>, Problem> {
    let schedules = app.broker.schedules().await?;
    Ok(Json(
        schedules.into_iter().map(ScheduleDocument::from).collect(),
    ))
}

/// Set a schedule
///
/// One of this name that has the same ticks keeps its next tick. One that is paused stays paused.
#[utoipa::path(
    put,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The name of the schedule", example = "nightly")),
    request_body = NewSchedule,
    responses((status = 200, description = "it is set", body = ScheduleDocument), CommonProblems, BodyProblems),
)]
pub(crate) async fn set(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(name): Segment,
    Body(document): Body<NewSchedule>,
) -> Result<Json<ScheduleDocument>, Problem> {
    let scheduled = app.broker.schedule(document.schedule(&name)?).await?;
    tracing::info!(schedule = name, by = %by.principal.name, "set a schedule");
    Ok(Json(ScheduleDocument::from(scheduled)))
}

/// Remove a schedule; jobs that it has pushed stay
#[utoipa::path(
    delete,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The name of the schedule", example = "nightly")),
    responses((status = 204, description = "it is removed"), CommonProblems, NameProblems),
)]
pub(crate) async fn remove(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    if !app.broker.unschedule(&name).await? {
        find(&app, &name).await?;
    }
    tracing::info!(schedule = name, by = %by.principal.name, "removed a schedule");
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// Its ticks push nothing until it is resumed, and are not made up for then.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/pause",
    tag = "schedules",
    security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The name of the schedule", example = "nightly")),
    responses((status = 204, description = "it is paused"), CommonProblems, NameProblems),
)]
pub(crate) async fn pause(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    if !app.broker.pause_schedule(&name).await? {
        find(&app, &name).await?;
    }
    tracing::info!(schedule = name, by = %by.principal.name, "paused a schedule");
    Ok(StatusCode::NO_CONTENT)
}

/// End the pause of a schedule; it pushes a job at its first tick from now on
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/resume",
    tag = "schedules",
    security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The name of the schedule", example = "nightly")),
    responses((status = 204, description = "it is not paused any more"), CommonProblems, NameProblems),
)]
pub(crate) async fn resume(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    if !app.broker.resume_schedule(&name).await? {
        find(&app, &name).await?;
    }
    tracing::info!(schedule = name, by = %by.principal.name, "resumed a schedule");
    Ok(StatusCode::NO_CONTENT)
}

/// Push the job of a schedule now; its ticks stay as they are
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/run",
    tag = "schedules",
    security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The name of the schedule", example = "nightly")),
    responses((status = 201, description = "its job is pushed", body = PushedDocument), CommonProblems, NameProblems),
)]
pub(crate) async fn run(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(name): Segment,
) -> Result<(StatusCode, Json<PushedDocument>), Problem> {
    let pushed = app.broker.push(find(&app, &name).await?.job()).await?;
    tracing::info!(schedule = name, by = %by.principal.name, "pushed the job of a schedule");
    Ok((StatusCode::CREATED, Json(PushedDocument::from(&pushed))))
}

/// The schedule of this name, or a problem with near names.
async fn find(app: &App, name: &str) -> Result<Scheduled, Problem> {
    let mut schedules = app.broker.schedules().await?;
    match schedules.iter().position(|schedule| schedule.name == name) {
        Some(place) => Ok(schedules.swap_remove(place)),
        None => {
            let names = schedules.iter().map(|schedule| schedule.name.as_str());
            Err(Problem::unknown_schedule(name).near(name, names))
        }
    }
}

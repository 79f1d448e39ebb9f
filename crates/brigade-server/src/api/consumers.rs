//! `/v1/consumers`, `/v1/dead` and `/v1/check`: what goes on at the broker, and what is wrong.
//!
//! The documents are the values of the library with moments as RFC 3339. Consumers announce
//! themselves to the broker; for those that take jobs over HTTP, the server does
//! ([`HttpConsumers`](crate::http_consumers::HttpConsumers)).

use axum::Json;
use axum::extract::State;
use brigade::{DeadGroup, LiveConsumer, RunningJob};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::value;
use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsAdmin, NeedsRead};
use crate::extract::Params;
use crate::problem::Problem;
use crate::values::rfc3339;

/// A consumer that is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConsumerDocument {
    /// Names it among all consumers of the broker.
    id: String,
    /// The queues that it serves, the first of them.
    queues: Vec<String>,
    /// How many queues it serves.
    queues_served: usize,
    /// The host it runs on, or the name that it gave over HTTP.
    #[schema(example = "web-1")]
    host: String,
    /// Its process on that host, if it says so.
    #[schema(example = 4711)]
    pid: Option<u32>,
    /// `HTTP` if it takes jobs over HTTP; null if it asks the broker itself.
    #[schema(example = "HTTP")]
    via: Option<String>,
    /// The version of its program, if that says one.
    version: Option<String>,
    /// When it started.
    #[schema(format = DateTime)]
    since: String,
    /// The most jobs that it holds at once; 0 if that is not known.
    prefetch: usize,
    /// How many jobs it holds.
    held: usize,
    /// The jobs that it holds, the oldest first, the first of them.
    running: Vec<RunningDocument>,
}

/// A job that a consumer holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunningDocument {
    /// Its id.
    job: String,
    /// Its queue.
    queue: String,
    /// The task, if it is a task's.
    task: Option<String>,
    /// Number of the attempt, from 1.
    attempt: u32,
    /// When it was handed out.
    #[schema(format = DateTime)]
    since: String,
    /// How far it is, from 0 to 1.
    progress: Option<f64>,
    /// The text of that progress.
    text: Option<String>,
}

/// Dead letters that belong together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadGroupDocument {
    /// Their queue.
    queue: String,
    /// Their task.
    task: Option<String>,
    /// The pattern of their reasons: `reason` of `/v1/jobs` finds them.
    reason: String,
    /// How many they are.
    count: u64,
    /// When the first of them was pushed.
    #[schema(format = DateTime)]
    first: String,
    /// When the last of them was pushed.
    #[schema(format = DateTime)]
    last: String,
    /// The id of one of them.
    example: String,
}

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadParams {
    /// Only of this queue.
    queue: Option<String>,
}

/// One thing that a check found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FindingDocument {
    /// How bad it is: note, warning, problem.
    level: serde_json::Value,
    /// What was found.
    what: String,
    /// What to do about it; empty if nothing.
    advice: String,
}

impl From<LiveConsumer> for ConsumerDocument {
    fn from(consumer: LiveConsumer) -> Self {
        Self {
            id: consumer.id,
            queues: consumer.queues,
            queues_served: consumer.queues_served,
            host: consumer.host,
            pid: consumer.pid,
            via: consumer.via,
            version: consumer.version,
            since: rfc3339(consumer.since),
            prefetch: consumer.prefetch,
            held: consumer.held,
            running: consumer
                .running
                .into_iter()
                .map(RunningDocument::from)
                .collect(),
        }
    }
}

impl From<RunningJob> for RunningDocument {
    fn from(running: RunningJob) -> Self {
        let (progress, text) = running.progress.unzip();
        Self {
            job: running.job.as_str().to_owned(),
            queue: running.queue,
            task: running.task,
            attempt: running.attempt,
            since: rfc3339(running.since),
            progress,
            text,
        }
    }
}

impl From<DeadGroup> for DeadGroupDocument {
    fn from(group: DeadGroup) -> Self {
        Self {
            queue: group.queue,
            task: group.task,
            reason: group.reason,
            count: group.count,
            first: rfc3339(group.first),
            last: rfc3339(group.last),
            example: group.example.as_str().to_owned(),
        }
    }
}

/// The consumers that are alive, with what each runs
#[utoipa::path(
    get,
    path = "/v1/consumers",
    tag = "queues",
    security(("token" = ["read"])),
    responses((status = 200, description = "the consumers", body = [ConsumerDocument]), CommonProblems),
)]
pub(crate) async fn consumers(
    _: May<NeedsRead>,
    State(app): State<App>,
) -> Result<Json<Vec<ConsumerDocument>>, Problem> {
    let consumers = app.broker.consumers().await?;
    Ok(Json(
        consumers.into_iter().map(ConsumerDocument::from).collect(),
    ))
}

/// Dead letters in groups of one task and like reasons, the largest group first
#[utoipa::path(
    get,
    path = "/v1/dead",
    tag = "queues",
    security(("token" = ["read"])),
    params(DeadParams),
    responses((status = 200, description = "the groups", body = [DeadGroupDocument]), CommonProblems),
)]
pub(crate) async fn dead(
    _: May<NeedsRead>,
    State(app): State<App>,
    Params(params): Params<DeadParams>,
) -> Result<Json<Vec<DeadGroupDocument>>, Problem> {
    let groups = app.broker.dead_groups(params.queue.as_deref()).await?;
    Ok(Json(
        groups.into_iter().map(DeadGroupDocument::from).collect(),
    ))
}

/// Faults and risky settings of the broker, the worst first
///
/// It may take a while: SQLite reads the whole file.
#[utoipa::path(
    get,
    path = "/v1/check",
    tag = "health",
    security(("token" = ["admin"])),
    responses((status = 200, description = "what was found", body = [FindingDocument]), CommonProblems),
)]
pub(crate) async fn check(
    _: May<NeedsAdmin>,
    State(app): State<App>,
) -> Result<Json<Vec<FindingDocument>>, Problem> {
    let findings = app.broker.check().await?.into_iter();
    let documents = findings.map(|finding| FindingDocument {
        level: value(&finding.level),
        what: finding.what,
        advice: finding.advice,
    });
    Ok(Json(documents.collect()))
}

//! Probes: `/readyz`, `/health`, and the numbers that an autoscaler needs.
//!
//! `/livez` and `/readyz` say nothing about jobs, so they need no credential. `/health` names
//! queues, and asks the broker for more than a probe that comes every second should: it is for
//! monitoring, not for restarts.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use brigade::{ErrorKind, JobState, LiveConsumer, QueueCounts, StatisticsFilter};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::queues::find;
use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsRead};
use crate::extract::Segment;
use crate::problem::Problem;
use crate::values::rfc3339;

/// For the broker to answer a probe.
const PROBE_TIME: Duration = Duration::from_secs(5);
/// In which dead letters are counted.
const HOUR: Duration = Duration::from_secs(3600);

/// Whether all is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthDocument {
    /// Whether there is no problem.
    well: bool,
    /// What is wrong.
    problems: Vec<HealthProblem>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthProblem {
    /// `waiting`: jobs wait for too long; `dead`: many jobs became dead letters; `unreachable`: the
    /// broker does not answer.
    kind: &'static str,
    /// The queue, if it is about one.
    queue: Option<String>,
    /// What is wrong, in words.
    text: String,
}

/// What an autoscaler needs of a queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScaleDocument {
    /// Jobs that are ready or running: divide it by the jobs that one replica runs.
    value: u64,
    /// Jobs that may be handed out.
    ready: u64,
    /// Jobs that a holder has.
    running: u64,
}

/// Whether the server can serve requests: its broker answers, and it does not stop
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "it can", body = String, content_type = "text/plain", example = "ok\n"),
        (status = 503, description = "it cannot, now", body = crate::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.options.stop.is_cancelled() {
        return Err(Problem::stopping());
    }
    match probe(&app).await {
        Ok(_) => Ok("ok\n"),
        Err(error) => Err(Problem::not_ready(error)),
    }
}

/// Whether jobs are run: 503 if jobs wait for too long, many became dead letters, or the broker is
/// away
///
/// The thresholds are options of the server.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    security(("token" = ["read"])),
    responses(
        (status = 200, description = "all is well", body = HealthDocument),
        CommonProblems,
        (status = 503, description = "something is wrong", body = HealthDocument),
    ),
)]
pub(crate) async fn health(
    _: May<NeedsRead>,
    State(app): State<App>,
) -> Result<(StatusCode, Json<HealthDocument>), Problem> {
    let problems = match probe(&app).await {
        Ok(queues) => problems(&app, &queues).await?,
        Err(error) => vec![HealthProblem {
            kind: "unreachable",
            queue: None,
            text: error,
        }],
    };
    let (well, status) = match problems.is_empty() {
        true => (true, StatusCode::OK),
        false => (false, StatusCode::SERVICE_UNAVAILABLE),
    };
    Ok((status, Json(HealthDocument { well, problems })))
}

/// How many jobs of a queue are ready and running, for an autoscaler (KEDA `metrics-api`)
///
/// A queue without jobs has 0.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}/scale",
    tag = "queues",
    security(("token" = ["read"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails")),
    responses((status = 200, description = "the numbers", body = ScaleDocument), CommonProblems),
)]
pub(crate) async fn scale(
    _: May<NeedsRead>,
    State(app): State<App>,
    Segment(queue): Segment,
) -> Result<Json<ScaleDocument>, Problem> {
    let counts = match find(&app, &queue).await {
        Ok(counts) => counts,
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => QueueCounts::new(queue),
        Err(problem) => return Err(problem),
    };
    let (ready, running) = (
        jobs_in(&counts, JobState::Ready),
        jobs_in(&counts, JobState::Leased),
    );
    Ok(Json(ScaleDocument {
        value: ready + running,
        ready,
        running,
    }))
}

/// How many jobs of a queue are in this state.
pub(crate) fn jobs_in(counts: &QueueCounts, state: JobState) -> u64 {
    let found = counts.jobs.iter().find(|(of, _)| *of == state);
    found.map_or(0, |(_, count)| *count)
}

/// The queues; none where the broker cannot list them.
async fn probe(app: &App) -> Result<Vec<QueueCounts>, String> {
    match timeout(PROBE_TIME, app.broker.queues()).await {
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => Ok(Vec::new()),
        Ok(queues) => queues.map_err(|error| {
            app.note(&error);
            error.to_string()
        }),
        Err(_) => Err(format!("the broker did not answer within {PROBE_TIME:?}")),
    }
}

async fn problems(app: &App, queues: &[QueueCounts]) -> Result<Vec<HealthProblem>, Problem> {
    let consumers = match app.broker.capabilities().consumers {
        true => app.broker.consumers().await?,
        false => Vec::new(),
    };
    let now = SystemTime::now();
    let waiting = |counts: &&QueueCounts| {
        let waits = counts
            .waits_since
            .and_then(|since| now.duration_since(since).ok());
        !counts.paused && waits.is_some_and(|waits| waits > app.options.healthy_wait)
    };
    let waiting = queues.iter().filter(waiting);
    let mut problems: Vec<HealthProblem> = waiting
        .map(|counts| waits_too_long(counts, &consumers))
        .collect();
    problems.extend(dead_letters(app, now).await?);
    Ok(problems)
}

fn waits_too_long(counts: &QueueCounts, consumers: &[LiveConsumer]) -> HealthProblem {
    let serves = |consumer: &&LiveConsumer| consumer.queues.contains(&counts.queue);
    let by = match consumers.iter().filter(serves).count() {
        0 => "no consumer serves it".to_owned(),
        1 => "1 consumer serves it".to_owned(),
        many => format!("{many} consumers serve it"),
    };
    let since = counts.waits_since.map(rfc3339).unwrap_or_default();
    let ready = jobs_in(counts, JobState::Ready);
    HealthProblem {
        kind: "waiting",
        text: format!(
            "queue {:?} has {ready} ready jobs, the first since {since}, and {by}",
            counts.queue
        ),
        queue: Some(counts.queue.clone()),
    }
}

/// Queues with too many new dead letters.
async fn dead_letters(app: &App, now: SystemTime) -> Result<Vec<HealthProblem>, Problem> {
    if !app.broker.capabilities().statistics {
        return Ok(Vec::new());
    }
    let filter = StatisticsFilter {
        since: now.checked_sub(HOUR),
        summed: true,
        ..StatisticsFilter::default()
    };
    let mut dead = std::collections::BTreeMap::<String, u64>::new();
    for of in app.broker.statistics(filter).await? {
        *dead.entry(of.queue).or_default() += of.counts.dead;
    }
    let too_many = dead
        .into_iter()
        .filter(|(_, count)| *count > app.options.healthy_dead);
    let problem = |(queue, count): (String, u64)| HealthProblem {
        kind: "dead",
        text: format!("{count} jobs of queue {queue:?} became dead letters within an hour"),
        queue: Some(queue),
    };
    Ok(too_many.map(problem).collect())
}

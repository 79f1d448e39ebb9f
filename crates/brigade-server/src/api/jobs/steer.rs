//! What changes a job: cancel, retry, delete.
//!
//! An operation that finds the job in another state changes nothing and is answered with 409, and
//! one that finds no job with 404. The broker decides about the state in the same step as it
//! changes the job; the look at the job afterwards is only for the text of the problem.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use brigade::{AttemptKind, Broker, CancelOutcome, Edit, JobId, JobState};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::documents::{StateName, StopDocument, value};
use crate::api::responses::{BodyProblems, CommonProblems, JobProblems, StateProblems};
use crate::app::App;
use crate::auth::{May, NeedsAdmin};
use crate::extract::{Body, Params, Segment};
use crate::problem::Problem;
use crate::values::Seconds;

/// Why a job is cancelled, and how long to wait for its end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "ordered twice", "wait": "10s"}))]
pub(crate) struct CancelJob {
    /// Why, for people. Default: the name of the token.
    reason: Option<String>,
    /// How long to wait until nothing of the job is left, for a receipt. Default: not at all.
    wait: Option<Seconds>,
}

/// The result of a cancel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CancelDocument {
    /// `cancelled` if the job has ended by this, `asked` if its holder has been asked to stop it.
    #[schema(value_type = CancelName)]
    outcome: CancelOutcome,
    /// Where the job ended, if that was waited for.
    #[schema(value_type = Option<StateName>)]
    state: Option<JobState>,
    /// How its attempt was stopped, if its holder reported that.
    receipt: Option<StopDocument>,
    /// What its attempt cost and left behind, if it was stopped in a worker process.
    #[schema(value_type = Option<Object>)]
    report: Option<serde_json::Value>,
}

/// What a cancel came to.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "the schema of `CancelOutcome`")]
pub(crate) enum CancelName {
    Cancelled,
    Asked,
}

/// What to change of a dead letter before it is tried again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"payload": {"to": "ann@example.org"}}))]
pub(crate) struct RetryJob {
    /// The new payload, any JSON, also `null`.
    #[serde(default, deserialize_with = "also_null")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// The new task.
    task: Option<String>,
    /// The new queue.
    queue: Option<String>,
}

/// The text of a value that is there: serde alone takes a `null` for none.
fn also_null<'de, D>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error>
where
    D: Deserializer<'de>,
{
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The job that goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RetriedJob {
    /// Its id, which is another one if the broker has the queue in its ids.
    #[schema(example = "42")]
    id: String,
}

/// Which job to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteParams {
    /// Only if it is a dead letter at that moment.
    #[serde(default)]
    only_dead: bool,
}

/// Cancel a job, waiting or running
///
/// A waiting job ends at once. The holder of a running one stops it, wherever that is; with `wait`
/// the answer has the receipt of that. A job of a flow takes those with it that wait for it.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    tag = "jobs",
    security(("token" = ["admin"])),
    params(("id" = String, Path, description = "The id of the job", example = "42")),
    request_body = CancelJob,
    responses((status = 200, description = "it is cancelled, or its holder was asked", body = CancelDocument), CommonProblems, BodyProblems, JobProblems, StateProblems),
)]
pub(crate) async fn cancel(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(id): Segment,
    Body(asked): Body<CancelJob>,
) -> Result<Json<CancelDocument>, Problem> {
    let (id, wait) = (JobId::new(id), app.wait(asked.wait)?);
    let by = &by.principal.name;
    let reason = asked.reason.unwrap_or_else(|| format!("cancelled by {by}"));
    let outcome = app.broker.cancel(&id, &reason).await?;
    if outcome == CancelOutcome::Nothing {
        return Err(not_so(&app.broker, &id, "nothing of it is left to cancel").await);
    }
    tracing::info!(job = %id, %by, "cancelled a job");
    let mut document = CancelDocument {
        outcome,
        state: None,
        receipt: None,
        report: None,
    };
    if outcome == CancelOutcome::Asked && wait.time > Duration::ZERO {
        let ended = tokio::select! {
            ended = timeout(wait.time, app.broker.wait(&id)) => match ended {
                Ok(Ok(job)) => job,
                // The cancel is accepted all the same: it only has no receipt.
                Ok(Err(error)) => {
                    tracing::warn!(job = %id, %error, "could not wait for the end of a job");
                    None
                }
                Err(_) => None,
            },
            () = app.options.stop.cancelled() => None,
        };
        if let Some(job) = ended {
            document.state = Some(job.state);
            let last = job.history.last();
            let stop = last.filter(|record| record.kind == AttemptKind::Cancelled);
            document.receipt = stop.and_then(|record| Some(record.stop.as_ref()?.into()));
            document.report = stop.and_then(|record| record.report.as_ref()).map(value);
        }
    }
    Ok(Json(document))
}

/// Give a dead letter back to its queue, with changes if wanted
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    tag = "jobs",
    security(("token" = ["admin"])),
    params(("id" = String, Path, description = "The id of the job", example = "42")),
    request_body = RetryJob,
    responses((status = 200, description = "it is tried again", body = RetriedJob), CommonProblems, BodyProblems, JobProblems, StateProblems),
)]
pub(crate) async fn retry(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(id): Segment,
    Body(asked): Body<RetryJob>,
) -> Result<Json<RetriedJob>, Problem> {
    let id = JobId::new(id);
    let mut edit = Edit::new();
    edit.payload = asked.payload.map(Box::<str>::from);
    edit.task = asked.task.map(Into::into);
    edit.queue = asked.queue.map(Into::into);
    match app.broker.retry_with(&id, edit).await? {
        Some(now) => {
            tracing::info!(job = %id, by = %by.principal.name, "retried a dead letter");
            let id = now.as_str().to_owned();
            Ok(Json(RetriedJob { id }))
        }
        None => {
            let only = "only a dead letter that was run itself can be retried";
            Err(not_so(&app.broker, &id, only).await)
        }
    }
}

/// Remove a job that is not leased
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    security(("token" = ["admin"])),
    params(("id" = String, Path, description = "The id of the job", example = "42"), DeleteParams),
    responses((status = 204, description = "it is removed"), CommonProblems, JobProblems, StateProblems),
)]
pub(crate) async fn delete(
    by: May<NeedsAdmin>,
    State(app): State<App>,
    Segment(id): Segment,
    Params(params): Params<DeleteParams>,
) -> Result<StatusCode, Problem> {
    let id = JobId::new(id);
    let (removed, only) = match params.only_dead {
        true => (app.broker.delete_dead(&id).await?, "it is no dead letter"),
        false => (
            app.broker.delete(&id).await?,
            "a holder has it: cancel it first",
        ),
    };
    if !removed {
        return Err(not_so(&app.broker, &id, only).await);
    }
    tracing::info!(job = %id, by = %by.principal.name, "deleted a job");
    Ok(StatusCode::NO_CONTENT)
}

/// Why an operation on a job changed nothing.
async fn not_so(broker: &Broker, id: &JobId, only: &str) -> Problem {
    match broker.job(id).await {
        Ok(None) => Problem::unknown_job(id.as_str()),
        Ok(Some(job)) => Problem::wrong_state(format!("job {id} is {}: {only}", job.state)),
        Err(error) => error.into(),
    }
}

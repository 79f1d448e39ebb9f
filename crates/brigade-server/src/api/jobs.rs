//! `/v1/jobs`: single jobs and lists of them.

mod documents;

use axum::Json;
use axum::extract::{Path, State};
use brigade::JobId;

pub(crate) use self::documents::JobDocument;
use super::responses::CommonProblems;
use crate::app::App;
use crate::auth::{May, NeedsAny};
use crate::problem::Problem;

/// One job, with its history
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    security(("token" = ["read", "push", "work"])),
    params(("id" = String, Path, description = "The id of the job")),
    responses(
        (status = 200, description = "the job", body = JobDocument),
        (status = 404, description = "there is no job of this id (any more)", body = Problem, content_type = "application/problem+json"),
        CommonProblems,
    ),
)]
pub(crate) async fn look(
    _: May<NeedsAny>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<JobDocument>, Problem> {
    let id = JobId::new(id);
    match app.broker.job(&id).await? {
        Some(job) => Ok(Json(JobDocument::from(job))),
        None => Err(Problem::unknown_job(id.as_str())),
    }
}

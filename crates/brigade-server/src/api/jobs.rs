//! `/v1/jobs`: lists of jobs, one job, and why it does not run.
//!
//! A list comes in pages: `next` of a page is the `cursor` of the next one. One look at the broker
//! reads a bounded number of jobs and of bytes, so a page of a rare filter or of large jobs may be
//! short, even empty, and yet have a `next`.

mod documents;
mod steer;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use brigade::{JobFilter, JobId, JobInfo, JobState};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

pub(crate) use self::documents::{JobDocument, StateName, raw, value};
pub(crate) use self::steer::*;
use super::responses::{CommonProblems, JobProblems};
use crate::app::App;
use crate::auth::{May, NeedsAny, NeedsRead, Role};
use crate::extract::{Params, Segment};
use crate::problem::Problem;
use crate::values::{Moment, Seconds};

/// Jobs of a page if the request does not say it, and the most.
const PAGE_JOBS: usize = 100;
const PAGE_JOBS_MAX: usize = 1_000;

/// Which jobs to list; all conditions hold together.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Only of this queue.
    queue: Option<String>,
    /// Only in this state.
    #[param(value_type = Option<StateName>, inline)]
    state: Option<JobState>,
    /// Only those of this task.
    task: Option<String>,
    /// Only those without a task.
    no_task: Option<bool>,
    /// Only those with this label.
    label: Option<String>,
    /// Only those with this key.
    key: Option<String>,
    /// Only those whose payload, as JSON text, contains this text.
    text: Option<String>,
    /// Only those with a reason of this pattern, as `/v1/dead` has it; an empty one is that of jobs
    /// without a reason.
    reason: Option<String>,
    /// Only those pushed at this moment or later.
    #[param(value_type = Option<String>, format = DateTime)]
    pushed_from: Option<Moment>,
    /// Only those pushed before this moment.
    #[param(value_type = Option<String>, format = DateTime)]
    pushed_until: Option<Moment>,
    /// `oldest` first, in the order of the pushes (the default), or `newest`.
    #[param(inline)]
    order: Option<PageOrder>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// The most jobs of the page, at most 1,000; a page of large jobs has fewer. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The order of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PageOrder {
    /// In the order of the pushes.
    Oldest,
    /// The newest first.
    Newest,
}

/// Some of the jobs of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobsDocument {
    /// The jobs.
    jobs: Vec<JobDocument>,
    /// If there may be more: the `cursor` of the next page.
    next: Option<String>,
}

/// How to look at a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LookParams {
    /// Wait this long for the job to end, and show it then. Default: not at all.
    #[param(value_type = Option<String>, example = "30s")]
    pub(super) wait: Option<Seconds>,
}

/// Why a job does not run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyDocument {
    /// The job.
    job: String,
    /// Its queue.
    queue: String,
    /// Where it is in its life.
    #[schema(value_type = StateName)]
    state: JobState,
    /// All of it as a sentence.
    text: String,
    /// Every reason; none if the next consumer that asks gets it. `why` names the kind.
    #[schema(value_type = Vec<Object>)]
    reasons: Vec<serde_json::Value>,
}

impl ListParams {
    fn filter(self) -> Result<JobFilter, Problem> {
        let limit = self.limit.unwrap_or(PAGE_JOBS);
        if !(1..=PAGE_JOBS_MAX).contains(&limit) {
            let text = format!("`limit` is from 1 to {PAGE_JOBS_MAX}");
            return Err(Problem::bad_request(text));
        }
        Ok(JobFilter {
            queue: self.queue.map(Into::into),
            state: self.state,
            task: self.task.map(Into::into),
            no_task: self.no_task.unwrap_or_default(),
            label: self.label.map(Into::into),
            key: self.key.map(Into::into),
            text: self.text.map(Into::into),
            reason: self.reason.map(Into::into),
            pushed_from: self.pushed_from.map(|moment| moment.0),
            pushed_until: self.pushed_until.map(|moment| moment.0),
            newest_first: self.order == Some(PageOrder::Newest),
            after: self.cursor.map(JobId::new),
            limit,
        })
    }
}

/// List jobs
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    security(("token" = ["read"])),
    params(ListParams),
    responses((status = 200, description = "a page of the jobs", body = JobsDocument), CommonProblems),
)]
pub(crate) async fn list(
    _: May<NeedsRead>,
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Result<Json<JobsDocument>, Problem> {
    let page = app.broker.find(&params.filter()?).await?;
    Ok(Json(JobsDocument {
        jobs: page.jobs.into_iter().map(JobDocument::from).collect(),
        next: page.next.map(|id| id.as_str().to_owned()),
    }))
}

/// One job, with its history
///
/// With `wait` the answer comes when the job has ended, or when the wait is over. A job that is
/// done is removed at once unless it was pushed with `keep`. A token without the role `read` sees
/// what became of the job, but neither payload, result, reasons nor reports.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    security(("token" = ["read", "push", "work"])),
    params(("id" = String, Path, description = "The id of the job", example = "42"), LookParams),
    responses((status = 200, description = "the job", body = JobDocument), CommonProblems, JobProblems),
)]
pub(crate) async fn look(
    by: May<NeedsAny>,
    State(app): State<App>,
    Segment(id): Segment,
    Params(params): Params<LookParams>,
) -> Result<Json<JobDocument>, Problem> {
    let shown = |job: JobInfo| match by.principal.roles.allow(Role::Read) {
        true => Json(JobDocument::from(job)),
        false => Json(JobDocument::from(job).without_contents()),
    };
    let wait = app.wait(params.wait)?;
    Ok(shown(seen(&app, &JobId::new(id), wait.time).await?))
}

/// A job as it is when it has ended, or when the wait is over.
pub(super) async fn seen(app: &App, id: &JobId, wait: Duration) -> Result<JobInfo, Problem> {
    let unknown = || Problem::unknown_job(id.as_str());
    if wait > Duration::ZERO {
        let ended = tokio::select! {
            ended = timeout(wait, app.broker.wait(id)) => ended.ok().transpose()?,
            () = app.options.stop.cancelled() => None,
        };
        if let Some(ended) = ended {
            return ended.ok_or_else(unknown);
        }
    }
    app.broker.job(id).await?.ok_or_else(unknown)
}

/// Why a job does not run now
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/why",
    tag = "jobs",
    security(("token" = ["read"])),
    params(("id" = String, Path, description = "The id of the job", example = "42")),
    responses((status = 200, description = "the reasons", body = WhyDocument), CommonProblems, JobProblems),
)]
pub(crate) async fn why(
    _: May<NeedsRead>,
    State(app): State<App>,
    Segment(id): Segment,
) -> Result<Json<WhyDocument>, Problem> {
    let explanation = app.broker.why(&JobId::new(id.as_str())).await?;
    let explanation = explanation.ok_or_else(|| Problem::unknown_job(&id))?;
    Ok(Json(WhyDocument {
        job: explanation.job.as_str().to_owned(),
        text: explanation.to_string(),
        state: explanation.state,
        reasons: explanation.reasons.iter().map(value).collect(),
        queue: explanation.queue,
    }))
}

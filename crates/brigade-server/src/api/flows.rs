//! `/v1/flows`: jobs that depend on each other, pushed all or none, and how far they are.
//!
//! A chain is a list of jobs, each of which runs after the one before it and gets its result in
//! front of its own arguments. A group has chains that run at the same time, and maybe a last job.
//! The broker joins the jobs and stores them in one step. It knows jobs and no flows, so a flow is
//! looked at from any of its jobs, and is a list of them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use brigade::{Chain, Group, JobId, JobState, PushedFlow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::jobs::{JobDocument, LookParams, StateName, seen};
use super::new_job::NewJob;
use super::responses::{BodyProblems, CommonProblems, JobProblems, StateProblems};
use crate::app::App;
use crate::auth::{May, NeedsPush, NeedsRead};
use crate::extract::{Body, Params, Segment};
use crate::flow::FlowJobs;
use crate::problem::Problem;

/// The most jobs of a flow.
const FLOW_JOBS_MAX: usize = 10_000;

/// A flow: either `chain`, or `group` with at most one of `then`, `collect` and `finally`. Every
/// job says its queue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "group": [
        [{"queue": "fetch", "payload": ["a"]}],
        [{"queue": "fetch", "payload": ["b"]}, {"queue": "shrink", "payload": []}]
    ],
    "collect": {"queue": "join", "payload": []}
}))]
pub(crate) struct NewFlow {
    /// Jobs that run one after another; each gets the result of the one before it in front of its
    /// arguments, so the payload of every job but the first is an array.
    chain: Option<Vec<NewJob>>,
    /// Chains that run at the same time.
    group: Option<Vec<Vec<NewJob>>>,
    /// Runs as it is when all of the group are done.
    then: Option<NewJob>,
    /// Runs when all of the group are done, with an array of their results in front of its
    /// arguments.
    collect: Option<NewJob>,
    /// Runs as it is when all of the group are settled for good, however they ended.
    finally: Option<NewJob>,
}

/// A flow that is safe. Look at it at `/v1/flows/{id}`, with the id of any of its jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PushedFlowDocument {
    /// Its jobs, each before the one that waits for it.
    jobs: Vec<String>,
    /// The job that is settled last: wait for it, or cancel it to cancel the flow.
    last: String,
}

/// A flow as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FlowDocument {
    /// The job that is settled last.
    #[schema(example = "42")]
    last: String,
    /// Where that job is in its life, and so the flow.
    #[schema(value_type = StateName)]
    state: JobState,
    /// Jobs that have ended as they should, also those that are gone.
    #[schema(example = 3)]
    done: usize,
    /// Jobs that are dead or cancelled.
    #[schema(example = 0)]
    missed: usize,
    /// All jobs, also those that are gone.
    #[schema(example = 5)]
    total: usize,
    /// Those of them that ended and are gone, because they were pushed without `keep`.
    #[schema(example = 2)]
    gone: usize,
    /// Whether there may be more jobs: one look reads a bounded number.
    is_cut: bool,
    /// The jobs that are there, in the order of the push: each before the one that waits for it,
    /// which is its `dependent`.
    jobs: Vec<JobDocument>,
}

impl From<&FlowJobs> for FlowDocument {
    fn from(flow: &FlowJobs) -> Self {
        let count = |is: fn(JobState) -> bool| {
            let states = flow.jobs.values().map(|job| job.state);
            states.filter(|state| is(*state)).count()
        };
        let gone = flow.gone().values().map(|gone| *gone as usize).sum();
        Self {
            last: flow.last.as_str().to_owned(),
            state: flow.jobs[&flow.last].state,
            done: gone + count(|state| state == JobState::Done),
            missed: count(|state| matches!(state, JobState::Dead | JobState::Cancelled)),
            total: gone + flow.jobs.len(),
            gone,
            is_cut: flow.is_cut,
            jobs: flow
                .in_order()
                .into_iter()
                .cloned()
                .map(JobDocument::from)
                .collect(),
        }
    }
}

/// A flow, from any of its jobs
///
/// A job that is of no flow is one of itself. With `wait` the answer comes when its last job has
/// ended, or when the wait is over. Give that job `keep`, so that it can be seen then. To list
/// flows that wait, list jobs by `state=blocked`.
#[utoipa::path(
    get,
    path = "/v1/flows/{id}",
    tag = "jobs",
    security(("token" = ["read"])),
    params(("id" = String, Path, description = "The id of any of its jobs", example = "42"), LookParams),
    responses((status = 200, description = "the flow", body = FlowDocument), CommonProblems, JobProblems),
)]
pub(crate) async fn look(
    _: May<NeedsRead>,
    State(app): State<App>,
    Segment(id): Segment,
    Params(params): Params<LookParams>,
) -> Result<Json<FlowDocument>, Problem> {
    let wait = app.wait(params.wait)?;
    let job = seen(&app, &JobId::new(id), Duration::ZERO).await?;
    let mut flow = FlowJobs::of(&app.broker, job).await?;
    if wait.time > Duration::ZERO {
        let last = seen(&app, &flow.last, wait.time).await?;
        flow = FlowJobs::of(&app.broker, last).await?;
    }
    Ok(Json(FlowDocument::from(&flow)))
}

/// Push a chain or a group of jobs, all or none
#[utoipa::path(
    post,
    path = "/v1/flows",
    tag = "jobs",
    security(("token" = ["push"])),
    request_body = NewFlow,
    responses((status = 201, description = "they are safe", body = PushedFlowDocument), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn push(
    _: May<NeedsPush>,
    State(app): State<App>,
    headers: HeaderMap,
    Body(flow): Body<NewFlow>,
) -> Result<(StatusCode, Json<PushedFlowDocument>), Problem> {
    let pushed = flow.push(&app, &headers).await?;
    let document = PushedFlowDocument {
        last: pushed.last().as_str().to_owned(),
        jobs: pushed
            .jobs
            .iter()
            .map(|id| id.as_str().to_owned())
            .collect(),
    };
    Ok((StatusCode::CREATED, Json(document)))
}

impl NewFlow {
    async fn push(self, app: &App, headers: &HeaderMap) -> Result<PushedFlow, Problem> {
        let broker = &app.broker;
        match (
            self.chain,
            self.group,
            self.then,
            self.collect,
            self.finally,
        ) {
            (Some(jobs), None, None, None, None) => {
                Ok(broker.push_flow(chain(jobs, headers)?).await?)
            }
            (None, Some(members), then, collect, finally) => {
                let group = group(members, headers)?;
                let job = |job: NewJob| job.job(None, headers);
                Ok(match (then, collect, finally) {
                    (None, None, None) => broker.push_flow(group).await?,
                    (Some(then), None, None) => broker.push_flow(group.then(job(then)?)).await?,
                    (None, Some(collect), None) => {
                        broker.push_flow(group.collect_job(job(collect)?)).await?
                    }
                    (None, None, Some(finally)) => {
                        broker.push_flow(group.finally(job(finally)?)).await?
                    }
                    _ => {
                        let text = "a group has at most one of `then`, `collect` and `finally`";
                        return Err(Problem::bad_request(text));
                    }
                })
            }
            _ => Err(Problem::bad_request("a flow has either `chain` or `group`")),
        }
    }
}

fn chain(jobs: Vec<NewJob>, headers: &HeaderMap) -> Result<Chain<Value>, Problem> {
    few_enough(jobs.len())?;
    let mut jobs = jobs.into_iter();
    let Some(first) = jobs.next() else {
        return Err(Problem::bad_request("a chain has at least one job"));
    };
    let mut chain = Chain::new(first.job(None, headers)?);
    for job in jobs {
        chain = chain.then_job(job.job(None, headers)?);
    }
    Ok(chain)
}

fn group(members: Vec<Vec<NewJob>>, headers: &HeaderMap) -> Result<Group<Value>, Problem> {
    few_enough(members.iter().map(Vec::len).sum())?;
    if members.is_empty() {
        return Err(Problem::bad_request("a group has at least one chain"));
    }
    let members = members.into_iter().map(|jobs| chain(jobs, headers));
    Ok(Group::new(members.collect::<Result<Vec<_>, _>>()?))
}

fn few_enough(jobs: usize) -> Result<(), Problem> {
    if jobs <= FLOW_JOBS_MAX {
        return Ok(());
    }
    Err(Problem::bad_request(format!(
        "a flow has at most {FLOW_JOBS_MAX} jobs"
    )))
}

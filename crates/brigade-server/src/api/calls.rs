//! `POST /v1/calls/{task}`: calls a task and waits for its result.
//!
//! A call belongs to the request: when its time is over, the client leaves or the server stops, the
//! call is cancelled. With `Prefer: respond-async` it is a job instead, whose result is kept and
//! can be waited for at `/v1/jobs/{id}`. A call that gives no value is answered with 422 and a
//! problem whose kind is its outcome.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use brigade::{AttemptLimits, Call, CallError, Job};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::new_job::trace_of;
use super::responses::{BodyProblems, CommonProblems};
use crate::app::App;
use crate::auth::{May, NeedsPush};
use crate::extract::{Body, Params, Segment};
use crate::problem::Problem;
use crate::values::Seconds;

/// How long a call is waited for if the request does not say it.
const WAIT: Duration = Duration::from_secs(60);
/// How long the result of a call is kept that nothing waits for.
const RESULT_KEPT: Duration = Duration::from_secs(3600);

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallParams {
    /// How long to wait for the result; then the call is cancelled. Default: 60 s.
    #[param(value_type = Option<String>, example = "30s")]
    wait: Option<Seconds>,
}

/// A call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"args": [3, 4], "timeout": "30s"}))]
pub(crate) struct NewCall {
    /// The arguments, any JSON each.
    #[serde(default)]
    #[schema(value_type = Vec<serde_json::Value>)]
    args: Vec<Box<RawValue>>,
    /// The queue. Default: the name of the task.
    queue: Option<String>,
    /// Longest time that one attempt may run.
    timeout: Option<Seconds>,
    /// Longest time to wait for the first attempt.
    queue_timeout: Option<Seconds>,
    /// Bytes of memory that an attempt may use.
    memory: Option<u64>,
    /// Bytes of address space that each process of an attempt may add.
    address_space: Option<u64>,
    /// CPU time that an attempt may use, with all processes that it starts.
    cpu: Option<Seconds>,
    /// Files that each process of an attempt may have open.
    files: Option<u32>,
    /// Processes and threads that an attempt may have at once.
    processes: Option<u32>,
    /// Largest size in bytes to which an attempt may write a file.
    file_size: Option<u64>,
    /// Calls of a higher priority are handed out first. Default: 0.
    priority: Option<i32>,
    /// Attempts after the first, if it fails. Default: those of the task's registration, else 0.
    retries: Option<u32>,
    /// Jobs of one key run in order, one at a time.
    key: Option<String>,
    /// While a job with this unique key is not settled for good, the call waits for its result.
    unique: Option<String>,
    /// A name for people.
    label: Option<String>,
    /// The trace that it belongs to (W3C). Default: the header `traceparent` of the request.
    traceparent: Option<String>,
}

impl NewCall {
    fn limits(&self) -> AttemptLimits {
        let mut limits = AttemptLimits::new();
        limits.memory = self.memory;
        limits.address_space = self.address_space;
        limits.cpu = self.cpu.as_ref().map(|time| time.0);
        limits.files = self.files;
        limits.processes = self.processes;
        limits.file_size = self.file_size;
        limits
    }
}

/// The result of a call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"result": 7}))]
pub(crate) struct CallResultDocument {
    /// The value that the task gave.
    #[schema(value_type = serde_json::Value)]
    result: Box<RawValue>,
}

/// A call that goes on as a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallJobDocument {
    /// The id of its job.
    #[schema(example = "42")]
    id: String,
}

/// Call a task and wait for its result
///
/// Any consumer that serves the task runs it. With the header `Prefer: respond-async` the answer
/// comes at once, with the job of the call, whose result is kept for an hour.
#[utoipa::path(
    post,
    path = "/v1/calls/{task}",
    tag = "calls",
    security(("token" = ["push"])),
    params(
        ("task" = String, Path, description = "The name of the task", example = "add"),
        CallParams,
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait"),
        ("traceparent" = Option<String>, Header, description = "The trace that the call belongs to (W3C)"),
    ),
    request_body = NewCall,
    responses(
        (status = 200, description = "the result", body = CallResultDocument),
        (status = 202, description = "the call goes on as a job", body = CallJobDocument, headers(("Location" = String, description = "where its job is"))),
        CommonProblems,
        BodyProblems,
        (status = 404, description = "the consumer that took it has no task of this name", body = crate::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "another job has the unique key", body = crate::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn call(
    _: May<NeedsPush>,
    State(app): State<App>,
    Segment(task): Segment,
    Params(params): Params<CallParams>,
    headers: HeaderMap,
    Body(asked): Body<NewCall>,
) -> Result<Response, Problem> {
    if prefers_async(&headers) {
        return push(&app, &task, asked, &headers).await;
    }
    let wait = params
        .wait
        .unwrap_or(Seconds(WAIT.min(app.options.wait_max)));
    let wait = app.wait(Some(wait))?;
    let queue = app.broker.queue(asked.queue.as_deref().unwrap_or(&task));
    let handle = queue.call(described(&task, asked, &headers)?);
    let outcome = tokio::select! {
        outcome = timeout(wait.time, handle) => outcome,
        () = app.options.stop.cancelled() => return Err(Problem::stopping()),
    };
    match outcome {
        Ok(Ok(result)) => Ok(Json(CallResultDocument { result }).into_response()),
        Ok(Err(error)) => Err(Problem::from(error)),
        Err(_) => {
            let text = format!(
                "no result came within {:?}; the call is cancelled",
                wait.time
            );
            Err(Problem::no_value("timed_out", text))
        }
    }
}

fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").into_iter();
    let mut values = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','));
    values.any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

fn described(
    task: &str,
    asked: NewCall,
    headers: &HeaderMap,
) -> Result<Call<Box<RawValue>>, Problem> {
    let mut call = Call::<Box<RawValue>>::json(task.to_owned(), &asked.args);
    if let Some(trace) = trace_of(asked.traceparent.as_deref(), headers)? {
        call = call.traceparent(trace);
    }
    if let Some(time) = asked.timeout {
        call = call.timeout(time.0);
    }
    if let Some(time) = asked.queue_timeout {
        call = call.queue_timeout(time.0);
    }
    let limits = asked.limits();
    call.request
        .options
        .get_or_insert_default()
        .set_limits(limits);
    if let Some(priority) = asked.priority {
        call = call.priority(priority);
    }
    if let Some(retries) = asked.retries {
        call = call.retries(retries);
    }
    if let Some(key) = asked.key {
        call = call.key(key);
    }
    if let Some(key) = asked.unique {
        call = call.unique(key);
    }
    if let Some(label) = asked.label {
        call = call.label(label);
    }
    Ok(call)
}

/// The call as a job.
async fn push(
    app: &App,
    task: &str,
    asked: NewCall,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    if asked.queue_timeout.is_some() {
        return Err(Problem::bad_request(
            "`queue_timeout` needs a caller that waits",
        ));
    }
    let args = serde_json::to_string(&asked.args).map_err(|error| Problem::bad_json(&error, ""))?;
    let queue = asked.queue.as_deref().unwrap_or(task);
    let mut job = Job::new(queue, Some(task.into()), args);
    let options = &mut job.options;
    options.traceparent = trace_of(asked.traceparent.as_deref(), headers)?;
    options.timeout = asked.timeout.map(|time| time.0);
    options.set_limits(asked.limits());
    options.priority = asked.priority;
    options.retries = asked.retries;
    options.key = asked.key.map(Into::into);
    options.unique = asked.unique.map(Into::into);
    options.label = asked.label.map(Into::into);
    options.keep = Some(RESULT_KEPT);
    let id = app.broker.push(job).await?.id().as_str().to_owned();
    let location = format!("../jobs/{id}");
    let document = Json(CallJobDocument { id });
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], document).into_response())
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Rejected(_) => "rejected",
            CallError::TimedOut(_) => "timed_out",
            other => other.outcome(),
        };
        let reason = error.reason();
        match error {
            CallError::Rejected(error) => Self::from(error),
            _ => Self::no_value(kind, reason),
        }
    }
}

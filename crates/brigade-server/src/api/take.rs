//! Handing out jobs over HTTP: take, lease, and leases of several queues at once.
//!
//! A request may wait for a job (a long poll). The request to the broker runs in a task of its own:
//! when the client goes away, its wait ends, and a leased job that its handler does not have yet is
//! given back at once. One whose answer is lost on the way comes back when the lease runs out. When
//! the server stops, waits end with what there is.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use brigade::Lease;
use brigade::store::{DeliveryMode, LeaseRequest, QueueSet, Queues};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::jobs::raw;
use super::leases::LeaseName;
use super::responses::{BodyProblems, CommonProblems};
use crate::app::App;
use crate::auth::{May, NeedsWork};
use crate::extract::{Body, Params, Segment};
use crate::http_consumers::{Asking, ConsumerHeader, ConsumerName};
use crate::problem::Problem;
use crate::values::Seconds;

/// How long a lease lasts if the request does not say it.
const LEASE_TIME: Duration = Duration::from_secs(60);
/// The most jobs of one request.
const JOBS_MAX: usize = 1_000;
/// The most queues of one request.
const QUEUES_MAX: usize = 1_000;

/// How to take a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TakeParams {
    /// How long to wait for a job. Default: not at all.
    #[param(value_type = Option<String>, example = "5s")]
    wait: Option<Seconds>,
}

/// How to lease a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LeaseParams {
    /// How long to wait for a job. Default: not at all.
    #[param(value_type = Option<String>, example = "5s")]
    wait: Option<Seconds>,
    /// How long the lease lasts unless it is extended. Default: 60 s.
    #[param(value_type = Option<String>, example = "30s")]
    time: Option<Seconds>,
}

/// A request for jobs of several queues.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"queues": ["urgent", "emails"], "max": 10, "time": "30s", "wait": "5s"}))]
pub(crate) struct LeaseMany {
    /// The queues. A later one gives jobs only while those before it have none.
    queues: Vec<String>,
    /// The most jobs to lease, at most 1,000. Default: 1.
    #[schema(minimum = 1, maximum = 1000)]
    max: Option<usize>,
    /// How long the leases last unless they are extended. Default: 60 s.
    time: Option<Seconds>,
    /// How long to wait for the first job. Default: not at all.
    wait: Option<Seconds>,
}

/// A job that was taken: handed out and gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TakenDocument {
    /// Its id.
    #[schema(example = "42")]
    id: String,
    /// Its payload.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Its queue.
    queue: String,
    /// The task, if it is a task's.
    task: Option<String>,
    /// The trace that it belongs to (W3C).
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

/// A job on a lease.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeasedDocument {
    /// Its id.
    #[schema(example = "42")]
    id: String,
    /// Names the lease: settle the job at `/v1/leases/{lease}/ack` and so on.
    #[schema(example = "MS40Mg")]
    lease: String,
    /// Its payload.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Its queue.
    queue: String,
    /// The task, if it is a task's.
    task: Option<String>,
    /// Number of this attempt, from 1.
    attempt: u32,
    /// Leases of it before this one whose holder died or hung without settling.
    lost: u32,
    /// Seconds that this attempt may run: for the holder to keep.
    timeout: Option<f64>,
    /// Its priority.
    priority: i32,
    /// Its key.
    key: Option<String>,
    /// Its name for people.
    label: Option<String>,
    /// The trace that it belongs to (W3C).
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

/// Jobs on leases.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeasedJobs {
    /// The jobs; none if no job came within the wait.
    jobs: Vec<LeasedDocument>,
}

impl From<&Lease> for TakenDocument {
    fn from(lease: &Lease) -> Self {
        Self {
            id: lease.id().as_str().to_owned(),
            payload: raw(lease.json().to_owned()),
            queue: lease.queue().to_owned(),
            task: lease.task().map(ToOwned::to_owned),
            traceparent: lease.traceparent().map(|trace| trace.as_str().to_owned()),
        }
    }
}

impl LeasedDocument {
    fn new(lease: &Lease, time: Duration) -> Self {
        let TakenDocument {
            id,
            payload,
            queue,
            task,
            traceparent,
        } = TakenDocument::from(lease);
        Self {
            id,
            lease: LeaseName::of(lease, time).to_string(),
            payload,
            queue,
            task,
            attempt: lease.attempt(),
            lost: lease.lost(),
            timeout: lease.timeout().map(|time| time.as_secs_f64()),
            priority: lease.priority(),
            key: lease.key().map(ToOwned::to_owned),
            label: lease.label().map(ToOwned::to_owned),
            traceparent,
        }
    }
}

/// Take the next job: it is handed out and gone (at most once)
///
/// A job whose answer is lost on the way is lost, too. Where that matters, lease it.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/take",
    tag = "work",
    security(("token" = ["work"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails"), TakeParams, ConsumerHeader),
    responses(
        (status = 200, description = "a job", body = TakenDocument),
        (status = 204, description = "no job came within the wait"),
        CommonProblems,
    ),
)]
pub(crate) async fn take(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(queue): Segment,
    consumer: ConsumerName,
    Params(params): Params<TakeParams>,
) -> Result<Response, Problem> {
    let wait = app.wait(params.wait)?;
    let queues = Queues::one(queue);
    let request = request(queues, 1, DeliveryMode::Take, wait);
    let taken = hand_out(&app, &consumer, request).await?;
    Ok(match taken.first() {
        Some(lease) => Json(TakenDocument::from(lease)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Lease the next job (at least once)
///
/// Settle it before the lease runs out, or extend the lease; otherwise the job comes back.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/lease",
    tag = "work",
    security(("token" = ["work"])),
    params(("queue" = String, Path, description = "The name of the queue", example = "emails"), LeaseParams, ConsumerHeader),
    responses(
        (status = 200, description = "a job on a lease", body = LeasedDocument),
        (status = 204, description = "no job came within the wait"),
        CommonProblems,
    ),
)]
pub(crate) async fn lease(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(queue): Segment,
    consumer: ConsumerName,
    Params(params): Params<LeaseParams>,
) -> Result<Response, Problem> {
    let (wait, time) = (app.wait(params.wait)?, lease_time(params.time)?);
    let mode = DeliveryMode::Lease(time);
    let request = request(Queues::one(queue), 1, mode, wait);
    let leased = hand_out(&app, &consumer, request).await?;
    Ok(match leased.first() {
        Some(lease) => Json(LeasedDocument::new(lease, time)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Lease jobs of several queues, or several jobs at once
#[utoipa::path(
    post,
    path = "/v1/leases",
    tag = "work",
    security(("token" = ["work"])),
    params(ConsumerHeader),
    request_body = LeaseMany,
    responses(
        (status = 200, description = "the jobs; none if no job came within the wait", body = LeasedJobs),
        CommonProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn lease_many(
    _: May<NeedsWork>,
    State(app): State<App>,
    consumer: ConsumerName,
    Body(asked): Body<LeaseMany>,
) -> Result<Json<LeasedJobs>, Problem> {
    let (wait, time) = (app.wait(asked.wait)?, lease_time(asked.time)?);
    let max = asked.max.unwrap_or(1);
    if !(1..=JOBS_MAX).contains(&max) {
        return Err(Problem::bad_request(format!(
            "`max` is from 1 to {JOBS_MAX}"
        )));
    }
    if asked.queues.is_empty() || asked.queues.len() > QUEUES_MAX {
        let text = format!("`queues` names from 1 to {QUEUES_MAX} queues");
        return Err(Problem::bad_request(text));
    }
    let set = QueueSet::new(asked.queues.into_iter().map(Into::into), []);
    let queues = Queues::from(&Arc::new(set), 0);
    let mode = DeliveryMode::Lease(time);
    let leased = hand_out(&app, &consumer, request(queues, max, mode, wait)).await?;
    let jobs = leased.iter().map(|lease| LeasedDocument::new(lease, time));
    Ok(Json(LeasedJobs {
        jobs: jobs.collect(),
    }))
}

fn lease_time(time: Option<Seconds>) -> Result<Duration, Problem> {
    let time = time.map_or(LEASE_TIME, |time| time.0);
    if time < Duration::from_secs(1) {
        return Err(Problem::bad_request("a lease lasts at least 1 s"));
    }
    Ok(time)
}

fn request(queues: Queues, max: usize, mode: DeliveryMode, wait: Duration) -> LeaseRequest {
    LeaseRequest {
        queues,
        max,
        mode,
        wait,
        enough: tokio_util::sync::CancellationToken::new(),
    }
}

/// Asks the broker in a task of its own, so that nothing that was handed out is forgotten when the
/// client is gone.
async fn hand_out(
    app: &App,
    consumer: &ConsumerName,
    request: LeaseRequest,
) -> Result<Arc<Vec<Lease>>, Problem> {
    let asking = Asking::begin(
        &app.http_consumers,
        consumer,
        request.queues.iter().map(|name| &**name),
        request.max,
    );
    let mode = request.mode;
    let enough = app.options.stop.child_token();
    let request = LeaseRequest {
        enough: enough.clone(),
        ..request
    };
    let is_taken = matches!(request.mode, DeliveryMode::Take);
    let broker = app.broker.clone();
    let (answer, receiver) = oneshot::channel();
    // The handler may be dropped between the answer and its next poll, so it says that it has it.
    let (received, was_received) = oneshot::channel::<()>();
    app.tasks.spawn(async move {
        let leases = match broker.lease(request).await {
            Ok(leases) => Arc::new(leases),
            Err(error) => {
                answer.send(Err(error)).ok();
                return;
            }
        };
        answer.send(Ok(Arc::clone(&leases))).ok();
        if was_received.await.is_err() {
            give_back(Arc::unwrap_or_clone(leases), is_taken).await;
        }
    });
    let _waits = enough.drop_guard();
    let leased = receiver.await.map_err(|_| Problem::stopping())??;
    received.send(()).ok();
    if let DeliveryMode::Lease(time) = mode {
        leased.iter().for_each(|lease| asking.given(lease, time));
    }
    Ok(leased)
}

/// Gives back what was handed out to a client that is gone.
async fn give_back(leases: Vec<Lease>, is_taken: bool) {
    for lease in leases {
        let id = lease.id().clone();
        if is_taken {
            tracing::warn!(job = %id, "a job was taken for a client that is gone");
        } else if let Err(error) = lease.give_back("its client is gone").await {
            tracing::warn!(job = %id, %error, "could not give back the job of a client that is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use brigade::{Broker, JobState};

    use super::*;
    use crate::auth::Auth;
    use crate::options::ServerOptions;

    #[tokio::test]
    async fn a_job_whose_handler_is_dropped_with_the_answer_on_its_way_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/jobs.db", directory.path().display());
        let broker = Broker::connect(&url).await.unwrap();
        let id = broker.queue("q").push(&1).await.unwrap();
        let app = App::new(broker.clone(), ServerOptions::new(Auth::none()));
        let mode = DeliveryMode::Lease(Duration::from_secs(3_600));
        let consumer = ConsumerName::unnamed(None);
        let asked = request(Queues::one("q"), 1, mode, Duration::ZERO);
        let mut handler = Box::pin(hand_out(&app, &consumer, asked));
        // Polled once, so that it has asked and never sees the answer.
        poll_fn(|context| {
            assert!(handler.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let state = async || broker.job(&id).await.unwrap().unwrap().state;
        while state().await != JobState::Leased {}
        drop(handler);
        app.tasks.close();
        app.tasks.wait().await;
        assert_eq!(state().await, JobState::Ready);
    }
}

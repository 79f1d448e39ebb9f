//! Handing out jobs over HTTP: take, lease, and leases of several queues at once.
//!
//! A request may wait for a job (a long poll). When its client goes away, the request to the broker
//! ends in a task of its own, and a job that it got nevertheless is given back at once. One whose
//! answer is lost on the way comes back when the lease runs out. When the server stops, waits end
//! with what there is.
//!
//! An answer is in memory as a whole, so jobs beyond a number of bytes are given back.

use std::pin::Pin;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use brigade::store::{DeliveryMode, JobFilter, LeaseRequest, Queues};
use brigade::{Error, Lease};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
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
/// An answer ends with the job with which the payloads come to more than this.
const ANSWER_BYTES_MAX: usize = JobFilter::PAGE_BYTES_MAX;
/// Jobs that are leased at once before their size is known, and the factor by which more are after
/// small ones.
const AT_ONCE: usize = 16;
const AT_ONCE_GROWTH: usize = 8;

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
    /// The most jobs to lease, at most 1,000; fewer if they are large. Default: 1.
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
            payload: raw(lease.json()),
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
    let queues = app.queue_sets.of(vec![queue.into()])?;
    let request = request(queues, DeliveryMode::Take, wait.time);
    let _asking = asking(&app, &consumer, &request, 1);
    let taken = HandOut::new(&app, request).leased().await?;
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
    let queues = app.queue_sets.of(vec![queue.into()])?;
    let request = request(queues, DeliveryMode::Lease(time), wait.time);
    let asking = asking(&app, &consumer, &request, 1);
    let leased = HandOut::new(&app, request).leased().await?;
    leased.iter().for_each(|lease| asking.given(lease, time));
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
    let names = asked.queues.into_iter().map(Into::into);
    let queues = app.queue_sets.of(names.collect())?;
    let request = request(queues, DeliveryMode::Lease(time), wait.time);
    let asking = asking(&app, &consumer, &request, max);
    let leased = lease_few(&app, request, max).await?;
    leased.iter().for_each(|lease| asking.given(lease, time));
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

/// For one job.
fn request(queues: Queues, mode: DeliveryMode, wait: Duration) -> LeaseRequest {
    LeaseRequest {
        queues,
        max: 1,
        mode,
        wait,
        enough: CancellationToken::new(),
    }
}

/// Lists the consumer as one that asks for jobs, until it is dropped.
fn asking(app: &App, by: &ConsumerName, request: &LeaseRequest, max: usize) -> Asking {
    let names = request.queues.iter().map(|name| &**name);
    Asking::begin(&app.http_consumers, by, names, max)
}

/// Leases jobs until there are enough of them, or enough bytes. As their sizes are not known
/// before, a few come first; what is too much is given back.
async fn lease_few(app: &App, request: LeaseRequest, max: usize) -> Result<Vec<Lease>, Problem> {
    let mut leased = LeasesToAnswer(Vec::new(), app.clone());
    let (mut at_once, mut bytes) = (AT_ONCE, 0);
    loop {
        let asked = at_once.min(max - leased.0.len());
        let wait = match leased.0.is_empty() {
            true => request.wait,
            false => Duration::ZERO,
        };
        let request = LeaseRequest {
            max: asked,
            wait,
            ..request.clone()
        };
        let mut more = LeasesToAnswer(HandOut::new(app, request).leased().await?, app.clone());
        let is_last = more.0.len() < asked;
        let fitting = more.0.iter().take_while(|lease| {
            let fits = bytes <= ANSWER_BYTES_MAX;
            bytes += if fits { lease.json().len() } else { 0 };
            fits
        });
        let fitting = fitting.count();
        leased.0.extend(more.0.drain(..fitting));
        if is_last || bytes > ANSWER_BYTES_MAX || leased.0.len() == max {
            return Ok(std::mem::take(&mut leased.0));
        }
        let fitting = (ANSWER_BYTES_MAX - bytes) * leased.0.len() / bytes.max(1);
        at_once = (at_once * AT_ONCE_GROWTH).min(fitting).max(1);
    }
}

/// Leased jobs; those that are left when it is dropped are given back.
struct LeasesToAnswer(Vec<Lease>, App);

impl Drop for LeasesToAnswer {
    fn drop(&mut self) {
        if !self.0.is_empty() && Handle::try_current().is_ok() {
            let leases = std::mem::take(&mut self.0);
            self.1.tasks.spawn(give_back(leases, false));
        }
    }
}

/// A request to the broker for jobs. If it is dropped before it has ended, it goes on in a task of
/// its own to give back what it gets.
struct HandOut {
    app: App,
    leasing: Option<Leasing>,
    enough: CancellationToken,
    is_taken: bool,
}

type Leasing = Pin<Box<dyn Future<Output = Result<Vec<Lease>, Error>> + Send>>;

impl HandOut {
    fn new(app: &App, request: LeaseRequest) -> Self {
        let enough = app.options.stop.child_token();
        let is_taken = matches!(request.mode, DeliveryMode::Take);
        let request = LeaseRequest {
            enough: enough.clone(),
            ..request
        };
        let broker = app.broker.clone();
        Self {
            app: app.clone(),
            leasing: Some(Box::pin(async move { broker.lease(request).await })),
            enough,
            is_taken,
        }
    }

    async fn leased(mut self) -> Result<Vec<Lease>, Problem> {
        let leased = match &mut self.leasing {
            Some(leasing) => leasing.as_mut().await,
            None => Ok(Vec::new()),
        };
        self.leasing = None;
        Ok(leased?)
    }
}

impl Drop for HandOut {
    fn drop(&mut self) {
        let Some(leasing) = self.leasing.take() else {
            return;
        };
        self.enough.cancel();
        // A runtime that ends takes the connection to the broker with it.
        if Handle::try_current().is_ok() {
            let is_taken = self.is_taken;
            self.app.tasks.spawn(async move {
                if let Ok(leases) = leasing.await {
                    give_back(leases, is_taken).await;
                }
            });
        }
    }
}

/// Gives back what was handed out and has no answer: its client is gone, or the answer is full.
async fn give_back(leases: Vec<Lease>, is_taken: bool) {
    for lease in leases {
        let id = lease.id().clone();
        if is_taken {
            tracing::warn!(job = %id, "a job was taken for a client that is gone");
        } else if let Err(error) = lease.give_back("it did not get to its client").await {
            tracing::warn!(job = %id, %error, "could not give back a job that did not get to its client");
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
        // Polled once, so that it has asked and never sees the answer; again if that came at once.
        let handler = loop {
            let asked = request(Queues::one("q"), mode, Duration::ZERO);
            let mut handler = Box::pin(HandOut::new(&app, asked).leased());
            match poll_fn(|context| Poll::Ready(handler.as_mut().poll(context))).await {
                Poll::Pending => break handler,
                Poll::Ready(leased) => {
                    for lease in leased.unwrap() {
                        lease.give_back("too fast").await.unwrap();
                    }
                }
            }
        };
        let state = async || broker.job(&id).await.unwrap().unwrap().state;
        while state().await != JobState::Leased {}
        drop(handler);
        app.tasks.close();
        app.tasks.wait().await;
        assert_eq!(state().await, JobState::Ready);
    }
}

//! `POST /v1/queues/{queue}/jobs`: pushes one job, an array of them, or one per line.
//!
//! A batch is pushed whole or not at all, and a job that cannot be pushed is named by its line or
//! its place. With the header `Idempotency-Key` a push may be repeated after a lost answer: the key
//! holds for a day. Repeated with other jobs, it gives the first ones. The body is in memory as a
//! whole; its size and the number of its jobs are limited.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use brigade::policy::check_job;
use brigade::{Job, PushOutcome};
use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::new_job::NewJob;
use super::responses::{BodyProblems, CommonProblems};
use crate::app::App;
use crate::auth::{May, NeedsPush};
use crate::extract::{Media, Object, RawBody, Segment, unreadable};
use crate::problem::Problem;

/// The most jobs of one batch.
const BATCH_JOBS_MAX: usize = 10_000;
/// How long an idempotency key holds.
const IDEMPOTENT_FOR: Duration = Duration::from_secs(24 * 3600);
/// The header with the idempotency key.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// One job, or several.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the schema of a push")]
pub(crate) enum Pushes {
    /// One job.
    One(Box<NewJob>),
    /// Several, all or none.
    Many(Vec<NewJob>),
}

/// The job that is stored now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PushedDocument {
    /// Its id.
    #[schema(example = "42")]
    pub(crate) id: String,
    /// Whether it was stored before: it has the unique key, or the idempotency key, of this push.
    pub(crate) duplicate: bool,
}

/// The answer to a push: of one job that job, of several their list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum PushAnswer {
    /// Of one job.
    One(PushedDocument),
    /// Of several, in their order.
    Many {
        /// The jobs.
        jobs: Vec<PushedDocument>,
    },
}

impl From<&PushOutcome> for PushedDocument {
    fn from(outcome: &PushOutcome) -> Self {
        Self {
            id: outcome.id().as_str().to_owned(),
            duplicate: matches!(outcome, PushOutcome::Duplicate(_)),
        }
    }
}

/// Push one job, an array of jobs, or one per line
///
/// The answer comes when the jobs are as safe as the broker can make them. Several jobs are stored
/// all or none; `line` of a problem says which one is at fault.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/jobs",
    tag = "jobs",
    security(("token" = ["push"])),
    params(
        ("queue" = String, Path, description = "The name of the queue; it need not be declared", example = "emails"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated push with this key gives the same job, for 24 hours"),
        ("traceparent" = Option<String>, Header, description = "The trace that the jobs belong to (W3C)"),
    ),
    request_body(description = "the jobs", content(
        (Pushes = "application/json", example = json!({"payload": {"to": "ann@example.org"}, "retries": 3})),
        (String = "application/x-ndjson", example = "{\"payload\": 1}\n{\"payload\": 2}\n"),
    )),
    responses(
        (status = 201, description = "they are safe", body = PushAnswer, example = json!({"id": "42", "duplicate": false})),
        (status = 200, description = "all of them were stored before", body = PushAnswer),
        CommonProblems,
        BodyProblems,
    ),
)]
pub(crate) async fn push(
    _: May<NeedsPush>,
    State(app): State<App>,
    Segment(queue): Segment,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let (is_one, jobs) = read(&body)?;
    let bytes_max = app.broker.capabilities().payload_bytes_max;
    let mut described = Vec::with_capacity(jobs.len());
    for (line, job) in jobs {
        let at_line = |problem: Problem| match is_one {
            true => problem,
            false => problem.at_line(line),
        };
        let job = job.job(Some(&queue), &headers).map_err(at_line)?;
        check_job(&job, bytes_max).map_err(|error| at_line(error.into()))?;
        described.push(job);
    }
    make_idempotent(&mut described, &headers, is_one)?;
    let outcomes = app.broker.push_many(described).await?;
    let pushed: Vec<PushedDocument> = outcomes.iter().map(PushedDocument::from).collect();
    Ok(answer(pushed, is_one))
}

fn answer(mut jobs: Vec<PushedDocument>, is_one: bool) -> Response {
    let status = match jobs.iter().all(|job| job.duplicate) && !jobs.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    let answer = match jobs.pop() {
        Some(job) if is_one => PushAnswer::One(job),
        last => {
            jobs.extend(last);
            PushAnswer::Many { jobs }
        }
    };
    (status, Json(answer)).into_response()
}

/// The jobs of a body, each with its line, and whether it is one that is no batch.
fn read(body: &RawBody) -> Result<(bool, Vec<(usize, NewJob)>), Problem> {
    if body.media == Media::Lines {
        return Ok((false, lines(&body.bytes)?));
    }
    if body.bytes.trim_ascii_start().first() != Some(&b'[') {
        let job = serde_json::from_slice(&body.bytes).map(|Object(job)| job);
        return Ok((
            true,
            vec![(1, job.map_err(|error| unreadable::<NewJob>(&error))?)],
        ));
    }
    let FewJobs(jobs) =
        serde_json::from_slice(&body.bytes).map_err(|error| unreadable::<NewJob>(&error))?;
    Ok((false, (1..).zip(jobs).collect()))
}

/// An array of jobs, read no further than to the most that a batch may have.
struct FewJobs(Vec<NewJob>);

impl<'de> Deserialize<'de> for FewJobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Jobs;
        impl<'de> Visitor<'de> for Jobs {
            type Value = FewJobs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of jobs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<FewJobs, A::Error> {
                let mut jobs = Vec::new();
                while let Some(Object(job)) = array.next_element()? {
                    jobs.push(job);
                    if jobs.len() > BATCH_JOBS_MAX {
                        return Err(A::Error::custom(too_many()));
                    }
                }
                Ok(FewJobs(jobs))
            }
        }
        deserializer.deserialize_seq(Jobs)
    }
}

/// The jobs of lines; empty lines count, and have none.
fn lines(bytes: &Bytes) -> Result<Vec<(usize, NewJob)>, Problem> {
    let mut jobs = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Object(job) = serde_json::from_slice(line).map_err(|error| {
            Problem::bad_request(format!("line {number} is no job: {error}")).at_line(number)
        })?;
        jobs.push((number, job));
        if jobs.len() > BATCH_JOBS_MAX {
            return Err(Problem::bad_request(too_many()));
        }
    }
    Ok(jobs)
}

fn too_many() -> String {
    format!("a batch has at most {BATCH_JOBS_MAX} jobs: push them in several")
}

/// Gives jobs the unique key of the request, if it has an idempotency key. Its beginning keeps it
/// apart from the unique keys that programs choose.
fn make_idempotent(jobs: &mut [Job], headers: &HeaderMap, is_one: bool) -> Result<(), Problem> {
    let Some(header) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(());
    };
    let key = header.to_str().ok().filter(|key| !key.trim().is_empty());
    let Some(key) = key else {
        return Err(Problem::bad_request(
            "`Idempotency-Key` is empty or no text",
        ));
    };
    let count = jobs.len();
    for (place, job) in (1..).zip(jobs) {
        if job.options.unique.is_some() {
            let text = "a job with `unique` has a key already: leave out `Idempotency-Key`";
            return Err(Problem::bad_request(text));
        }
        let key = match is_one {
            true => format!("idempotency:{key}"),
            false => format!("idempotency:{key}:{place}/{count}"),
        };
        job.options.unique = Some(key.into());
        job.options.unique_for = Some(IDEMPOTENT_FOR);
    }
    Ok(())
}

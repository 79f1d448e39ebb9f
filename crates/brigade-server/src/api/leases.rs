//! `/v1/leases/{lease}/..`: how the holder of a lease settles it.
//!
//! The name of a lease is opaque text with its job and its token, so the server remembers nothing:
//! a lease can be settled at any server of the broker, and after a restart. On RabbitMQ a lease
//! ends with the connection that it came by, so there only the same server can settle it. The token
//! makes sure that only the holder of this very lease settles the job.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use brigade::policy::RetryPolicy;
use brigade::store::Disposition;
use brigade::{AttemptKind, JobId, Lease, RetryAdvice, RunningJob, Settled};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::responses::{BodyProblems, CommonProblems, StateProblems};
use crate::app::App;
use crate::auth::{May, NeedsWork};
use crate::extract::{Body, Segment};
use crate::http_consumers::{ConsumerHeader, ConsumerName};
use crate::problem::Problem;
use crate::values::Seconds;

/// Longest reason that is stored; the rest of a longer one is cut off.
const REASON_BYTES_MAX: usize = 8 << 10;

/// A lease as its holder names it.
pub(crate) struct LeaseName {
    id: JobId,
    token: i64,
    /// How long the lease lasts unless it is extended.
    time: Duration,
}

impl LeaseName {
    pub(crate) fn of(lease: &Lease, time: Duration) -> Self {
        Self {
            id: lease.id().clone(),
            token: lease.token(),
            time,
        }
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{}.{}.{}",
            self.token,
            self.time.as_millis(),
            self.id.as_str()
        );
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for LeaseName {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let (token, rest) = text.split_once('.')?;
            let (time, id) = rest.split_once('.').filter(|(_, id)| !id.is_empty())?;
            Some(Self {
                token: token.parse().ok()?,
                time: Duration::from_millis(time.parse().ok()?),
                id: JobId::new(id),
            })
        };
        read().ok_or_else(|| {
            let text = "the path names no lease: it is the text `lease` of a leased job";
            Problem::bad_request(text)
        })
    }
}

/// What a job that is done gives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"result": {"sent": true}}))]
pub(crate) struct Ack {
    /// The result for callers that wait, any JSON; kept as long as the job says.
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
}

/// Why a job is given back, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "the mail server is away", "after": "30s"}))]
pub(crate) struct GivenBack {
    /// Why, for people.
    #[serde(default)]
    reason: String,
    /// Not before this much time has passed.
    after: Option<Seconds>,
}

/// Why, for people.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "the address does not exist"}))]
pub(crate) struct WithReason {
    /// Why, for people.
    #[serde(default)]
    pub(crate) reason: String,
}

/// How far a job is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"part": 0.5, "text": "resized"}))]
pub(crate) struct ProgressReport {
    /// Which part of it is done, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    part: f64,
    /// What it does now, for people.
    text: Option<String>,
}

/// For how long a lease is to last.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"time": "60s"}))]
pub(crate) struct Extend {
    /// For how long from now on.
    time: Seconds,
}

/// The answer to an extension.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Extended {
    /// Set if the job is to be cancelled, with the reason: stop, and end the lease with
    /// `/cancelled`.
    cancel: Option<String>,
}

/// Done
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/ack",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = Ack,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn ack(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(ack): Body<Ack>,
) -> Result<StatusCode, Problem> {
    let result = ack.result.map(Box::<str>::from);
    end(&app, &lease, Disposition::ack(result)).await
}

/// Failed: tried again by the job's own policy, or a dead letter
///
/// With `after`, the next attempt begins after this time instead of the pause of the job's policy.
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/nack",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = GivenBack,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn nack(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(given): Body<GivenBack>,
) -> Result<StatusCode, Problem> {
    let advice = given
        .after
        .map_or(RetryAdvice::Policy, |after| RetryAdvice::In(after.0));
    let failed = Disposition::Fail {
        kind: AttemptKind::Failed,
        reason: short(given.reason),
        report: None,
        advice,
        policy: RetryPolicy::default(),
    };
    end(&app, &lease, failed).await
}

/// Given back untouched for another consumer, without charge
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/pass",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = GivenBack,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn pass(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(given): Body<GivenBack>,
) -> Result<StatusCode, Problem> {
    end(&app, &lease, given_back(given, AttemptKind::Passed)).await
}

/// Given back because the attempt was cut short without fault of its own, as when a worker stops
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/give-back",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = GivenBack,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn give_back(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(given): Body<GivenBack>,
) -> Result<StatusCode, Problem> {
    end(&app, &lease, given_back(given, AttemptKind::Interrupted)).await
}

/// Set aside for a person
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/dead-letter",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = WithReason,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn dead_letter(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(given): Body<WithReason>,
) -> Result<StatusCode, Problem> {
    end(&app, &lease, Disposition::DeadLetter(short(given.reason))).await
}

/// Ended as cancelled, as was asked
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/cancelled",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job")),
    request_body = WithReason,
    responses((status = 204, description = "it is stored"), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn cancelled(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    Body(given): Body<WithReason>,
) -> Result<StatusCode, Problem> {
    let disposition = Disposition::Cancelled {
        reason: short(given.reason),
        stop: None,
        report: None,
    };
    end(&app, &lease, disposition).await
}

/// Hold the job for longer, and learn whether it is to be cancelled
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/extend",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job"), ConsumerHeader),
    request_body = Extend,
    responses((status = 200, description = "the lease lasts longer", body = Extended), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn extend(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    consumer: ConsumerName,
    Body(asked): Body<Extend>,
) -> Result<Json<Extended>, Problem> {
    let name: LeaseName = lease.parse()?;
    hold(&app, &consumer, &name, asked.time.0, None).await
}

/// How far the job is
///
/// A sign of life: the lease then lasts for its own time again from now on. The progress is shown
/// where consumers are listed, with the job.
#[utoipa::path(
    post,
    path = "/v1/leases/{lease}/progress",
    tag = "work",
    security(("token" = ["work"])),
    params(("lease" = String, Path, description = "The lease of the job"), ConsumerHeader),
    request_body = ProgressReport,
    responses((status = 200, description = "the lease lasts longer", body = Extended), CommonProblems, BodyProblems, StateProblems),
)]
pub(crate) async fn progress(
    _: May<NeedsWork>,
    State(app): State<App>,
    Segment(lease): Segment,
    consumer: ConsumerName,
    Body(report): Body<ProgressReport>,
) -> Result<Json<Extended>, Problem> {
    if !(0.0..=1.0).contains(&report.part) {
        return Err(Problem::bad_request("`part` is from 0 to 1"));
    }
    let name: LeaseName = lease.parse()?;
    let progress = (report.part, report.text.unwrap_or_default());
    hold(&app, &consumer, &name, name.time, Some(progress)).await
}

/// Extends a lease, and notes that for the list of consumers.
async fn hold(
    app: &App,
    by: &ConsumerName,
    lease: &LeaseName,
    time: Duration,
    progress: Option<(f64, String)>,
) -> Result<Json<Extended>, Problem> {
    let cancel = settle(app, lease, Disposition::Extend(time)).await?;
    let key = (lease.id.clone(), lease.token);
    let is_known = app.http_consumers.extended(&key, time, progress.clone());
    if !is_known && let Some(mut running) = held_job(app, &lease.id).await {
        running.progress = progress;
        app.http_consumers.adopt(key, by, running, time);
    }
    Ok(Json(Extended { cancel }))
}

/// A leased job whose lease is not known here: another server handed it out, or this one before its
/// restart. `None` if the broker does not show it: then it is not listed.
async fn held_job(app: &App, id: &JobId) -> Option<RunningJob> {
    let can = app.broker.capabilities();
    if !can.listing || !can.consumers {
        return None;
    }
    let job = app.broker.job(id).await.ok()??;
    let attempt = job.failed + job.crashed + 1;
    let mut running = RunningJob::new(job.id, job.queue, job.task, attempt);
    running.since = job.leased_at.unwrap_or(running.since);
    Some(running)
}

/// A reason that fits into each record of a history.
fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

fn given_back(given: GivenBack, kind: AttemptKind) -> Disposition {
    Disposition::GiveBack {
        kind,
        reason: short(given.reason),
        after: given.after.map(|after| after.0).unwrap_or_default(),
    }
}

async fn end(app: &App, lease: &str, disposition: Disposition) -> Result<StatusCode, Problem> {
    let name: LeaseName = lease.parse()?;
    let settled = settle(app, &name, disposition).await;
    app.http_consumers.ended(&(name.id, name.token));
    settled.map(|_| StatusCode::NO_CONTENT)
}

async fn settle(
    app: &App,
    lease: &LeaseName,
    disposition: Disposition,
) -> Result<Option<String>, Problem> {
    match app
        .broker
        .settle(&lease.id, lease.token, disposition)
        .await?
    {
        Settled::Accepted(cancel) => Ok(cancel),
        Settled::Stale => Err(Problem::stale()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_by_text_that_needs_no_escapes_in_a_path() {
        let name = LeaseName {
            id: JobId::new("emails/7?.#ü"),
            token: -5,
            time: Duration::from_millis(1_500),
        };
        let text = name.to_string();
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
        let read: LeaseName = text.parse().unwrap();
        assert_eq!(
            (read.id, read.token, read.time),
            (name.id, name.token, name.time)
        );
        for wrong in ["", "x", "!", "MS4", "Lg"] {
            assert!(wrong.parse::<LeaseName>().is_err(), "{wrong}");
        }
    }
}

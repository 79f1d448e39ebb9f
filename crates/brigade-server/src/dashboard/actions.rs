//! What the forms of the pages do: one queue, one job, one schedule at a time.
//!
//! Each handler needs a role, asks the broker once, and answers with a redirect to a page that says
//! what was done ([`Notice`](super::notice::Notice)), or with a page that says what was wrong. After it,
//! the shared snapshot is read again, so that the page after an action shows the change. The log has
//! a line for each, with the name of the credential and never with a payload.

use axum::Form;
use axum::extract::Path;
use axum::response::Response;
use brigade::{CancelOutcome, Edit, Job, JobId, PushOutcome};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::queue::LimitForm;
use super::shell::{Failed, back};
use super::viewer::{Viewer, encoded};
use super::watch::BrokerWatch;
use crate::app::App;

/// What every action has.
pub(super) struct Acting {
    viewer: Viewer,
    app: App,
    watch: BrokerWatch,
}

impl axum::extract::FromRequestParts<App> for Acting {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        app: &App,
    ) -> Result<Self, Response> {
        let viewer = Viewer::from_request_parts(parts, app).await?;
        let watch = parts
            .extensions
            .get::<BrokerWatch>()
            .cloned()
            .unwrap_or_else(BrokerWatch::new);
        Ok(Self {
            viewer,
            app: app.clone(),
            watch,
        })
    }
}

impl Acting {
    /// Answers with the page after the action, or with what was wrong.
    async fn answer(&self, outcome: Result<String, Failed>) -> Response {
        self.watch.changed().await;
        match outcome {
            Ok(path) => back(&self.viewer, &path),
            Err(failed) => {
                let snapshot = self.watch.look(&self.app.broker).await;
                failed.page(&self.viewer, &snapshot)
            }
        }
    }

    fn may_change(&self) -> Result<(), Failed> {
        match self.viewer.can_change() {
            true => Ok(()),
            false => Err(Failed::Role("admin")),
        }
    }

    fn log(&self, did: &str, name: &str) {
        tracing::info!(by = %self.viewer.name, did, name, "an action from the dashboard");
    }
}

fn queue_path(queue: &str) -> String {
    format!("/queues/{}", encoded(queue))
}

fn job_path(id: &JobId) -> String {
    format!("/jobs/{}", encoded(id.as_str()))
}

/// Where to go after a pause.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct BackForm {
    back: String,
}

pub(super) async fn pause(
    acting: Acting,
    Path(queue): Path<String>,
    Form(form): Form<BackForm>,
) -> Response {
    let outcome = set_pause(&acting, &queue, true, &form).await;
    acting.answer(outcome).await
}

pub(super) async fn resume(
    acting: Acting,
    Path(queue): Path<String>,
    Form(form): Form<BackForm>,
) -> Response {
    let outcome = set_pause(&acting, &queue, false, &form).await;
    acting.answer(outcome).await
}

async fn set_pause(
    acting: &Acting,
    queue: &str,
    pauses: bool,
    form: &BackForm,
) -> Result<String, Failed> {
    acting.may_change()?;
    let handle = acting.app.broker.queue(queue);
    let did = if pauses {
        handle.pause().await?;
        "paused"
    } else {
        handle.resume().await?;
        "resumed"
    };
    acting.log(did, queue);
    Ok(match form.back.as_str() {
        "queues" => format!("/queues?did={did}&name={}", encoded(queue)),
        _ => format!("{}?did={did}", queue_path(queue)),
    })
}

pub(super) async fn limit(
    acting: Acting,
    Path(queue): Path<String>,
    Form(form): Form<LimitForm>,
) -> Response {
    let outcome = set_limits(&acting, &queue, &form).await;
    acting.answer(outcome).await
}

async fn set_limits(acting: &Acting, queue: &str, form: &LimitForm) -> Result<String, Failed> {
    acting.may_change()?;
    let limits = form.limits()?;
    let broker = &acting.app.broker;
    let all = broker.queues().await?;
    let before = all.iter().find(|there| there.queue == queue);
    let before = before.and_then(|before| before.limits);
    match limits {
        Some(limits) => broker.queue(queue).limit(limits).await?,
        None => broker.queue(queue).unlimit().await?,
    }
    acting.log("limited", queue);
    let was = before.map_or_else(
        || Some("none".to_owned()),
        |was| serde_json::to_string(&was).ok(),
    );
    let was = encoded(&was.unwrap_or_default());
    Ok(format!("{}?did=limited&was={was}", queue_path(queue)))
}

pub(super) async fn purge(acting: Acting, Path(queue): Path<String>) -> Response {
    let outcome = async {
        acting.may_change()?;
        let purged = acting.app.broker.queue(queue.as_str()).purge().await?;
        acting.log("purged", &queue);
        Ok(format!("{}?did=purged&n={purged}", queue_path(&queue)))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

/// A job to push.
#[derive(Deserialize)]
pub(super) struct PushForm {
    payload: String,
    #[serde(default)]
    task: String,
}

pub(super) async fn push(
    acting: Acting,
    Path(queue): Path<String>,
    Form(form): Form<PushForm>,
) -> Response {
    let outcome = push_job(&acting, &queue, &form).await;
    acting.answer(outcome).await
}

async fn push_job(acting: &Acting, queue: &str, form: &PushForm) -> Result<String, Failed> {
    if !acting.viewer.can_push() {
        return Err(Failed::Role("push"));
    }
    let payload = json(&form.payload)?;
    let task = (!form.task.is_empty()).then(|| Box::from(form.task.as_str()));
    let pushed = acting
        .app
        .broker
        .push(Job::new(queue, task, payload.get()))
        .await?;
    acting.log("pushed to", queue);
    let did = match pushed {
        PushOutcome::Duplicate(_) => "duplicate",
        _ => "pushed",
    };
    Ok(format!("{}?did={did}", job_path(pushed.id())))
}

fn json(text: &str) -> Result<&RawValue, Failed> {
    serde_json::from_str(text.trim()).map_err(|error| {
        Failed::Form(format!(
            "The payload is not JSON: {error}. Text has quotes of its own: \"text\"."
        ))
    })
}

/// Why a job is cancelled.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CancelForm {
    reason: String,
}

pub(super) async fn cancel(
    acting: Acting,
    Path(id): Path<String>,
    Form(form): Form<CancelForm>,
) -> Response {
    let id = JobId::new(id);
    let outcome = async {
        acting.may_change()?;
        let reason = match form.reason.trim() {
            "" => format!("cancelled by {} from the dashboard", acting.viewer.name),
            reason => reason.to_owned(),
        };
        let outcome = acting.app.broker.cancel(&id, &reason).await?;
        acting.log("cancelled", id.as_str());
        let did = match outcome {
            CancelOutcome::Cancelled => "cancelled",
            CancelOutcome::Asked => "asked",
            CancelOutcome::Nothing => "nothing",
        };
        Ok(format!("{}?did={did}", job_path(&id)))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

/// Changes of a dead letter; an empty field changes nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RetryForm {
    payload: String,
    task: String,
    queue: String,
}

pub(super) async fn retry(
    acting: Acting,
    Path(id): Path<String>,
    Form(form): Form<RetryForm>,
) -> Response {
    let outcome = retry_job(&acting, &JobId::new(id), &form).await;
    acting.answer(outcome).await
}

async fn retry_job(acting: &Acting, id: &JobId, form: &RetryForm) -> Result<String, Failed> {
    acting.may_change()?;
    let mut edit = Edit::new();
    if !form.payload.trim().is_empty() {
        edit = edit.payload(json(&form.payload)?)?;
    }
    if !form.task.is_empty() {
        edit = edit.task(form.task.as_str());
    }
    if !form.queue.is_empty() {
        edit = edit.queue(form.queue.as_str());
    }
    let retried = acting.app.broker.retry_with(id, edit).await?;
    acting.log("retried", id.as_str());
    Ok(match retried {
        Some(id) => format!("{}?did=retried", job_path(&id)),
        None => format!("{}?did=nothing", job_path(id)),
    })
}

pub(super) async fn delete(acting: Acting, Path(id): Path<String>) -> Response {
    let id = JobId::new(id);
    let outcome = async {
        acting.may_change()?;
        let deleted = acting.app.broker.delete(&id).await?;
        acting.log("deleted", id.as_str());
        let did = if deleted { "deleted" } else { "nothing" };
        Ok(format!("/queues?did={did}"))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

pub(super) async fn run_schedule(acting: Acting, Path(name): Path<String>) -> Response {
    let outcome = async {
        acting.may_change()?;
        let schedules = acting.app.broker.schedules().await?;
        let schedule = schedules.iter().find(|schedule| schedule.name == name);
        let schedule = schedule
            .ok_or_else(|| Failed::Missing(format!("There is no schedule {name:?} (any more).")))?;
        let pushed = acting.app.broker.push(schedule.job()).await?;
        acting.log("ran schedule", &name);
        let did = match pushed {
            PushOutcome::Duplicate(_) => "duplicate",
            _ => "pushed",
        };
        Ok(format!("{}?did={did}", job_path(pushed.id())))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

pub(super) async fn unschedule(acting: Acting, Path(name): Path<String>) -> Response {
    let outcome = async {
        acting.may_change()?;
        let removed = acting.app.broker.unschedule(&name).await?;
        acting.log("removed schedule", &name);
        let did = if removed { "unscheduled" } else { "nothing" };
        Ok(format!("/schedules?did={did}"))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

/// Has the broker checked now.
pub(super) async fn check(acting: Acting) -> Response {
    acting.watch.check_again();
    acting
        .answer(Ok("/settings?did=checked#check".to_owned()))
        .await
}

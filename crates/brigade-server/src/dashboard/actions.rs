//! What the forms of the pages do: one queue, one job, one schedule at a time.
//!
//! Each handler needs a role ([`Acting`]), and answers with a redirect to a page that says what was
//! done ([`Notice`](super::notice::Notice)), or with a page that says what was wrong. After it, the
//! shared snapshot is read again, so that the page after an action shows the change. The log has a
//! line for each, with the name of the credential and never with a payload.

use axum::extract::Path;
use axum::response::Response;
use brigade::{CancelOutcome, Edit, Job, JobId, PushOutcome};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::acting::{Acting, PushesJobs, Reads, Sent};
use super::json_text;
use super::queue::LimitForm;
use super::shell::Failed;
use super::undo::Undo;
use super::viewer::{encoded, queue_path, schedule_path};

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
    Sent(form): Sent<BackForm>,
) -> Response {
    let outcome = set_pause(&acting, &queue, true, &form).await;
    acting.answer(outcome).await
}

pub(super) async fn resume(
    acting: Acting,
    Path(queue): Path<String>,
    Sent(form): Sent<BackForm>,
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
    let handle = acting.app.broker.queue(queue);
    let (did, action) = if pauses {
        handle.pause().await?;
        ("paused", "resume")
    } else {
        handle.resume().await?;
        ("resumed", "pause")
    };
    acting.log(did, queue);
    let fields = Vec::new();
    let path = queue_path(queue);
    let undo = acting.viewer.undos.keep(&path, Undo { action, fields });
    Ok(match form.back.as_str() {
        "queues" => format!("/queues?did={did}&name={}&undo={undo}", encoded(queue)),
        _ => format!("{path}?did={did}&undo={undo}"),
    })
}

pub(super) async fn limit(
    acting: Acting,
    Path(queue): Path<String>,
    Sent(form): Sent<LimitForm>,
) -> Response {
    let outcome = set_limits(&acting, &queue, &form).await;
    acting.answer(outcome).await
}

async fn set_limits(acting: &Acting, queue: &str, form: &LimitForm) -> Result<String, Failed> {
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
    let undo = Undo {
        action: "limits",
        fields: vec![("was", was.unwrap_or_default())],
    };
    let path = queue_path(queue);
    let undo = acting.viewer.undos.keep(&path, undo);
    Ok(format!("{path}?did=limited&undo={undo}"))
}

pub(super) async fn purge(acting: Acting, Path(queue): Path<String>) -> Response {
    let outcome = async {
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
    acting: Acting<PushesJobs>,
    Path(queue): Path<String>,
    Sent(form): Sent<PushForm>,
) -> Response {
    let outcome = push_job(&acting, &queue, &form).await;
    acting.answer(outcome).await
}

async fn push_job(
    acting: &Acting<PushesJobs>,
    queue: &str,
    form: &PushForm,
) -> Result<String, Failed> {
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
    // Where no jobs are listed, a job has no page.
    let path = match acting.app.broker.capabilities().listing {
        true => job_path(pushed.id()),
        false => queue_path(queue),
    };
    Ok(format!("{path}?did={did}"))
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
    Sent(form): Sent<CancelForm>,
) -> Response {
    let id = JobId::new(id);
    let outcome = async {
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

/// Changes of a dead letter; a field that is empty, or a payload as it was, changes nothing.
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
    Sent(form): Sent<RetryForm>,
) -> Response {
    let outcome = retry_job(&acting, &JobId::new(id), &form).await;
    acting.answer(outcome).await
}

async fn retry_job(acting: &Acting, id: &JobId, form: &RetryForm) -> Result<String, Failed> {
    let mut edit = Edit::new();
    if !form.payload.trim().is_empty() {
        let stored = acting.app.broker.job(id).await?;
        let is_as_it_was =
            stored.is_some_and(|job| json_text::is_same(&form.payload, &job.payload));
        if !is_as_it_was {
            edit = edit.payload(json(&form.payload)?)?;
        }
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

pub(super) async fn pause_schedule(acting: Acting, Path(name): Path<String>) -> Response {
    let outcome = set_schedule_pause(&acting, &name, true).await;
    acting.answer(outcome).await
}

pub(super) async fn resume_schedule(acting: Acting, Path(name): Path<String>) -> Response {
    let outcome = set_schedule_pause(&acting, &name, false).await;
    acting.answer(outcome).await
}

async fn set_schedule_pause(acting: &Acting, name: &str, pauses: bool) -> Result<String, Failed> {
    let broker = &acting.app.broker;
    let (found, did, action) = if pauses {
        (broker.pause_schedule(name).await?, "paused", "resume")
    } else {
        (broker.resume_schedule(name).await?, "resumed", "pause")
    };
    if !found {
        return Ok("/schedules?did=nothing".to_owned());
    }
    acting.log(&format!("{did} schedule"), name);
    let fields = Vec::new();
    let undos = &acting.viewer.undos;
    let undo = undos.keep(&schedule_path(name), Undo { action, fields });
    Ok(format!(
        "/schedules?did={did}&name={}&undo={undo}",
        encoded(name)
    ))
}

pub(super) async fn unschedule(acting: Acting, Path(name): Path<String>) -> Response {
    let outcome = async {
        let removed = acting.app.broker.unschedule(&name).await?;
        acting.log("removed schedule", &name);
        let did = if removed { "unscheduled" } else { "nothing" };
        Ok(format!("/schedules?did={did}"))
    };
    let outcome = outcome.await;
    acting.answer(outcome).await
}

/// Has the broker checked now.
pub(super) async fn check(acting: Acting<Reads>) -> Response {
    acting.watch.check_again();
    acting
        .answer(Ok("/settings?did=checked#check".to_owned()))
        .await
}

//! One job: its story from push to end, why it does not run, what it carries, and what can be done.
//!
//! The page asks the broker for the job, for `why`, and for the jobs of its flow. It shows only
//! what there is: a job that is done is gone unless it was pushed with `keep`, and then the page
//! says so. Payload, result, reasons and output come from outside; the template escapes them, and
//! output goes through [`ansi`](super::ansi).

use std::time::SystemTime;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use brigade::{Broker, Capabilities, JobId, JobInfo, JobState};

use super::consumer_row::{RunningRow, process};
use super::flow_graph::{FlowGraph, flow_of};
use super::json_text::indented;
use super::notice::{Done, Notice};
use super::push_command::push_command;
use super::reasons;
use super::shell::{Failed, PageShell, page};
use super::timeline::Timeline;
use super::viewer::{Viewer, encoded};
use super::watch::{BrokerWatch, Snapshot};
use super::words::{span, state_word};
use crate::app::App;

#[derive(Template)]
#[template(path = "job.html")]
struct OneJobPage {
    page: PageShell,
    id: String,
    path: String,
    name: String,
    queue: String,
    queue_path: String,
    task: String,
    state: &'static str,
    reasons: Vec<String>,
    facts: Vec<(&'static str, String)>,
    timeline: Timeline,
    flow: Option<FlowGraph>,
    payload: String,
    result: Option<String>,
    command: String,
    raw: String,
    trace: Option<(String, Option<String>)>,
    can_cancel: bool,
    can_retry: bool,
    can_delete: bool,
    can_move: bool,
    cancel_asked: Option<String>,
    run: Option<JobRun>,
}

/// The attempt that runs, as its consumer reports it.
struct JobRun {
    /// Host and process.
    holder: String,
    row: RunningRow,
}

impl JobRun {
    fn of(job: &JobInfo, snapshot: &Snapshot, now: SystemTime) -> Option<Self> {
        let all = snapshot.consumers.iter().flatten();
        let runs = all.flat_map(|consumer| consumer.running.iter().map(move |run| (consumer, run)));
        // An attempt before this one, whose lease ran out, may still be there.
        let of_job = runs.filter(|(_, run)| run.job == job.id);
        let (consumer, run) = of_job.max_by_key(|(_, run)| run.since)?;
        Some(Self {
            holder: format!("{} ({})", consumer.host, process(consumer)),
            row: RunningRow::new(run, now),
        })
    }

    /// Names the holder as people know it, where the broker has its id.
    fn name_holder(&self, job: &JobInfo, text: &mut String) {
        if let Some(id) = &job.holder {
            *text = text.replace(id, &self.holder);
        }
    }
}

pub(super) async fn job(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Path(id): Path<String>,
    Query(done): Query<Done>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    match show(&viewer, &app, &snapshot, JobId::new(id), &done).await {
        Ok(response) => response,
        Err(failed) => failed.page(&viewer, &snapshot),
    }
}

async fn show(
    viewer: &Viewer,
    app: &App,
    snapshot: &Snapshot,
    id: JobId,
    done: &Done,
) -> Result<Response, Failed> {
    let broker = &app.broker;
    let job = job_of(broker, &id).await?;
    let explanation = broker.why(&id).await?;
    let flow = flow_of(broker, &job, &viewer.base).await?;
    let can = broker.capabilities();
    let name = job
        .task
        .as_ref()
        .or(job.label.as_ref())
        .unwrap_or(&job.queue)
        .clone();
    let now = broker.clock().now();
    let run = match job.state {
        JobState::Leased => JobRun::of(&job, snapshot, now),
        _ => None,
    };
    let mut reasons = match (&explanation, job.state) {
        (_, JobState::Done) => Vec::new(),
        (Some(explanation), _) => reasons::in_words(explanation),
        (None, _) => Vec::new(),
    };
    let mut timeline = Timeline::new(&job, now);
    if let Some(run) = &run {
        let texts = timeline.events.iter_mut().map(|event| &mut event.text);
        for text in reasons.iter_mut().chain(texts) {
            run.name_holder(&job, text);
        }
    }
    let raw = serde_json::to_string(&job).ok();
    let raw = raw.map(|raw| indented(&raw));
    Ok(page(&OneJobPage {
        page: PageShell::new(viewer, "jobs", format!("{name} · job {id}"), snapshot)
            .with_notice(Notice::of_job(done)),
        path: format!("/jobs/{}", encoded(id.as_str())),
        id: id.to_string(),
        name,
        queue_path: format!("/queues/{}", encoded(&job.queue)),
        queue: job.queue.clone(),
        task: job.task.clone().unwrap_or_default(),
        state: state_word(job.state),
        reasons,
        facts: facts(&job),
        timeline,
        payload: indented(&job.payload),
        result: job.result.as_deref().map(indented),
        command: push_command(&job),
        raw: raw.unwrap_or_default(),
        trace: trace(app, &job),
        can_cancel: can_cancel(&job, can),
        can_retry: job.state == JobState::Dead,
        can_delete: job.state != JobState::Leased,
        can_move: flow.is_none(),
        cancel_asked: job.cancel.clone(),
        run,
        flow,
    }))
}

/// The job, or why it has no page.
async fn job_of(broker: &Broker, id: &JobId) -> Result<JobInfo, Failed> {
    if !broker.capabilities().listing {
        return Err(Failed::Missing(
            "This broker does not list its jobs, so a job has no page. The consumers show what \
                they run."
                .to_owned(),
        ));
    }
    broker.job(id).await?.ok_or_else(|| {
        Failed::Missing(format!(
            "There is no job {id} (any more). A job that is done is removed at once, unless it was \
                pushed with --keep; a job that was taken is gone as well."
        ))
    })
}

fn can_cancel(job: &JobInfo, can: Capabilities) -> bool {
    can.cancels && !job.state.is_terminal() && job.cancel.is_none()
}

/// The trace, and its page in the tracing system of the deployment.
fn trace(app: &App, job: &JobInfo) -> Option<(String, Option<String>)> {
    let parent = job.options.traceparent.as_ref()?;
    let template = app.options.trace_link.as_deref();
    let link = template.map(|template| template.replace("{trace_id}", parent.trace_id()));
    Some((parent.as_str().to_owned(), link))
}

/// What else there is to know, where it is not the usual.
fn facts(job: &JobInfo) -> Vec<(&'static str, String)> {
    let options = &job.options;
    let mut facts = Vec::new();
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    add("Task", job.task.clone());
    add("Label", job.label.clone());
    add("Key", job.key.clone());
    add("Partition", job.partition.clone());
    add("Unique key", options.unique.as_deref().map(str::to_owned));
    add(
        "Priority",
        (job.priority != 0).then(|| job.priority.to_string()),
    );
    let attempts = [
        (job.failed, "failed"),
        (job.crashed, "crashed"),
        (job.interrupted, "interrupted"),
        (job.lost, "of these lost"),
    ];
    let attempts: Vec<String> = attempts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    add(
        "Attempts",
        (!attempts.is_empty()).then(|| attempts.join(", ")),
    );
    add(
        "Retries allowed",
        options.retries.map(|retries| retries.to_string()),
    );
    add(
        "Timeout",
        options
            .timeout
            .map(|timeout| format!("{} for each attempt", span(timeout))),
    );
    add("Memory", options.memory.map(super::words::bytes));
    add(
        "Address space",
        options.address_space.map(super::words::bytes),
    );
    add("CPU time", options.cpu.map(span));
    add("Open files", options.files.map(|files| files.to_string()));
    add(
        "Processes",
        options.processes.map(|processes| processes.to_string()),
    );
    add("File size", options.file_size.map(super::words::bytes));
    add(
        "Kept",
        options
            .keep
            .map(|keep| format!("{} after it is done", span(keep))),
    );
    let unserved = job.unserved.map(|unserved| unserved.to_string());
    add("Not served", unserved);
    facts
}

//! `brigade job` and `brigade retry`.

use std::process::ExitCode;
use std::time::SystemTime;

use brigade::{AttemptRecord, Broker, Edit, JobId, JobInfo, JobState, Parents, Tick};
use serde_json::json;

use crate::connection::Globals;
use crate::escape::escape;
use crate::exit;
use crate::show::{self, JobDocument, note};
use crate::times::local;

/// Show a job with the history of its attempts
#[derive(clap::Args)]
pub(crate) struct Job {
    /// Ids of jobs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Lines of standard error that are shown of one attempt; `--json` has everything that was kept.
const STDERR_LINES_MAX: usize = 20;

impl Job {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        show_each(&broker, &self.ids, None, globals.json).await
    }
}

/// Shows those that are there, in the given state if one is given; exit code 3 if one is not.
pub(super) async fn show_each(
    broker: &Broker,
    ids: &[String],
    state: Option<JobState>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut all = true;
    for (index, id) in ids.iter().enumerate() {
        match broker.job(&JobId::new(id.as_str())).await? {
            None => {
                all = false;
                note!("{}", nothing(id, None));
            }
            Some(job) if state.is_some_and(|state| state != job.state) => {
                all = false;
                note!("not a dead letter: {}", nothing(id, Some(job.state)));
            }
            Some(job) if json => show::json(&JobDocument::new(&job))?,
            Some(job) => {
                if index > 0 {
                    show::line("")?;
                }
                show_one(&job)?;
            }
        }
    }
    Ok(exit::found(all))
}

fn show_one(job: &JobInfo) -> anyhow::Result<()> {
    job_lines(job)
        .iter()
        .try_for_each(|line| show::line(line))?;
    Ok(())
}

/// A job as lines of text, its foreign parts harmless for a terminal.
pub(super) fn job_lines(job: &JobInfo) -> Vec<String> {
    let mut lines = Vec::new();
    let mut field = |name: &str, value: Option<&str>| {
        lines.extend(value.map(|value| format!("{name:<12} {}", escape(value))));
    };
    let moment = |at: Option<SystemTime>| at.map(local);
    field("job", Some(&job.id.to_string()));
    field("queue", Some(&job.queue));
    field("task", job.task.as_deref());
    field("label", job.label.as_deref());
    field("state", Some(&job.state.to_string()));
    field("reason", job.reason.as_deref());
    field("waits for", job.parents.as_ref().map(waits_for).as_deref());
    field("then", job.dependent.as_ref().map(JobId::as_str));
    field("payload", Some(&show::readable_json(&job.payload)));
    let result = job.result.as_deref().map(show::readable_json);
    field("result", result.as_deref());
    field("priority", Some(&job.priority.to_string()));
    field("key", job.key.as_deref());
    field("partition", job.partition.as_deref());
    let tick = |tick: &Tick| format!("{}, for {}", tick.schedule, local(tick.at));
    field("schedule", job.tick.as_ref().map(tick).as_deref());
    field("pushed", Some(&local(job.pushed_at)));
    field("due", moment(job.due_at).as_deref());
    field("begins by", moment(job.begins_by).as_deref());
    field("holder", job.holder_in_words().as_deref());
    field("cancel", job.cancel.as_deref());
    let attempts = format!(
        "{} failed, {} crashed, {} interrupted",
        job.failed, job.crashed, job.interrupted
    );
    field("attempts", Some(&attempts));
    if !job.history.is_empty() {
        lines.push(String::new());
        lines.push("Attempts, oldest first:".to_owned());
    }
    lines.extend(job.history.iter().flat_map(attempt_lines));
    lines
}

/// How far the jobs are that a job waits for.
fn waits_for(parents: &Parents) -> String {
    let Parents {
        total,
        settled,
        missed,
        unsettled,
        ..
    } = parents;
    let open = total.saturating_sub(*settled) as usize;
    let mut text = format!("{total} jobs, {settled} settled, {missed} of those not done");
    if !unsettled.is_empty() {
        let ids: Vec<&str> = unsettled.iter().map(JobId::as_str).collect();
        let more = if open > ids.len() { ", .." } else { "" };
        text.push_str(&format!("; open: {}{more}", ids.join(", ")));
    }
    text
}

fn attempt_lines(record: &AttemptRecord) -> Vec<String> {
    let kind = serde_json::to_value(record.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or("ended");
    let mut reason = record.reason.lines().map(escape);
    let first = reason
        .next()
        .map_or_else(String::new, |line| format!(": {line}"));
    let mut lines = vec![format!(
        "{:>4}  {}  {kind}{first}",
        record.attempt,
        local(record.at),
    )];
    lines.extend(reason.map(|line| format!("      {line}")));
    lines.extend(record.stop.as_ref().map(|stop| format!("      {stop}")));
    let Some(report) = &record.report else {
        return lines;
    };
    lines.push(format!("      {}", escape(&report.to_string())));
    lines.extend(report.progress.as_ref().map(|(part, text)| {
        let percent = part * 100.0;
        format!("      progress: {percent:.0} % {}", escape(text))
    }));
    let printed: Vec<&str> = report.stderr.lines().collect();
    let last = &printed[printed.len().saturating_sub(STDERR_LINES_MAX)..];
    lines.extend(
        last.iter()
            .map(|line| format!("      stderr: {}", escape(line))),
    );
    lines
}

/// Give dead letters back to their queues, their counters at zero
///
/// The options change each job in the same step; everything else stays.
#[derive(clap::Args)]
pub(crate) struct Retry {
    /// Ids of dead letters (all of them: `brigade dead retry --all`)
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// New payload, a JSON value
    #[arg(long, value_name = "JSON", allow_negative_numbers = true)]
    payload: Option<String>,

    /// New task
    #[arg(long, value_name = "NAME")]
    task: Option<String>,

    /// New queue; on Redis the job gets an id of that queue, which is printed
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
}

impl Retry {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let mut edit = Edit::new();
        if let Some(payload) = &self.payload {
            edit = edit.payload(super::push::payload(payload)?)?;
        }
        if let Some(task) = &self.task {
            edit = edit.task(task.as_str());
        }
        if let Some(queue) = &self.queue {
            edit = edit.queue(queue.as_str());
        }
        let broker = globals.connect().await?;
        retry(&broker, &self.ids, &edit, globals.json).await
    }
}

pub(super) async fn retry(
    broker: &Broker,
    ids: &[String],
    edit: &Edit,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut all = true;
    for id in ids {
        let job = JobId::new(id.as_str());
        let retried = broker.retry_with(&job, edit.clone()).await?;
        all &= retried.is_some();
        if json {
            show::json(&json!({ "id": id, "retried": retried.is_some(), "job": retried }))?;
        } else if let Some(retried) = retried {
            let now = if retried == job {
                String::new()
            } else {
                format!(" as job {retried}")
            };
            show::line(&format!("retrying job {id}{now}"))?;
        } else {
            match broker.job(&job).await? {
                Some(dead) if dead.state == JobState::Dead => {
                    let reason = escape(dead.reason.as_deref().unwrap_or_default()).into_owned();
                    note!("job {} waits for others, retry those: {reason}", escape(id));
                }
                found => note!(
                    "not a dead letter: {}",
                    nothing(id, found.map(|job| job.state))
                ),
            }
        }
    }
    Ok(exit::found(all))
}

/// Why nothing was done to a job.
pub(super) fn nothing(id: &str, state: Option<JobState>) -> String {
    state.map_or_else(
        || format!("there is no job {}", escape(id)),
        |state| format!("job {} is {state}", escape(id)),
    )
}

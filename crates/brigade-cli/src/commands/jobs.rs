//! `brigade jobs`: jobs in the order of their pushes, a page at a time.

use std::process::ExitCode;

use brigade::{Broker, JobId, JobInfo, JobState};

use crate::connection::Globals;
use crate::show::{self, JobDocument, note};
use crate::times::local;

/// List jobs in the order of their pushes
#[derive(clap::Args)]
pub(crate) struct Jobs {
    /// Only those of this queue
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,

    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<JobState>,

    #[command(flatten)]
    page: Page,
}

/// The part of a list.
#[derive(clap::Args)]
pub(super) struct Page {
    /// Longest list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    /// Only those pushed after this job
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

/// Jobs that are asked for at once, so that a long list needs little memory.
const PAGE_JOBS: usize = 1_000;

fn state(text: &str) -> Result<JobState, String> {
    JobState::ALL
        .into_iter()
        .find(|state| state.to_string() == text)
        .ok_or_else(|| {
            let all = JobState::ALL.map(|state| state.to_string());
            format!("the states are {}", all.join(", "))
        })
}

impl Jobs {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        list(
            &broker,
            self.queue.as_deref(),
            self.state,
            &self.page,
            globals.json,
        )
        .await
    }
}

/// Prints a list: JSON as it comes, a table at once.
pub(super) async fn list(
    broker: &Broker,
    queue: Option<&str>,
    state: Option<JobState>,
    page: &Page,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut after = page.after.as_deref().map(JobId::new);
    let (mut left, mut shown) = (page.limit, Vec::new());
    while left > 0 {
        let asked = left.min(PAGE_JOBS);
        let jobs = broker.jobs(queue, state, after.as_ref(), asked).await?;
        let is_last = jobs.len() < asked;
        left -= jobs.len();
        after = jobs.last().map(|job| job.id.clone()).or(after);
        for job in jobs {
            if json {
                show::json(&JobDocument::new(&job))?
            } else {
                shown.push(row(&job, state))
            }
        }
        if is_last {
            break;
        }
    }
    if !json && shown.is_empty() {
        note!("no jobs");
    } else if !json {
        let what = if state == Some(JobState::Dead) {
            "reason"
        } else {
            "due"
        };
        show::table(
            [
                "id", "queue", "state", "failed", "crashed", "pushed", what, "payload",
            ],
            3..5,
            shown.into_iter(),
        )?;
    }
    if left == 0
        && let Some(last) = &after
        && !broker.jobs(queue, state, Some(last), 1).await?.is_empty()
    {
        note!("there are more; go on with --after {last}");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(job: &JobInfo, asked: Option<JobState>) -> [String; 8] {
    let detail = match asked {
        Some(JobState::Dead) => show::cell(job.reason.as_deref().unwrap_or("-")),
        _ => job.due_at.map_or_else(|| "-".to_owned(), local),
    };
    [
        job.id.to_string(),
        show::cell(&job.queue),
        job.state.to_string(),
        job.failed.to_string(),
        job.crashed.to_string(),
        local(job.pushed_at),
        detail,
        show::json_cell(&job.payload),
    ]
}

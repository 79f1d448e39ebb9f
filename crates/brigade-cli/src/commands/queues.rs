//! `brigade queues`, and operations on a whole queue: `pause`, `resume`, `purge`.

use std::io::{IsTerminal as _, stdin};
use std::process::ExitCode;

use brigade::{JobState, QueueCounts};
use serde_json::json;

use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::usage;
use crate::show::{self, note};

/// List the queues, with the number of jobs in each state
#[derive(clap::Args)]
pub(crate) struct Queues {}

/// The order of their life.
const COLUMNS: [JobState; 8] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Blocked,
    JobState::Leased,
    JobState::Retrying,
    JobState::Done,
    JobState::Dead,
    JobState::Cancelled,
];

impl Queues {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let queues = globals.connect().await?.queues().await?;
        if globals.json {
            for counts in &queues {
                let jobs: serde_json::Map<_, _> = COLUMNS
                    .iter()
                    .map(|state| (state.to_string(), count(counts, *state).into()))
                    .collect();
                show::json(
                    &json!({ "queue": counts.queue, "paused": counts.paused, "limits": counts.limits, "jobs": jobs }),
                )?;
            }
        } else if queues.is_empty() {
            note!("no queue has jobs");
        } else {
            let header = [
                "queue",
                "scheduled",
                "ready",
                "blocked",
                "leased",
                "retrying",
                "done",
                "dead",
                "cancelled",
                "paused",
            ];
            let rows = queues.iter().map(|counts| {
                let [
                    scheduled,
                    ready,
                    blocked,
                    leased,
                    retrying,
                    done,
                    dead,
                    cancelled,
                ] = COLUMNS.map(|state| count(counts, state).to_string());
                let paused = if counts.paused { "paused" } else { "-" }.to_owned();
                [
                    show::cell(&counts.queue),
                    scheduled,
                    ready,
                    blocked,
                    leased,
                    retrying,
                    done,
                    dead,
                    cancelled,
                    paused,
                ]
            });
            show::table(header, 1..9, rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn count(counts: &QueueCounts, state: JobState) -> u64 {
    counts
        .jobs
        .iter()
        .find(|(of, _)| *of == state)
        .map_or(0, |(_, count)| *count)
}

/// Hand out no jobs of a queue, on any host, until it is resumed
///
/// Running jobs go on, and pushes still work.
#[derive(clap::Args)]
pub(crate) struct Pause {
    /// Queue to pause
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// End the pause of a queue
#[derive(clap::Args)]
pub(crate) struct Resume {
    /// Queue to resume
    #[arg(value_name = "QUEUE")]
    queue: String,
}

impl Pause {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        globals
            .connect()
            .await?
            .queue(self.queue.as_str())
            .pause()
            .await?;
        tell_paused(&self.queue, true, globals)
    }
}

impl Resume {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        globals
            .connect()
            .await?
            .queue(self.queue.as_str())
            .resume()
            .await?;
        tell_paused(&self.queue, false, globals)
    }
}

fn tell_paused(queue: &str, paused: bool, globals: &Globals) -> anyhow::Result<ExitCode> {
    if globals.json {
        show::json(&json!({ "queue": queue, "paused": paused }))?;
    } else {
        show::line(&format!(
            "{} {}",
            if paused { "paused" } else { "resumed" },
            escape(queue)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Remove every waiting job of a queue
///
/// Running jobs go on; done, dead and cancelled jobs stay.
#[derive(clap::Args)]
pub(crate) struct Purge {
    /// Queue to purge
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Purge {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        if !self.yes
            && !is_confirmed(&format!(
                "Remove every waiting job of {}?",
                escape(&self.queue)
            ))?
        {
            return Ok(ExitCode::FAILURE);
        }
        let purged = broker.queue(self.queue.as_str()).purge().await?;
        if globals.json {
            show::json(&json!({ "queue": self.queue, "purged": purged }))?;
        } else {
            show::line(&format!("removed {}", jobs(purged)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks on the terminal; without one, `--yes` is needed.
pub(super) fn is_confirmed(question: &str) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        return Err(usage("this removes jobs for good: confirm it with --yes"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A number of jobs, in words.
pub(super) fn jobs(count: u64) -> String {
    if count == 1 {
        "1 job".to_owned()
    } else {
        format!("{count} jobs")
    }
}

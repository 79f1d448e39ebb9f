//! `brigade dead`: dead letters.

use std::process::ExitCode;

use brigade::{Broker, Edit, JobId, JobState};
use clap::Subcommand;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::job::{self, nothing};
use super::jobs::{self, Page};
use super::queues::{is_confirmed, jobs as so_many};
use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::{self, usage};
use crate::show::{self, note};

/// List, show, retry or delete dead letters
#[derive(clap::Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List dead letters with their reasons
    Ls {
        /// Only those of this queue
        #[arg(value_name = "QUEUE")]
        queue: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show dead letters with the history of their attempts
    Show {
        /// Ids of dead letters
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Give dead letters back to their queues, their counters at zero
    Retry(Targets),
    /// Remove dead letters for good
    Delete {
        #[command(flatten)]
        targets: Targets,
        /// Do not ask before --all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
struct Targets {
    /// Ids of dead letters; with --all, a queue or nothing
    #[arg(value_name = "ID|QUEUE", required_unless_present = "all")]
    targets: Vec<String>,

    /// All dead letters, of the given queue or of every queue
    #[arg(long)]
    all: bool,
}

/// The operation on each dead letter.
#[derive(Clone, Copy)]
enum Deed {
    Retry,
    Delete,
}

/// Dead letters that are retried or deleted at once: the broker commits them together.
const AT_ONCE: usize = 256;

impl Dead {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        match self.action {
            Action::Ls { queue, page } => {
                jobs::list(
                    &broker,
                    queue.as_deref(),
                    Some(JobState::Dead),
                    &page,
                    globals.json,
                )
                .await
            }
            Action::Show { ids } => {
                job::show_each(&broker, &ids, Some(JobState::Dead), globals.json).await
            }
            Action::Retry(targets) if targets.all => {
                Deed::Retry
                    .to_all(&broker, targets.queue()?, globals.json)
                    .await
            }
            Action::Retry(targets) => {
                job::retry(&broker, &targets.targets, &Edit::new(), globals.json).await
            }
            Action::Delete { targets, .. } if !targets.all => {
                delete(&broker, &targets.targets, globals.json).await
            }
            Action::Delete { targets, yes } => {
                let queue = targets.queue()?;
                let whose = queue.map_or("every queue".into(), escape);
                if !yes && !is_confirmed(&format!("Remove all dead letters of {whose} for good?"))?
                {
                    return Ok(ExitCode::FAILURE);
                }
                Deed::Delete.to_all(&broker, queue, globals.json).await
            }
        }
    }
}

impl Targets {
    /// The queue that is given with `--all`.
    fn queue(&self) -> anyhow::Result<Option<&str>> {
        match self.targets.as_slice() {
            [] => Ok(None),
            [queue] => Ok(Some(queue)),
            _ => Err(usage("--all takes one queue, or none for every queue")),
        }
    }
}

impl Deed {
    /// `false` if it is no longer a dead letter.
    async fn to(self, broker: &Broker, id: &JobId) -> anyhow::Result<bool> {
        match self {
            Self::Retry => Ok(broker.retry(id).await?),
            Self::Delete => Ok(broker.delete_dead(id).await?),
        }
    }

    async fn to_all(
        self,
        broker: &Broker,
        queue: Option<&str>,
        json: bool,
    ) -> anyhow::Result<ExitCode> {
        let (mut changed, mut after) = (0, None);
        loop {
            let page = broker
                .jobs(queue, Some(JobState::Dead), after.as_ref(), AT_ONCE)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            let each = stream::iter(&page)
                .map(|job| self.to(broker, &job.id))
                .buffer_unordered(AT_ONCE);
            changed += each
                .try_fold(0, async |count, done| Ok(count + u64::from(done)))
                .await?;
        }
        let (name, sentence) = match self {
            Self::Retry => ("retried", "retrying"),
            Self::Delete => ("deleted", "deleted"),
        };
        if json {
            show::json(&json!({ "queue": queue, name: changed }))?;
        } else {
            show::line(&format!("{sentence} {}", so_many(changed)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn delete(broker: &Broker, ids: &[String], json: bool) -> anyhow::Result<ExitCode> {
    let mut all = true;
    for id in ids {
        let job = JobId::new(id.as_str());
        let deleted = broker.delete_dead(&job).await?;
        all &= deleted;
        if json {
            show::json(&json!({ "id": id, "deleted": deleted }))?;
        } else if deleted {
            show::line(&format!("deleted job {id}"))?;
        } else {
            let state = broker.job(&job).await?.map(|job| job.state);
            note!("not a dead letter: {}", nothing(id, state));
        }
    }
    Ok(exit::found(all))
}

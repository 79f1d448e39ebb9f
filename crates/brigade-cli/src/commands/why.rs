//! `brigade why` and `brigade check`: what keeps jobs from running.

use std::process::ExitCode;

use brigade::{JobId, Level};

use crate::connection::Globals;
use crate::escape::escape;
use crate::exit;
use crate::show::{self, note};

/// Show why jobs do not run now
///
/// The answer comes from the code that hands out jobs.
#[derive(clap::Args)]
pub(crate) struct Why {
    /// Ids of jobs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Why {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        let mut all = true;
        for id in &self.ids {
            match broker.why(&JobId::new(id.as_str())).await? {
                None => {
                    all = false;
                    note!("there is no job {}", escape(id));
                }
                Some(explanation) if globals.json => show::json(&explanation)?,
                Some(explanation) => show::line(&escape(&explanation.to_string()))?,
            }
        }
        Ok(exit::found(all))
    }
}

/// Find faults and risky settings of the broker, and queues without consumers
///
/// Prints the worst first. Exit code 1 if there is more than notes.
#[derive(clap::Args)]
pub(crate) struct Check {}

impl Check {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let findings = globals.connect().await?.check().await?;
        for finding in &findings {
            match globals.json {
                true => show::json(finding)?,
                false => show::line(&escape(&finding.to_string()))?,
            }
        }
        if findings.is_empty() && !globals.json {
            note!("no findings");
        }
        let is_good = findings.iter().all(|finding| finding.level == Level::Note);
        Ok(if is_good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

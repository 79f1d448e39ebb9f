//! `brigade limit`: how much of a queue may run and start at once.

use std::process::ExitCode;
use std::time::Duration;

use brigade::Limits;
use serde_json::json;

use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::usage;
use crate::show;
use crate::times;

/// Limit how many jobs of a queue run at once and start per time, on all hosts together
///
/// The options replace the earlier limits of the queue; without an option, the command shows them.
#[derive(clap::Args)]
pub(crate) struct Limit {
    /// Queue to limit
    #[arg(value_name = "QUEUE")]
    queue: String,

    /// At most N jobs at once
    #[arg(long, value_name = "N")]
    running: Option<u32>,

    /// At most N starts in any stretch of that time (100/1m)
    #[arg(long, value_name = "N/TIME", value_parser = rate)]
    rate: Option<Starts>,

    /// At most N jobs of each partition at once
    #[arg(long, value_name = "N")]
    running_per_partition: Option<u32>,

    /// At most N starts of each partition in any stretch of that time
    #[arg(long, value_name = "N/TIME", value_parser = rate)]
    rate_per_partition: Option<Starts>,

    /// Partitions take turns
    #[arg(long)]
    turns: bool,

    /// Remove all limits
    #[arg(long, conflicts_with_all = ["running", "rate", "running_per_partition", "rate_per_partition", "turns"])]
    none: bool,
}

#[derive(Clone, Copy)]
struct Starts(u32, Duration);

fn rate(text: &str) -> Result<Starts, String> {
    let help = || "write a rate as 100/1m or 5/s".to_owned();
    let (starts, per) = text.split_once('/').ok_or_else(help)?;
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        per.to_owned()
    } else {
        format!("1{per}")
    };
    Ok(Starts(
        starts.trim().parse().map_err(|_| help())?,
        times::duration(&per).map_err(|_| help())?,
    ))
}

impl Limit {
    fn limits(&self) -> Limits {
        let mut limits = Limits::new();
        if let Some(running) = self.running {
            limits = limits.running(running);
        }
        if let Some(Starts(starts, per)) = self.rate {
            limits = limits.starts(starts, per);
        }
        if let Some(running) = self.running_per_partition {
            limits = limits.running_per_partition(running);
        }
        if let Some(Starts(starts, per)) = self.rate_per_partition {
            limits = limits.starts_per_partition(starts, per);
        }
        if self.turns { limits.turns() } else { limits }
    }

    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let broker = globals.connect().await?;
        let queue = broker.queue(self.queue.as_str());
        let limits = self.limits();
        if self.none {
            queue.unlimit().await?;
        } else if limits != Limits::new() {
            queue
                .limit(limits)
                .await
                .map_err(|e| usage(e.to_string()))?;
        }
        let known = broker
            .queues()
            .await?
            .into_iter()
            .find(|known| known.queue == self.queue)
            .and_then(|known| known.limits);
        if globals.json {
            show::json(&json!({ "queue": self.queue, "limits": known }))?;
        } else {
            let text = known.map_or_else(|| "no limits".to_owned(), |limits| limits.to_string());
            show::line(&format!("{}: {text}", escape(&self.queue)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

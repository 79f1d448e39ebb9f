//! `brigade manager`: hands jobs to plain Redis clients.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::connection::Globals;
use crate::escape::escape;
use crate::exit::usage;
use crate::show::{self, note};
use crate::times;

/// Hand jobs to plain Redis clients, in the order in which they asked
///
/// A client of any language asks for a job with RPUSH brigade:{QUEUE}:free ID and waits for it with
/// BLPOP brigade:{QUEUE}:to:ID 0. Several managers may serve one queue. The command ends at SIGINT
/// or SIGTERM.
#[derive(clap::Args)]
pub(crate) struct Manager {
    /// Queues to manage
    #[arg(value_name = "QUEUE", required = true)]
    queues: Vec<String>,

    /// Time for a client to collect its job, at least 1s; then the job goes back to the head of the
    /// queue
    #[arg(long, value_name = "TIME", value_parser = times::duration, default_value = "60s")]
    collect_within: Duration,
}

impl Manager {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        if self.collect_within < Duration::from_secs(1) {
            return Err(usage("a client has at least 1s to collect its job"));
        }
        let broker = globals.connect().await?;
        if !broker.capabilities().manager {
            return Err(usage(
                "this broker has no plain clients: a manager is for redis://",
            ));
        }
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
        let stop = CancellationToken::new();
        let managers = self.queues.iter().map(|queue| {
            let manager = broker
                .manager(queue.as_str())
                .collect_within(self.collect_within);
            manager.run_until(stop.clone().cancelled_owned())
        });
        let mut managers = std::pin::pin!(try_join_all(managers));
        note!("managing {}", escape(&self.queues.join(", ")));
        let handed = tokio::select! {
            ended = &mut managers => ended?,
            _ = async { tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} } } => {
                stop.cancel();
                managers.await?
            }
        };
        for (queue, handed) in self.queues.iter().zip(handed) {
            if globals.json {
                show::json(&json!({ "queue": queue, "handed": handed }))?;
            } else {
                show::line(&format!("{}: {handed} handed out", escape(queue)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

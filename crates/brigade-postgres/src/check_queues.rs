//! What `check` finds in queues: those that no consumer serves, paused ones, dead letters.

use std::collections::HashSet;
use std::time::Duration;

use super::database::{Database, Statement, millis};
use crate::error::Error;
use crate::job::JobState;
use brigade_core::finding::{Finding, Level};

/// Queues that consumers asked for within so many milliseconds.
const SERVED: Statement = Statement::read(
    "look at consumers",
    "select distinct unnest(queues) from brigade.asks where asked_at > brigade.wall() - \
        make_interval(secs => $1::bigint / 1000.0)",
);
const ASKED_WITHIN: Duration = Duration::from_secs(60);

impl Database {
    pub(super) async fn check_queues(&self) -> Result<Vec<Finding>, Error> {
        let served = self.rows(SERVED, &[&millis(ASKED_WITHIN)]).await?;
        let served: HashSet<String> = served
            .iter()
            .filter_map(|row| row.try_get(0).ok())
            .collect();
        let mut findings = Vec::new();
        for counts in self.counts().await? {
            let of = |states: &[JobState]| {
                let of = counts
                    .jobs
                    .iter()
                    .filter(|(state, _)| states.contains(state));
                of.map(|(_, count)| count).sum::<u64>()
            };
            let waiting = of(&[
                JobState::Ready,
                JobState::Scheduled,
                JobState::Blocked,
                JobState::Retrying,
            ]);
            let queue = &counts.queue;
            if waiting > 0 && counts.paused {
                findings.push(Finding::new(
                    Level::Warning,
                    format!("queue {queue} is paused, and {waiting} jobs wait in it"),
                    "resume it",
                ));
            } else if waiting > 0 && of(&[JobState::Leased]) == 0 && !served.contains(queue) {
                findings.push(Finding::without_consumers(queue, waiting));
            }
            let dead = of(&[JobState::Dead]);
            if dead > 0 {
                findings.push(Finding::dead_letters(queue, dead));
            }
        }
        Ok(findings)
    }
}

//! What `check` finds in queues: those that no consumer serves, paused ones, dead letters.

use std::collections::HashSet;

use super::database::{Database, Statement};
use crate::error::Error;
use crate::job::JobState;
use brigade_core::finding::{Finding, Level};

const SERVED: Statement = Statement::read(
    "look at consumers",
    "select queue from unnest($1::text[]) queue where brigade.has_consumer(queue)",
);

impl Database {
    pub(super) async fn check_queues(&self) -> Result<Vec<Finding>, Error> {
        let queues = self.counts().await?;
        let names: Vec<&str> = queues.iter().map(|counts| &*counts.queue).collect();
        let rows = self.rows(SERVED, &[&names]).await?;
        let served: HashSet<&str> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
        let mut findings = Vec::new();
        for counts in &queues {
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
            } else if waiting > 0 && !served.contains(&**queue) {
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

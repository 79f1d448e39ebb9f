//! What `brigade work` prints: attempts that did not end well, as they end, and the sum at the end.
//! Text goes to standard error, since standard output is the programs'; JSON goes to standard
//! output, since the programs' output is in their results then.

use std::cell::Cell;
use std::time::Duration;

use brigade::{JobInfo, JobState, LeasedJob};
use serde::Serialize;
use serde_json::value::RawValue;

use super::outcome::ProgramOutcome;
use crate::escape::{compact_json, escape};
use crate::show::{self, note};
use crate::times::local;

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    done: u64,
    failed: u64,
    dead: u64,
    passed: u64,
    cancelled: u64,
    given_back: u64,
    lost: u64,
}

pub(super) struct Report {
    json: bool,
    counts: Cell<Counts>,
}

/// One attempt as a document.
#[derive(Serialize)]
struct AttemptDocument<'a> {
    id: &'a str,
    attempt: u32,
    outcome: &'a str,
    reason: Option<&'a str>,
    result: Option<&'a RawValue>,
    seconds: f64,
    /// Of the job, where there is a choice.
    state: Option<JobState>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            counts: Cell::default(),
        }
    }

    /// An attempt was settled; `job` is its state where that is not clear. Returns a line
    /// for standard output, which may have to wait for a slow reader.
    pub(super) fn settled(
        &self,
        leased: &LeasedJob,
        ending: &ProgramOutcome,
        job: Option<&JobInfo>,
        took: Duration,
    ) -> Option<String> {
        let (outcome, count): (&str, fn(&mut Counts) -> &mut u64) = match ending {
            ProgramOutcome::Done(_) => ("done", |counts| &mut counts.done),
            ProgramOutcome::Failed(_) => ("failed", |counts| &mut counts.failed),
            ProgramOutcome::Dead(_) => ("dead", |counts| &mut counts.dead),
            ProgramOutcome::Passed(_) => ("passed", |counts| &mut counts.passed),
            ProgramOutcome::Cancelled(..) => ("cancelled", |counts| &mut counts.cancelled),
            ProgramOutcome::GivenBack(_) => ("given back", |counts| &mut counts.given_back),
            ProgramOutcome::Lost(_) => ("lost", |counts| &mut counts.lost),
        };
        let mut counts = self.counts.get();
        *count(&mut counts) += 1;
        let state = job.map(|job| job.state);
        if state == Some(JobState::Dead) && !matches!(ending, ProgramOutcome::Dead(_)) {
            counts.dead += 1;
        }
        self.counts.set(counts);
        let reason = ending.reason();
        if self.json {
            let result = if let ProgramOutcome::Done(result) = ending {
                result.as_deref()
            } else {
                None
            };
            let (id, attempt, seconds) =
                (leased.id().as_str(), leased.attempt(), took.as_secs_f64());
            let document = AttemptDocument {
                id,
                attempt,
                outcome,
                reason,
                result,
                seconds,
                state,
            };
            return serde_json::to_string(&document)
                .ok()
                .map(|text| compact_json(&text));
        }
        if let Some(reason) = reason {
            let next = next_of(ending, job);
            // A reason of many lines has them all in `brigade job`.
            let mut lines = reason.lines();
            let (first, last) = (lines.next().unwrap_or_default(), lines.next_back());
            let last = last.map_or_else(String::new, |last| format!(" .. {}", escape(last)));
            let word = if outcome == "dead" {
                "is a dead letter"
            } else {
                outcome
            };
            note!("job {} {word}: {}{last}{next}", leased.id(), escape(first));
        }
        None
    }

    /// Whether a job became a dead letter.
    pub(super) fn has_dead(&self) -> bool {
        self.counts.get().dead > 0
    }

    pub(super) fn end(&self) {
        let counts = self.counts.get();
        if self.json {
            // The reader may be gone.
            show::json(&counts).ok();
            return;
        }
        let Counts {
            done,
            failed,
            dead,
            passed,
            cancelled,
            given_back,
            lost,
        } = counts;
        let others = [
            (failed, "failed"),
            (dead, "dead"),
            (passed, "passed"),
            (cancelled, "cancelled"),
            (given_back, "given back"),
            (lost, "lost"),
        ];
        let others: String = others
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!(", {count} {name}"))
            .collect();
        note!("{done} done{others}");
    }
}

/// What becomes of the job of a failed attempt, as the end of a line.
fn next_of(ending: &ProgramOutcome, job: Option<&JobInfo>) -> String {
    let (ProgramOutcome::Failed(_), Some(job)) = (ending, job) else {
        return String::new();
    };
    match job.due_at {
        _ if job.state == JobState::Dead => "; it is a dead letter now".to_owned(),
        Some(due) => format!("; next attempt at {}", local(due)),
        None => String::new(),
    }
}

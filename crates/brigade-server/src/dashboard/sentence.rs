//! [`Sentence`]: the answer to "is anything wrong, since when, why, what can I do".
//!
//! The facts come from the broker: its counts, `why` of the job that waits longest in a queue,
//! `check`, and the statistics. This file only chooses which of them comes first and in which
//! words. It asks no broker and keeps no state, so it is tested by values.

use std::time::{Duration, SystemTime};

use brigade::{Blocker, Explanation, Finding, JobState, Level, LiveConsumer, QueueCounts};

use super::viewer::encoded;
use super::words::{count, number, rate, span};

/// Jobs that wait longer than this are worth a sentence.
pub(super) const WAITS_LONG: Duration = Duration::from_secs(60);

/// Findings of the check that have a sentence each.
const FINDINGS_MAX: usize = 2;

/// How things are, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mood {
    Well,
    /// Nothing is known.
    Unknown,
    Warning,
    Problem,
}

impl Mood {
    /// Its word on the page.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// A part of a sentence.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    /// The name of a queue, with its page.
    Queue(String, String),
}

/// What can be done about it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Action {
    pub(super) label: String,
    /// A path on the dashboard.
    pub(super) path: String,
    /// Whether it changes something, and so needs the role for that.
    pub(super) is_change: bool,
}

/// What is, with the action that helps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sentence {
    pub(super) mood: Mood,
    pub(super) pieces: Vec<Piece>,
    pub(super) action: Option<Action>,
    /// Since when.
    pub(super) since: Option<SystemTime>,
}

impl Sentence {
    /// A sentence without names.
    pub(super) fn plain(mood: Mood, text: impl Into<String>) -> Self {
        Self {
            mood,
            pieces: vec![Piece::Text(text.into())],
            action: None,
            since: None,
        }
    }

    fn with_action(self, label: &str, path: impl Into<String>, is_change: bool) -> Self {
        Self {
            action: Some(Action {
                label: label.to_owned(),
                path: path.into(),
                is_change,
            }),
            ..self
        }
    }

    /// The sentence as text.
    pub(super) fn text(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Queue(name, _) => format!("`{name}`"),
        };
        self.pieces.iter().map(text).collect()
    }
}

/// What sentences are made of.
pub(super) struct SentenceFacts<'a> {
    pub(super) now: SystemTime,
    pub(super) queues: &'a [QueueCounts],
    /// Of the queues that wait long: why their first job does.
    pub(super) reasons: &'a [(String, Option<Explanation>)],
    pub(super) findings: &'a [Finding],
    /// Queues with dead letters of the last ten minutes.
    pub(super) recent_dead: &'a [(String, u64)],
    /// Jobs done per minute, if the broker counts.
    pub(super) per_minute: Option<f64>,
}

/// How many jobs of a queue are in this state.
pub(super) fn jobs_in(queue: &QueueCounts, state: JobState) -> u64 {
    let of_state = queue.jobs.iter().filter(|(there, _)| *there == state);
    of_state.map(|(_, count)| count).sum()
}

/// How long the first ready job of a queue waits.
pub(super) fn oldest_wait(queue: &QueueCounts, now: SystemTime) -> Option<Duration> {
    let since = queue.waits_since?;
    Some(now.duration_since(since).unwrap_or_default())
}

/// The queues that wait longer than [`WAITS_LONG`], the longest first.
pub(super) fn waiting_long(queues: &[QueueCounts], now: SystemTime) -> Vec<&QueueCounts> {
    let mut waiting: Vec<(Duration, &QueueCounts)> = queues
        .iter()
        .filter_map(|queue| Some((oldest_wait(queue, now)?, queue)))
        .filter(|(wait, _)| *wait >= WAITS_LONG)
        .collect();
    waiting.sort_by(|(a, first), (b, second)| b.cmp(a).then(first.queue.cmp(&second.queue)));
    waiting.into_iter().map(|(_, queue)| queue).collect()
}

/// Every sentence that is true, the worst first; at least one.
pub(super) fn sentences(facts: &SentenceFacts<'_>) -> Vec<Sentence> {
    let waiting = waiting_long(facts.queues, facts.now);
    // Queues that were not asked for the reason: one sentence for all of them.
    let is_asked = |queue: &QueueCounts| facts.reasons.iter().any(|(name, _)| *name == queue.queue);
    let others = waiting.iter().filter(|queue| !is_asked(queue));
    let others: Vec<&QueueCounts> = others.copied().collect();
    let is_summed = !others.is_empty();
    let mut found: Vec<Sentence> = waiting
        .iter()
        .filter(|queue| !is_summed || is_asked(queue))
        .map(|queue| {
            let reason = facts.reasons.iter().find(|(name, _)| *name == queue.queue);
            waits(
                queue,
                reason.and_then(|(_, reason)| reason.as_ref()),
                facts.now,
            )
        })
        .collect();
    found.extend(is_summed.then(|| others_wait(&others, facts.now)));
    found.extend(
        facts
            .recent_dead
            .iter()
            .map(|(queue, dead)| died(queue, *dead)),
    );
    found.extend(
        facts
            .queues
            .iter()
            .filter(|queue| queue.paused && !waiting.iter().any(|long| long.queue == queue.queue))
            .filter_map(paused),
    );
    found.extend(of_findings(facts.findings));
    // Stable: within one mood, the longest wait stays first.
    found.sort_by_key(|sentence| std::cmp::Reverse(sentence.mood));
    if found.is_empty() {
        found.push(all_well(facts));
    }
    found
}

/// The sentences of a broker that does not list its queues and jobs: what is known of its
/// consumers, and what its check has found.
pub(super) fn without_list(
    consumers: Option<&[LiveConsumer]>,
    findings: &[Finding],
) -> Vec<Sentence> {
    let unlisted = "this broker does not list its queues and jobs, its own tools show what waits";
    let first = match consumers {
        None => Sentence::plain(Mood::Unknown, capitalized(unlisted)),
        Some([]) => Sentence::plain(
            Mood::Unknown,
            format!("No consumer is alive, so nothing is taken here; {unlisted}"),
        )
        .with_action("Start a consumer", "/consumers#start", false),
        Some(consumers) => {
            let held = consumers.iter().map(|consumer| consumer.held as u64).sum();
            let alive = count(consumers.len() as u64, "consumer");
            let text = format!("{alive} alive, {} running; {unlisted}", number(held));
            Sentence::plain(Mood::Unknown, text).with_action("See them", "/consumers", false)
        }
    };
    let mut found = of_findings(findings);
    found.push(first);
    found.sort_by_key(|sentence| std::cmp::Reverse(sentence.mood));
    found
}

/// With its first letter as a capital.
fn capitalized(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    text
}

fn name(queue: &str) -> Piece {
    Piece::Queue(queue.to_owned(), format!("/queues/{}", encoded(queue)))
}

fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

/// A queue whose first job waits long, and why.
fn waits(queue: &QueueCounts, reason: Option<&Explanation>, now: SystemTime) -> Sentence {
    let wait = oldest_wait(queue, now).map_or_else(String::new, span);
    let path = format!("/queues/{}", encoded(&queue.queue));
    let blockers = reason
        .map(|reason| reason.reasons.as_slice())
        .unwrap_or_default();
    let (mood, why, label, target, is_change) = blockers
        .iter()
        .find_map(|blocker| blocked(blocker, queue, &path))
        .unwrap_or_else(|| {
            let running = jobs_in(queue, JobState::Leased);
            let why = match running {
                0 => "no job of it runs".to_owned(),
                running => format!("its consumers are busy with {}", count(running, "job")),
            };
            (Mood::Warning, why, "See its consumers", path.clone(), false)
        });
    let pieces = vec![
        text("Queue "),
        name(&queue.queue),
        text(format!(" waits {wait}: {why}")),
    ];
    Sentence {
        pieces,
        since: queue.waits_since,
        ..Sentence::plain(mood, "")
    }
    .with_action(label, target, is_change)
}

/// Further queues that wait long, the longest first.
fn others_wait(queues: &[&QueueCounts], now: SystemTime) -> Sentence {
    let longest = queues.first().and_then(|queue| oldest_wait(queue, now));
    let text = format!(
        "{} long, up to {}",
        match queues.len() {
            1 => "1 more queue waits".to_owned(),
            more => format!("{} more queues wait", number(more as u64)),
        },
        span(longest.unwrap_or_default())
    );
    Sentence {
        since: queues.first().and_then(|queue| queue.waits_since),
        ..Sentence::plain(Mood::Warning, text)
    }
    .with_action("See the queues", "/queues?sort=wait", false)
}

/// Mood, words, and the action for a reason: label, path, whether it changes something.
type BlockedWords = (Mood, String, &'static str, String, bool);

fn blocked(blocker: &Blocker, queue: &QueueCounts, path: &str) -> Option<BlockedWords> {
    let of = |partition: &Option<String>| match partition.as_deref() {
        None => "its".to_owned(),
        Some("") => "of jobs without a partition the".to_owned(),
        Some(partition) => format!("of its partition {partition} the"),
    };
    let limits = || format!("{path}#limits");
    Some(match blocker {
        Blocker::Paused => {
            let ready = jobs_in(queue, JobState::Ready);
            let why = format!("it is paused, with {}", count(ready, "ready job"));
            (
                Mood::Warning,
                why,
                "Resume it",
                format!("{path}/resume"),
                true,
            )
        }
        Blocker::RunningLimit {
            partition, limit, ..
        } => {
            let why = format!("{} limit of {limit} running is used up", of(partition));
            (Mood::Warning, why, "Change the limit", limits(), false)
        }
        Blocker::RateLimit {
            partition,
            rate,
            free_in,
        } => {
            let why = format!(
                "{} limit of {} within {} is used up; the next may start in {}",
                of(partition),
                count(u64::from(rate.starts), "start"),
                span(rate.per),
                span(*free_in)
            );
            (Mood::Warning, why, "Change the limit", limits(), false)
        }
        Blocker::NoConsumer { since } => {
            let why = format!(
                "no consumer has asked for its jobs in the last {}",
                span(*since)
            );
            (
                Mood::Problem,
                why,
                "Start a consumer",
                "/consumers#start".to_owned(),
                false,
            )
        }
        Blocker::Unserved { given_back } => {
            let why = format!("no consumer that got its first job could run it ({given_back})");
            (Mood::Problem, why, "See its jobs", path.to_owned(), false)
        }
        _ => return None,
    })
}

/// What the check has found; one sentence for all if there are many.
fn of_findings(findings: &[Finding]) -> Vec<Sentence> {
    let mut found: Vec<Sentence> = findings.iter().filter_map(of_finding).collect();
    if found.len() <= FINDINGS_MAX {
        return found;
    }
    found.sort_by_key(|sentence| std::cmp::Reverse(sentence.mood));
    let (more, mut first) = (found.len() - 1, found.swap_remove(0));
    let more = format!(", and {} of the check", count(more as u64, "more finding"));
    first.pieces.push(text(more));
    vec![first]
}

fn of_finding(finding: &Finding) -> Option<Sentence> {
    let mood = match finding.level {
        Level::Problem => Mood::Problem,
        Level::Warning => Mood::Warning,
        Level::Note => return None,
    };
    Some(
        Sentence::plain(mood, capitalized(&finding.what)).with_action(
            "See the check",
            "/settings#check",
            false,
        ),
    )
}

fn died(queue: &str, dead: u64) -> Sentence {
    let became = if dead == 1 {
        "1 job of ".to_owned()
    } else {
        format!("{} jobs of ", number(dead))
    };
    let verb = if dead == 1 {
        " became a dead letter in the last 10 min"
    } else {
        " became dead letters in the last 10 min"
    };
    Sentence {
        pieces: vec![text(became), name(queue), text(verb)],
        ..Sentence::plain(Mood::Warning, "")
    }
    .with_action("See why", format!("/dead?queue={}", encoded(queue)), false)
}

fn paused(queue: &QueueCounts) -> Option<Sentence> {
    let ready = jobs_in(queue, JobState::Ready);
    let pieces = vec![
        text("Queue "),
        name(&queue.queue),
        text(format!(" is paused, with {}", count(ready, "ready job"))),
    ];
    let sentence = Sentence {
        pieces,
        since: queue.waits_since,
        ..Sentence::plain(Mood::Warning, "")
    };
    let path = format!("/queues/{}/resume", encoded(&queue.queue));
    (ready > 0).then(|| sentence.with_action("Resume it", path, true))
}

fn all_well(facts: &SentenceFacts<'_>) -> Sentence {
    let longest = facts
        .queues
        .iter()
        .filter_map(|queue| oldest_wait(queue, facts.now))
        .max();
    let waits = longest.map_or_else(
        || "nothing waits".to_owned(),
        |wait| {
            let seconds = Duration::from_secs(wait.as_secs() + 1);
            format!("nothing waits longer than {} s", seconds.as_secs())
        },
    );
    let text = match facts.per_minute {
        Some(per_minute) => format!("All well: {} jobs/min, {waits}", rate(per_minute)),
        None => format!("All well: {waits}"),
    };
    Sentence::plain(Mood::Well, text)
}

#[cfg(test)]
mod tests;

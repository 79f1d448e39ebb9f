//! Four views of the same jobs: `job` and `jobs`, `queues`, `why`, `check`.

use std::collections::HashSet;

use brigade::{Blocker, Broker, JobId, JobState};

type States = Vec<Option<JobState>>;

/// The state of each of these jobs, which are all that there are, as every view has it. Each view
/// is asked first once, as a look may bring things up to date.
pub(crate) async fn agree(broker: &Broker, ids: &[JobId], moment: &str) -> States {
    let mut all = Vec::new();
    for first in ["jobs", "queues", "job", "check", "why"] {
        let mut seen: Vec<(&str, States)> = Vec::new();
        for view in [first, "job", "jobs", "queues", "why"] {
            let states = match view {
                "job" => by_job(broker, ids).await,
                "jobs" => by_jobs(broker, ids).await,
                "queues" => by_queues(broker).await,
                "check" => {
                    broker.check().await.unwrap();
                    continue;
                }
                _ => by_why(broker, ids, moment).await,
            };
            seen.push((view, states));
        }
        let (_, last) = seen.last().unwrap().clone();
        for (view, states) in &seen {
            let agrees = if *view == "queues" {
                count(states) == count(&last)
            } else {
                *states == last
            };
            assert!(
                agrees,
                "{moment}, {first} asked first: {view} differs from why: {seen:?}"
            );
        }
        all = last;
    }
    all
}

fn count(states: &States) -> [usize; 8] {
    JobState::ALL.map(|state| states.iter().filter(|one| **one == Some(state)).count())
}

async fn by_job(broker: &Broker, ids: &[JobId]) -> States {
    let mut states = Vec::new();
    for id in ids {
        states.push(broker.job(id).await.unwrap().map(|job| job.state));
    }
    states
}

async fn by_jobs(broker: &Broker, ids: &[JobId]) -> States {
    let jobs = broker.jobs(None, None, None, 100).await.unwrap();
    ids.iter()
        .map(|id| jobs.iter().find(|job| job.id == *id).map(|job| job.state))
        .collect()
}

/// As many of each state as there are, in any order.
async fn by_queues(broker: &Broker) -> States {
    let queues = broker.queues().await.unwrap();
    let counts = queues.iter().flat_map(|queue| &queue.jobs);
    counts
        .flat_map(|(state, count)| {
            std::iter::repeat_n(Some(*state), usize::try_from(*count).unwrap())
        })
        .collect()
}

/// And whether a consumer serves it, as `check` reports it.
async fn by_why(broker: &Broker, ids: &[JobId], moment: &str) -> States {
    let (mut states, mut lonely) = (Vec::new(), HashSet::new());
    for id in ids {
        let why = broker.why(id).await.unwrap();
        if let Some(why) = &why {
            let runs = why
                .reasons
                .iter()
                .any(|reason| matches!(reason, Blocker::Running { .. }));
            assert_eq!(runs, why.state == JobState::Leased, "{moment}: {why}");
            if why
                .reasons
                .iter()
                .any(|reason| matches!(reason, Blocker::NoConsumer { .. }))
            {
                lonely.insert(why.queue.clone());
            }
        }
        states.push(why.map(|why| why.state));
    }
    let findings = broker.check().await.unwrap();
    let found = findings
        .iter()
        .filter(|finding| finding.what.contains("no consumer has asked"))
        .count();
    assert_eq!(
        found,
        lonely.len(),
        "{moment}: check and why differ on who serves a queue: {findings:?}, {lonely:?}"
    );
    states
}

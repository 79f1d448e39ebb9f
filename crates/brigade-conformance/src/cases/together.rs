//! Requests at the same time: a store may combine them, and each caller gets its own answer.
//!
//! Pushes, settlements and takes from many tasks at once are checked against what each of them
//! would get alone: own ids, own duplicates, own errors. One request that is refused changes
//! nothing for the others.

use std::collections::HashSet;
use std::time::Duration;

use brigade::{ErrorKind, Group, JobState, PushOutcome, Settled};
use futures_util::future::join_all;

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(
        each_of_many_pushes_at_once_is_told_of_its_own_jobs:
        unique, priorities, keys, flows, listing, scheduling
    ),
    case!(
        a_push_that_is_refused_refuses_no_other_beside_it:
        unique, priorities, keys, flows, listing
    ),
    case!(of_many_endings_of_a_lease_at_once_one_counts: unique, priorities, keys, flows, listing),
    case!(each_of_many_endings_at_once_ends_its_own_job: unique, priorities, keys, flows, listing),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

/// What these jobs have of options, and what is looked at.
async fn each_of_many_pushes_at_once_is_told_of_its_own_jobs(subject: Subject) {
    let broker = &subject.broker;
    let push = |number: u32| async move {
        let queue = broker.queue(if number.is_multiple_of(7) {
            "other"
        } else {
            "q"
        });
        let job = queue.job(&number).unwrap();
        let job = match number % 5 {
            0 => job.priority(3),
            1 => job.delay(LONG),
            2 => job.key(format!("k{}", number % 3)),
            3 => job.unique("key"),
            _ => job,
        };
        let two = [job, queue.job(&format!("beside {number}")).unwrap()];
        (number, broker.push_many(two.to_vec()).await.unwrap())
    };
    let (mut seen, mut marked) = (HashSet::new(), HashSet::new());
    for (number, told) in join_all((0..200).map(push)).await {
        assert_eq!(told.len(), 2);
        assert!(
            matches!(&told[1], PushOutcome::New(id) if seen.insert(id.clone())),
            "{told:?}"
        );
        let beside = broker.job(told[1].id()).await.unwrap().unwrap();
        assert_eq!(beside.payload, format!("\"beside {number}\""));
        let job = broker.job(told[0].id()).await.unwrap().unwrap();
        if number % 5 == 3 {
            marked.insert((
                job.queue.clone(),
                matches!(told[0], PushOutcome::New(_)),
                job.payload == number.to_string(),
            ));
            continue;
        }
        assert!(
            matches!(&told[0], PushOutcome::New(id) if seen.insert(id.clone())),
            "{told:?}"
        );
        assert_eq!(job.payload, number.to_string());
        assert_eq!(job.state == JobState::Scheduled, number % 5 == 1);
    }
    // In each queue one job has the unique key, and it is the one whose push was answered as new.
    assert_eq!(
        marked.iter().filter(|(_, is_new, _)| *is_new).count(),
        2,
        "{marked:?}"
    );
    assert!(
        marked
            .iter()
            .all(|(_, is_new, is_its_own)| is_new == is_its_own),
        "{marked:?}"
    );
}

async fn a_push_that_is_refused_refuses_no_other_beside_it(subject: Subject) {
    let broker = &subject.broker;
    let queue = broker.queue("q");
    broker
        .push(queue.job(&0).unwrap().unique("taken"))
        .await
        .unwrap();
    let push = |number: u32| {
        let queue = queue.clone();
        async move {
            if !number.is_multiple_of(3) {
                return queue.push(&number).await.map(drop);
            }
            let members = [
                queue.job(&number).unwrap(),
                queue.job(&"twice").unwrap().unique("taken"),
            ];
            broker
                .push_flow(Group::new(members).finally(queue.job(&"end").unwrap()))
                .await
                .map(drop)
        }
    };
    for (number, told) in (0..60_u32).zip(join_all((0..60).map(push)).await) {
        assert_eq!(
            told.err().map(|error| error.kind()),
            number.is_multiple_of(3).then_some(ErrorKind::Duplicate),
            "{number}"
        );
    }
    let jobs = broker
        .jobs(Some("q"), None, None, usize::MAX)
        .await
        .unwrap();
    assert_eq!(
        jobs.len(),
        41,
        "of a flow that was refused nothing is there"
    );
}

async fn of_many_endings_of_a_lease_at_once_one_counts(subject: Subject) {
    let queue = subject.broker.queue("q");
    for round in 0..20 {
        queue.push(&round).await.unwrap();
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        let end = |number: u32| {
            let lease = lease.clone();
            async move {
                match number % 3 {
                    _ if round % 2 == 0 => lease.ack().await,
                    0 => lease.ack().await,
                    1 => lease.dead_letter("no").await,
                    _ => lease.pass_later("no", LONG).await,
                }
            }
        };
        let told: Vec<Settled> = join_all((0..9).map(end))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            told.iter()
                .filter(|settled| matches!(settled, Settled::Accepted(_)))
                .count(),
            1,
            "{told:?}"
        );
    }
}

async fn each_of_many_endings_at_once_ends_its_own_job(subject: Subject) {
    let queue = subject.broker.queue("q");
    let jobs = (0..60).map(|number| queue.job(&number).unwrap().retries(1).priority(number % 2));
    subject.broker.push_many(jobs.collect()).await.unwrap();
    let mut leases = Vec::new();
    while let Some(lease) = queue.lease(LONG, NOW).await.unwrap() {
        leases.push(lease);
    }
    let end = async |lease: brigade::Lease| {
        let (id, number) = (lease.id().clone(), lease.payload::<u32>().unwrap());
        let (settled, state) = match number % 4 {
            0 => (lease.ack().await, None),
            1 => (lease.nack_later("no", LONG).await, Some(JobState::Retrying)),
            2 => (lease.dead_letter("no").await, Some(JobState::Dead)),
            _ => (lease.extend(LONG).await, Some(JobState::Leased)),
        };
        assert_eq!(settled.unwrap(), Settled::Accepted(None));
        (id, state)
    };
    let ended = join_all(leases.into_iter().map(end)).await;
    assert_eq!(ended.len(), 60);
    for (id, state) in ended {
        assert_eq!(
            subject.broker.job(&id).await.unwrap().map(|job| job.state),
            state,
            "{id}"
        );
    }
}

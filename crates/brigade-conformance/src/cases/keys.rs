//! Keys and unique keys.
//!
//! Jobs of one key run one at a time in the order of their pushes, and one that failed holds the
//! later ones until it is settled. While a job with a unique key is not settled, a push with it
//! gives that job's id. A dead letter that is retried takes its place in both again, or is refused
//! if another job has it.

use std::time::Duration;

use brigade::{JobState, PushOutcome};

use super::contract::state;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(jobs_of_a_key_run_one_at_a_time_in_order: keys, clock),
    case!(a_retried_dead_letter_waits_while_a_later_job_of_its_key_runs: keys, listing, clock),
    case!(a_dead_letter_whose_unique_mark_is_taken_is_not_retried: unique, listing),
    case!(a_unique_mark_gives_the_job_that_is_there: unique),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn jobs_of_a_key_run_one_at_a_time_in_order(subject: Subject) {
    let queue = subject.broker.queue("q");
    for n in 0..3 {
        subject
            .broker
            .push(queue.job(&n).unwrap().key("a").retries(1))
            .await
            .unwrap();
    }
    queue.push(&99).await.unwrap();
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(first.payload::<i32>().unwrap(), 0);
    assert_eq!(
        queue
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .payload::<i32>()
            .unwrap(),
        99,
        "the key must not hold others"
    );
    assert!(queue.take(NOW).await.unwrap().is_none());
    first.nack("again").await.unwrap();
    assert!(
        queue.take(NOW).await.unwrap().is_none(),
        "a failure holds the key"
    );
    subject.broker.clock().advance(Duration::from_secs(60));
    for n in 0..3 {
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(lease.payload::<i32>().unwrap(), n);
        lease.ack().await.unwrap();
    }
}

async fn a_retried_dead_letter_waits_while_a_later_job_of_its_key_runs(subject: Subject) {
    let queue = subject.broker.queue("q");
    let mut ids = Vec::new();
    for n in 1..=4 {
        ids.push(
            subject
                .broker
                .push(queue.job(&n).unwrap().key("a").retries(1))
                .await
                .unwrap()
                .id()
                .clone(),
        );
    }
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let id = first.id().clone();
    first.dead_letter("odd").await.unwrap();
    let second = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert!(subject.broker.retry(&id).await.unwrap());
    assert_eq!(state(&subject, &id).await, JobState::Blocked);
    assert!(
        queue.lease(LONG, NOW).await.unwrap().is_none(),
        "one at a time"
    );
    // The end of another one that is held changes nothing.
    assert!(subject.broker.delete(&ids[3]).await.unwrap());
    assert!(
        queue.lease(LONG, NOW).await.unwrap().is_none(),
        "one at a time"
    );
    // The second one failed and is to be tried again: now the earlier one comes first.
    second.nack("again").await.unwrap();
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(first.id(), &id);
    subject.broker.clock().advance(Duration::from_secs(20));
    assert!(
        queue.lease(LONG, NOW).await.unwrap().is_none(),
        "one at a time"
    );
    first.dead_letter("odd").await.unwrap();
    // The second one is ready: the retried one goes before it.
    assert!(subject.broker.retry(&id).await.unwrap());
    for n in 1..=3 {
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(lease.payload::<i32>().unwrap(), n);
        assert!(
            queue.lease(LONG, NOW).await.unwrap().is_none(),
            "one at a time"
        );
        lease.ack().await.unwrap();
    }
}

async fn a_dead_letter_whose_unique_mark_is_taken_is_not_retried(subject: Subject) {
    let queue = subject.broker.queue("q");
    let push = || async {
        subject
            .broker
            .push(queue.job(&1).unwrap().unique("once"))
            .await
            .unwrap()
            .id()
            .clone()
    };
    let first = push().await;
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    let second = push().await;
    let error = subject.broker.retry(&first).await.unwrap_err();
    assert_eq!(error.kind(), brigade::ErrorKind::Duplicate);
    assert!(
        error.to_string().contains(&format!("job {second} has ")),
        "{error}"
    );
    assert!(subject.broker.delete(&second).await.unwrap());
    assert!(subject.broker.retry(&first).await.unwrap());
}

async fn a_unique_mark_gives_the_job_that_is_there(subject: Subject) {
    let queue = subject.broker.queue("q");
    let push = || async {
        subject
            .broker
            .push(queue.job(&1).unwrap().unique("once"))
            .await
            .unwrap()
    };
    let first = push().await;
    assert!(matches!(first, PushOutcome::New(_)));
    assert_eq!(push().await, PushOutcome::Duplicate(first.id().clone()));
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(
        push().await,
        PushOutcome::Duplicate(first.id().clone()),
        "while it runs, too"
    );
    lease.ack().await.unwrap();
    assert!(matches!(push().await, PushOutcome::New(_)));
}

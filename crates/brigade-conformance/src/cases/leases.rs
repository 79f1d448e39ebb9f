//! Leases: one holder at a time, and what a lease that ran out leaves.

use std::time::Duration;

use brigade::{JobState, Settled};

use super::contract::state;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_lease_is_exclusive_and_an_ack_ends_it),
    case!(an_expired_lease_is_fenced_and_its_job_goes_to_the_front_uncharged: clock, listing),
    case!(a_settle_after_expiry_is_refused_even_if_nobody_took_the_job: clock),
    case!(extending_holds_a_job: clock),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn a_lease_is_exclusive_and_an_ack_ends_it(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((lease.id(), lease.attempt()), (&id, 1));
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
    let can_look = subject.broker.capabilities().listing;
    if can_look {
        assert_eq!(state(&subject, &id).await, JobState::Leased);
    }
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    if can_look {
        assert!(subject.broker.job(&id).await.unwrap().is_none());
    }
}

async fn an_expired_lease_is_fenced_and_its_job_goes_to_the_front_uncharged(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    queue.push(&2).await.unwrap();
    let late = queue.lease(LONG, NOW).await.unwrap().unwrap();
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    let again = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((again.id(), again.attempt()), (&id, 1));
    assert_eq!(late.extend(LONG).await.unwrap(), Settled::Stale);
    assert_eq!(late.ack().await.unwrap(), Settled::Stale);
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.interrupted, job.failed),
        (JobState::Leased, 1, 0)
    );
    assert_eq!(again.ack().await.unwrap(), Settled::Accepted(None));
}

async fn a_settle_after_expiry_is_refused_even_if_nobody_took_the_job(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue.push(&1).await.unwrap();
    let late = queue.lease(LONG, NOW).await.unwrap().unwrap();
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    assert_eq!(late.ack().await.unwrap(), Settled::Stale);
    assert!(queue.lease(LONG, NOW).await.unwrap().is_some());
}

async fn extending_holds_a_job(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    for _ in 0..4 {
        subject.broker.clock().advance(LONG / 2);
        assert_eq!(lease.extend(LONG).await.unwrap(), Settled::Accepted(None));
    }
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
}

//! The time in which attempts may begin, and dead letters that are given back.
//!
//! A job with `Retry::within` has no attempt after that time: it is a dead letter with the reason,
//! whether it never began, or failed and its next attempt would begin too late. A retry by a person
//! starts the time again, with all counters at zero.

use std::time::{Duration, SystemTime};

use brigade::{ErrorKind, JobState, Retry};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(no_attempt_begins_when_the_time_for_it_is_over: clock, listing),
    case!(a_job_that_nobody_took_in_time_is_set_aside: clock, listing),
    case!(the_time_of_an_earlier_job_of_a_key_may_end_and_the_next_goes_on: keys, clock),
    case!(a_job_that_is_due_too_late_is_refused: scheduling),
    case!(
        a_dead_letter_of_a_key_that_is_given_back_waits_for_the_one_that_runs:
        keys, listing, clock
    ),
    case!(a_lease_tells_what_its_holder_has_to_keep: keys, priorities),
];

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

fn within(time: Duration) -> Retry {
    Retry::exponential(Duration::from_secs(60), Duration::from_secs(60)).within(time)
}

async fn no_attempt_begins_when_the_time_for_it_is_over(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let id = broker
        .push(queue.job(&1).unwrap().retries(99).retry(within(HOUR)))
        .await
        .unwrap()
        .id()
        .clone();
    for _ in 0..3 {
        queue
            .lease(HOUR, NOW)
            .await
            .unwrap()
            .unwrap()
            .nack("no")
            .await
            .unwrap();
        assert_eq!(
            broker.job(&id).await.unwrap().unwrap().state,
            JobState::Retrying
        );
        broker.clock().advance(60 * SECOND);
    }
    // Its next attempt would begin when its time is over: that is known at once.
    let lease = queue.lease(HOUR, NOW).await.unwrap().unwrap();
    broker.clock().advance(HOUR - 240 * SECOND + 30 * SECOND);
    lease.nack_later("no", 60 * SECOND).await.unwrap();
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.failed), (JobState::Dead, 4));
    assert!(
        job.reason.as_deref().unwrap().contains("too late"),
        "{:?}",
        job.reason
    );
}

async fn a_job_that_nobody_took_in_time_is_set_aside(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let id = broker
        .push(queue.job(&1).unwrap().retry(within(HOUR)))
        .await
        .unwrap()
        .id()
        .clone();
    let pushed = broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        pushed
            .begins_by
            .unwrap()
            .duration_since(pushed.pushed_at)
            .unwrap(),
        HOUR
    );
    broker.clock().advance(HOUR + SECOND);
    assert!(queue.take(NOW).await.unwrap().is_none());
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.failed), (JobState::Dead, 0));
    assert!(
        job.reason.as_deref().unwrap().contains("no attempt began"),
        "{:?}",
        job.reason
    );

    // Given back by a person, it has all its time again.
    assert!(broker.retry(&id).await.unwrap());
    broker.clock().advance(HOUR - SECOND);
    let lease = queue.lease(2 * HOUR, NOW).await.unwrap().unwrap();
    // What has begun may go on.
    broker.clock().advance(HOUR);
    queue.take(NOW).await.unwrap();
    assert_eq!(lease.ack().await.unwrap(), brigade::Settled::Accepted(None));
}

async fn the_time_of_an_earlier_job_of_a_key_may_end_and_the_next_goes_on(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    broker
        .push(queue.job(&1).unwrap().key("a").retry(within(HOUR)))
        .await
        .unwrap();
    broker.push(queue.job(&2).unwrap().key("a")).await.unwrap();
    broker.clock().advance(HOUR + SECOND);
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "2");
}

async fn a_job_that_is_due_too_late_is_refused(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let job = || queue.job(&1).unwrap().retry(within(HOUR));
    for job in [
        job().delay(HOUR + SECOND),
        job().at(SystemTime::now() + 2 * HOUR),
    ] {
        assert_eq!(
            broker.push(job).await.unwrap_err().kind(),
            ErrorKind::BadOption
        );
    }
    broker.push(job().delay(HOUR)).await.unwrap();
}

async fn a_dead_letter_of_a_key_that_is_given_back_waits_for_the_one_that_runs(subject: Subject) {
    for fails in [true, false] {
        let (broker, queue) = (&subject.broker, subject.broker.queue(format!("q {fails}")));
        for n in 1..=2 {
            broker
                .push(queue.job(&n).unwrap().key("a").retries(1))
                .await
                .unwrap();
        }
        let first = queue.lease(HOUR, NOW).await.unwrap().unwrap();
        let id = first.id().clone();
        first.dead_letter("odd").await.unwrap();
        let second = queue.lease(HOUR, NOW).await.unwrap().unwrap();
        assert!(broker.retry(&id).await.unwrap());
        assert!(
            queue.lease(HOUR, NOW).await.unwrap().is_none(),
            "one of a key runs at a time"
        );
        let settled = if fails {
            second.nack("again").await
        } else {
            second.pass("not now").await
        };
        settled.unwrap();
        let first = queue.lease(HOUR, NOW).await.unwrap().unwrap();
        assert_eq!(first.id(), &id, "it is the first of its key again");
        broker.clock().advance(60 * SECOND);
        assert!(queue.lease(HOUR, NOW).await.unwrap().is_none());
        first.ack().await.unwrap();
        assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "2");
    }
}

async fn a_lease_tells_what_its_holder_has_to_keep(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let job = queue
        .job(&1)
        .unwrap()
        .task("t")
        .timeout(SECOND)
        .memory(1 << 20)
        .label("a name")
        .key("k")
        .priority(3)
        .retries(2);
    broker.push(job).await.unwrap();
    let lease = queue.lease(HOUR, NOW).await.unwrap().unwrap();
    assert_eq!(
        (lease.queue(), lease.task(), lease.timeout(), lease.memory()),
        ("q", Some("t"), Some(SECOND), Some(1 << 20))
    );
    assert_eq!(
        (
            lease.label(),
            lease.key(),
            lease.priority(),
            lease.retries()
        ),
        (Some("a name"), Some("k"), 3, 2)
    );
    assert_eq!((lease.attempt(), lease.crashed()), (1, 0));
    lease.ack().await.unwrap();
}

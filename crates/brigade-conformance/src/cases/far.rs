//! Times that users write to mean "never", and dates that no calendar has.

use std::time::{Duration, SystemTime};

use brigade::{ErrorKind, JobState, Retry, Settled};

use super::contract::state;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(times_without_end_hold_without_end),
    case!(a_mark_without_end_holds_after_its_job_is_done: unique, listing, results),
    case!(a_date_after_the_year_9999_is_refused_with_the_reason: scheduling),
    case!(a_far_date_is_kept: scheduling, listing),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn times_without_end_hold_without_end(subject: Subject) {
    let queue = subject.broker.queue("q");
    let retry = Retry::exponential(Duration::MAX, Duration::MAX).within(Duration::MAX);
    let job = queue
        .job(&1)
        .unwrap()
        .timeout(Duration::MAX)
        .retry(retry)
        .retries(1);
    subject.broker.push(job).await.unwrap();
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert!(
        lease.timeout() > Some(Duration::from_secs(50 * 365 * 86_400)),
        "{:?}",
        lease.timeout()
    );
    assert_eq!(
        lease.extend(Duration::MAX).await.unwrap(),
        Settled::Accepted(None)
    );
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    subject.broker.push(queue.job(&2).unwrap()).await.unwrap();
    let lease = queue.lease(Duration::MAX, LONG).await.unwrap().unwrap();
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn a_mark_without_end_holds_after_its_job_is_done(subject: Subject) {
    let queue = subject.broker.queue("q");
    let push = || {
        subject.broker.push(
            queue
                .job(&1)
                .unwrap()
                .unique_for("m", Duration::MAX)
                .keep(Duration::MAX),
        )
    };
    let id = push().await.unwrap().id().clone();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .ack()
        .await
        .unwrap();
    assert_eq!(state(&subject, &id).await, JobState::Done);
    assert_eq!(push().await.unwrap(), brigade::PushOutcome::Duplicate(id));
}

async fn a_date_after_the_year_9999_is_refused_with_the_reason(subject: Subject) {
    let queue = subject.broker.queue("q");
    let job = || queue.job(&1).unwrap();
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for job in [
        job().delay(Duration::MAX),
        job().delay(Duration::from_secs(9_000 * 366 * 86_400)),
        job().at(year_10000),
    ] {
        let error = subject.broker.push(job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption, "{error:?}");
        assert!(
            error.to_string().contains("before the year 10000"),
            "{error}"
        );
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn a_far_date_is_kept(subject: Subject) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_207_199);
    let id = subject
        .broker
        .push(subject.broker.queue("q").job(&1).unwrap().at(at))
        .await
        .unwrap()
        .id()
        .clone();
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.due_at), (JobState::Scheduled, Some(at)));
    assert!(
        subject
            .broker
            .why(&id)
            .await
            .unwrap()
            .unwrap()
            .to_string()
            .contains("it is due in")
    );
}

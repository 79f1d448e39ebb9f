//! Four views of the same jobs: `job` and `jobs`, `queues`, `why`, `check`. They tell the same
//! state at the same moment, also right after something died.

use std::time::Duration;

use brigade::{JobId, JobState};

use super::agree::agree;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(all_views_tell_the_same_state_at_every_moment: listing, clock, results, scheduling),
    case!(all_views_tell_the_same_of_a_lease_that_ran_out: listing, clock),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn all_views_tell_the_same_state_at_every_moment(Subject { broker, .. }: Subject) {
    let queue = broker.queue("q");
    let jobs = vec![
        queue.job(&1).unwrap().retries(5),
        queue.job(&2).unwrap().delay(LONG),
        queue.job(&3).unwrap().keep(LONG),
        queue.job(&4).unwrap(),
    ];
    let ids: Vec<JobId> = broker
        .push_many(jobs)
        .await
        .unwrap()
        .iter()
        .map(|pushed| pushed.id().clone())
        .collect();
    let (ready, leased) = (Some(JobState::Ready), Some(JobState::Leased));
    let scheduled = Some(JobState::Scheduled);
    assert_eq!(
        agree(&broker, &ids, "pushed").await,
        [ready, scheduled, ready, ready]
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(
        agree(&broker, &ids, "leased").await,
        [leased, scheduled, ready, ready]
    );
    lease.nack_later("no", LONG).await.unwrap();
    assert_eq!(
        agree(&broker, &ids, "failed").await,
        [Some(JobState::Retrying), scheduled, ready, ready]
    );
    let kept = queue.lease(2 * LONG, NOW).await.unwrap().unwrap();
    kept.ack().await.unwrap();
    assert_eq!(
        agree(&broker, &ids, "done").await,
        [
            Some(JobState::Retrying),
            scheduled,
            Some(JobState::Done),
            ready
        ]
    );
    // No consumer asks for jobs while the time of a delay, a pause or a result comes to its end.
    broker.clock().advance(LONG + Duration::from_secs(1));
    assert_eq!(
        agree(&broker, &ids, "all of it is due").await,
        [ready, ready, None, ready]
    );
    // Within the minute after a consumer asked, and after it.
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .pass("not here")
        .await
        .unwrap();
    assert_eq!(
        agree(&broker, &ids, "somebody asked").await,
        [ready, ready, None, ready]
    );
    broker.clock().advance(Duration::from_secs(61));
    assert_eq!(
        agree(&broker, &ids, "nobody asked for a minute").await,
        [ready, ready, None, ready]
    );
}

/// No consumer asks for jobs: only the views themselves can notice.
async fn all_views_tell_the_same_of_a_lease_that_ran_out(Subject { broker, .. }: Subject) {
    let queue = broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    broker.clock().advance(LONG + Duration::from_secs(1));
    let states = agree(&broker, std::slice::from_ref(&id), "its lease ran out").await;
    assert_eq!(states, [Some(JobState::Ready)]);
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!((job.lost, job.interrupted, job.holder), (1, 1, None));
    assert_eq!(lease.ack().await.unwrap(), brigade::Settled::Stale);
}

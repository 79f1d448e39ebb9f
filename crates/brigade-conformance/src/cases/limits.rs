//! Limits of queues and of partitions, turns of partitions, unique keys for a period.
//!
//! `running` bounds the leases at one time, a rate the starts in any stretch of time, each for a
//! queue or for each partition of it. A lease that ends or runs out frees its place, and a waiting
//! consumer is woken as soon as a limit allows the next job. `why` names the limit that holds a job
//! up.

use std::time::Duration;

use brigade::{Blocker, ErrorKind, JobId, Lease, Limits, PushOutcome, Queue};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_queue_runs_no_more_than_its_limit_and_says_so: limits, listing),
    case!(a_lease_that_runs_out_frees_its_place: limits, clock),
    case!(no_stretch_of_time_has_more_starts_than_the_rate: limits, listing, clock),
    case!(a_waiting_consumer_gets_the_next_job_as_soon_as_the_rate_allows: limits),
    case!(partitions_have_limits_of_their_own_and_hold_nobody_else: limits, listing, clock),
    case!(partitions_take_turns_where_asked: limits),
    case!(a_key_is_its_job_s_partition: limits, clock, keys),
    case!(limits_that_nothing_could_pass_are_refused: limits),
    case!(a_mark_may_hold_for_a_period: limits, clock, unique),
    case!(why_tells_what_stands_in_the_way: limits, listing, keys, pauses, priorities, scheduling),
];

const LONG: Duration = Duration::from_secs(600);
const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

/// Pushes jobs of partitions, one per letter, whose payloads are the letters with a number.
async fn push(subject: &Subject, queue: &Queue, partitions: &str) -> Vec<JobId> {
    let mut ids = Vec::new();
    for (number, partition) in partitions.chars().enumerate() {
        let job = queue
            .job(&format!("{partition}{number}"))
            .unwrap()
            .partition(partition.to_string());
        ids.push(subject.broker.push(job).await.unwrap().id().clone());
    }
    ids
}

/// Leases what may be, and names it.
async fn lease_all(queue: &Queue) -> (Vec<Lease>, String) {
    let mut leases = Vec::new();
    while let Some(lease) = queue.lease(LONG, NOW).await.unwrap() {
        leases.push(lease);
    }
    let names: Vec<String> = leases
        .iter()
        .map(|lease| lease.payload::<String>().unwrap())
        .collect();
    (leases, names.join(" "))
}

async fn reasons(subject: &Subject, id: &JobId) -> Vec<Blocker> {
    subject.broker.why(id).await.unwrap().unwrap().reasons
}

async fn a_queue_runs_no_more_than_its_limit_and_says_so(subject: Subject) {
    let queue = subject.broker.queue("q");
    let ids = push(&subject, &queue, "abcd").await;
    queue.limit(Limits::new().running(2)).await.unwrap();
    let (mut leases, names) = lease_all(&queue).await;
    assert_eq!(names, "a0 b1");
    let [
        Blocker::RunningLimit {
            partition: None,
            limit: 2,
            running: 2,
        },
    ] = &reasons(&subject, &ids[2]).await[..]
    else {
        panic!()
    };
    leases.pop().unwrap().ack().await.unwrap();
    assert_eq!(lease_all(&queue).await.1, "c2");
    queue.unlimit().await.unwrap();
    assert_eq!(lease_all(&queue).await.1, "d3");
    assert_eq!(subject.broker.queues().await.unwrap()[0].limits, None);
}

async fn a_lease_that_runs_out_frees_its_place(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue.limit(Limits::new().running(1)).await.unwrap();
    push(&subject, &queue, "ab").await;
    assert_eq!(lease_all(&queue).await.1, "a0");
    subject.broker.clock().advance(LONG + MINUTE);
    assert_eq!(
        lease_all(&queue).await.1,
        "a0",
        "it has its place back, and is counted once"
    );
}

async fn no_stretch_of_time_has_more_starts_than_the_rate(subject: Subject) {
    let queue = subject.broker.queue("q");
    let ids = push(&subject, &queue, "abcdefgh").await;
    queue.limit(Limits::new().starts(3, MINUTE)).await.unwrap();
    for lease in lease_all(&queue).await.0 {
        lease.ack().await.unwrap();
    }
    let [
        Blocker::RateLimit {
            partition: None,
            rate,
            free_in,
        },
        ..,
    ] = &reasons(&subject, &ids[3]).await[..]
    else {
        panic!()
    };
    assert!(rate.starts == 3 && *free_in <= MINUTE, "{free_in:?}");
    subject.broker.clock().advance(MINUTE / 2);
    assert_eq!(lease_all(&queue).await.1, "", "settling frees no start");
    subject
        .broker
        .clock()
        .advance(MINUTE / 2 + Duration::from_secs(1));
    assert_eq!(lease_all(&queue).await.1, "d3 e4 f5");
    assert!(
        queue.take(NOW).await.unwrap().is_none(),
        "a take is a start as well"
    );
}

async fn a_waiting_consumer_gets_the_next_job_as_soon_as_the_rate_allows(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue
        .limit(Limits::new().starts(1, Duration::from_millis(300)))
        .await
        .unwrap();
    push(&subject, &queue, "ab").await;
    assert!(queue.take(NOW).await.unwrap().is_some());
    assert!(queue.take(MINUTE).await.unwrap().is_some());
}

async fn partitions_have_limits_of_their_own_and_hold_nobody_else(subject: Subject) {
    let queue = subject.broker.queue("q");
    let ids = push(&subject, &queue, "aaabac").await;
    queue
        .limit(Limits::new().running_per_partition(2))
        .await
        .unwrap();
    let (mut leases, names) = lease_all(&queue).await;
    assert_eq!(
        names, "a0 a1 b3 c5",
        "in the order of the pushes, without those that may not"
    );
    let [
        Blocker::RunningLimit {
            partition: Some(partition),
            limit: 2,
            running: 2,
        },
    ] = &reasons(&subject, &ids[2]).await[..]
    else {
        panic!()
    };
    assert_eq!(partition, "a");
    leases.swap_remove(0).ack().await.unwrap();
    assert_eq!(lease_all(&queue).await.1, "a2");

    let queue = subject.broker.queue("rated");
    queue
        .limit(Limits::new().starts_per_partition(1, MINUTE))
        .await
        .unwrap();
    push(&subject, &queue, "aabab").await;
    assert_eq!(lease_all(&queue).await.1, "a0 b2");
    subject
        .broker
        .clock()
        .advance(MINUTE + Duration::from_secs(1));
    assert_eq!(lease_all(&queue).await.1, "a1 b4");
}

async fn partitions_take_turns_where_asked(subject: Subject) {
    let queue = subject.broker.queue("q");
    push(&subject, &queue, "aaaaabbc").await;
    queue.push(&"none").await.unwrap();
    queue.limit(Limits::new().turns()).await.unwrap();
    let mut names = Vec::new();
    while let Some(job) = queue.take(NOW).await.unwrap() {
        names.push(job.payload::<String>().unwrap());
    }
    assert_eq!(names.join(" "), "a0 b5 c7 none a1 b6 a2 a3 a4");
    // A batch takes turns, too, and goes on where the one before stopped.
    queue
        .limit(Limits::new().turns().running_per_partition(1))
        .await
        .unwrap();
    push(&subject, &queue, "aabb").await;
    let mut names: Vec<String> = lease_all(&queue)
        .await
        .1
        .split(' ')
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, ["a0", "b2"]);
}

async fn a_key_is_its_job_s_partition(subject: Subject) {
    let queue = subject.broker.queue("q");
    queue
        .limit(Limits::new().starts_per_partition(1, MINUTE))
        .await
        .unwrap();
    for name in ["x0", "x1"] {
        subject
            .broker
            .push(queue.job(&name).unwrap().key("x"))
            .await
            .unwrap();
    }
    assert_eq!(
        queue
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .payload::<String>()
            .unwrap(),
        "x0"
    );
    assert!(queue.take(NOW).await.unwrap().is_none());
    subject
        .broker
        .clock()
        .advance(MINUTE + Duration::from_secs(1));
    assert_eq!(
        queue
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .payload::<String>()
            .unwrap(),
        "x1"
    );
}

async fn limits_that_nothing_could_pass_are_refused(subject: Subject) {
    let queue = subject.broker.queue("q");
    let day = Duration::from_secs(24 * 3600);
    for limits in [
        Limits::new().running(0),
        Limits::new().running_per_partition(0),
        Limits::new().starts(0, MINUTE),
        Limits::new().starts(100_001, MINUTE),
        Limits::new().starts_per_partition(1, NOW),
        Limits::new().starts_per_partition(1, 32 * day),
    ] {
        assert_eq!(
            queue.limit(limits).await.unwrap_err().kind(),
            ErrorKind::BadOption,
            "{limits:?}"
        );
    }
    queue
        .limit(Limits::new().starts(100_000, 31 * day))
        .await
        .unwrap();
}

async fn a_mark_may_hold_for_a_period(subject: Subject) {
    let queue = subject.broker.queue("q");
    let push = || async {
        subject
            .broker
            .push(queue.job(&1).unwrap().unique_for("daily", LONG))
            .await
            .unwrap()
    };
    let first = push().await;
    queue.take(NOW).await.unwrap().unwrap();
    assert_eq!(
        push().await,
        PushOutcome::Duplicate(first.id().clone()),
        "its job is gone, and the unique key holds"
    );
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    let second = push().await;
    assert!(matches!(second, PushOutcome::New(_)));
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    assert_eq!(
        push().await,
        PushOutcome::Duplicate(second.id().clone()),
        "its job is not settled"
    );
}

async fn why_tells_what_stands_in_the_way(subject: Subject) {
    let broker = &subject.broker;
    let queue = broker.queue("q");
    assert!(broker.why(&JobId::new("77")).await.unwrap().is_none());
    let push = async |job| broker.push(job).await.unwrap().id().clone();
    let job = |number: u32| queue.job(&number).unwrap();
    let first = push(job(1).key("k")).await;
    let second = push(job(2).key("k").priority(9)).await;
    let third = push(job(3)).await;
    let later = push(job(4).delay(LONG)).await;
    assert!(
        matches!(
            reasons(&subject, &first).await[..],
            [Blocker::NoConsumer { .. }]
        ),
        "nobody has asked yet"
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();

    let [
        Blocker::Running {
            holder,
            lease_left,
            cancel: None,
        },
    ] = &reasons(&subject, &first).await[..]
    else {
        panic!()
    };
    assert!(!holder.is_empty() && *lease_left <= LONG);
    let [Blocker::Key { key, job, .. }] = &reasons(&subject, &second).await[..] else {
        panic!()
    };
    assert_eq!((key.as_str(), job), ("k", &first));
    assert_eq!(
        reasons(&subject, &third).await,
        [],
        "the next that asks gets it"
    );
    assert!(matches!(
        &reasons(&subject, &later).await[..],
        [Blocker::NotDue { last: None, .. }]
    ));

    lease.nack("no").await.unwrap();
    assert!(
        matches!(&reasons(&subject, &first).await[..], [Blocker::Ended { reason: Some(reason) }] if reason == "no")
    );
    assert!(matches!(
        reasons(&subject, &third).await[..],
        [Blocker::Behind { jobs: 1 }]
    ));
    queue.pause().await.unwrap();
    assert!(matches!(
        reasons(&subject, &second).await[..],
        [Blocker::Paused]
    ));
    let words = broker.why(&third).await.unwrap().unwrap().to_string();
    assert_eq!(
        words,
        format!(
            "job {third} of queue q is ready: 1 ready job comes before it; its queue is \
                        paused"
        )
    );
}

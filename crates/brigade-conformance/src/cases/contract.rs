//! The contract in its simplest form: jobs are pushed, handed out, and settled in each way.
//!
//! Jobs come in the order of their pushes, each to one holder. A batch is stored whole or not at
//! all, and names and sizes are checked first. Failures are retried after pauses and end as dead
//! letters; passes and jobs that are given back are not charged. Most cases look at the job after
//! each step, so they need `listing`; `real_time` has what can be seen without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brigade::policy::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use brigade::{AttemptKind, JobId, JobState, Retry, Settled};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(take_hands_out_in_push_order_and_removes),
    case!(a_batch_is_stored_whole_or_not_at_all),
    case!(a_payload_at_the_limit_fits),
    case!(failures_are_retried_after_a_pause_and_end_as_a_dead_letter: clock, listing),
    case!(a_pass_costs_no_attempt_and_keeps_the_place: listing),
    case!(what_is_passed_for_later_or_given_back_is_not_charged: clock, listing),
    case!(history_is_bounded: listing),
    case!(dead_letters_wait_for_a_person: listing),
    case!(priorities_come_first_and_order_holds_within_them: priorities),
    case!(delayed_jobs_come_when_they_are_due: clock, listing, scheduling),
    case!(results_are_kept_as_long_as_was_asked: results, listing, clock),
    case!(a_call_that_is_dropped_while_it_is_pushed_is_cancelled_too: results, listing),
    case!(a_paused_queue_hands_out_nothing_and_loses_nothing: pauses, listing),
    case!(counts_tell_every_state: listing, scheduling),
    case!(many_consumers_get_each_job_once),
    case!(many_consumers_that_wait_get_each_job_once),
    case!(names_are_checked),
    case!(texts_of_a_job_are_bounded),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

pub(crate) async fn state(subject: &Subject, id: &JobId) -> JobState {
    subject.broker.job(id).await.unwrap().unwrap().state
}

async fn take_hands_out_in_push_order_and_removes(subject: Subject) {
    let queue = subject.broker.queue("emails");
    for n in 0..100 {
        queue.push(&json!({ "n": n })).await.unwrap();
    }
    for n in 0..100 {
        let job = queue.take(NOW).await.unwrap().unwrap();
        assert_eq!(job.payload::<Value>().unwrap()["n"], n);
        if subject.broker.capabilities().listing {
            assert!(subject.broker.job(job.id()).await.unwrap().is_none());
        }
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
}

async fn a_batch_is_stored_whole_or_not_at_all(subject: Subject) {
    let queue = subject.broker.queue("q");
    let good: Vec<_> = (0..50).map(|n| queue.job(&n).unwrap()).collect();
    assert_eq!(subject.broker.push_many(good).await.unwrap().len(), 50);
    let too_large = "x".repeat(subject.broker.capabilities().payload_bytes_max);
    let bad = vec![queue.job(&1).unwrap(), queue.job(&too_large).unwrap()];
    assert_eq!(
        subject.broker.push_many(bad).await.unwrap_err().kind(),
        brigade::ErrorKind::TooLarge
    );
    assert_eq!(queue.purge().await.unwrap(), 50);
}

async fn a_payload_at_the_limit_fits(subject: Subject) {
    let queue = subject.broker.queue("q");
    let text = "x".repeat(subject.broker.capabilities().payload_bytes_max - 2);
    queue.push(&text).await.unwrap();
    assert_eq!(
        queue
            .take(NOW)
            .await
            .unwrap()
            .unwrap()
            .payload::<String>()
            .unwrap()
            .len(),
        text.len()
    );
}

async fn failures_are_retried_after_a_pause_and_end_as_a_dead_letter(subject: Subject) {
    let queue = subject.broker.queue("q");
    // Longer than the steps between two looks take, however busy the machine is.
    let pause = Retry::exponential(Duration::from_secs(30), Duration::from_secs(30));
    let id = subject
        .broker
        .push(queue.job(&1).unwrap().retries(2).retry(pause))
        .await
        .unwrap()
        .id()
        .clone();
    for attempt in 1..=3 {
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(lease.attempt(), attempt);
        lease.nack(format!("no {attempt}")).await.unwrap();
        if attempt < 3 {
            assert_eq!(state(&subject, &id).await, JobState::Retrying);
            assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
            subject.broker.clock().advance(Duration::from_secs(60));
        }
    }
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.failed, job.reason.as_deref()),
        (JobState::Dead, 3, Some("no 3"))
    );
    assert_eq!(
        job.history
            .iter()
            .map(|record| record.attempt)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(subject.broker.retry(&id).await.unwrap());
    assert!(!subject.broker.retry(&id).await.unwrap());
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((lease.id(), lease.attempt()), (&id, 1));
    lease.ack().await.unwrap();
}

async fn a_pass_costs_no_attempt_and_keeps_the_place(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    queue.push(&2).await.unwrap();
    for _ in 0..5 {
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!((lease.id(), lease.attempt()), (&id, 1));
        lease.pass("reloading").await.unwrap();
    }
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.failed, job.crashed, job.interrupted),
        (JobState::Ready, 0, 0, 0)
    );
    assert_eq!(job.history.len(), 5);
}

async fn what_is_passed_for_later_or_given_back_is_not_charged(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    lease.clone().pass_later("reloading", LONG).await.unwrap();
    assert_eq!(
        lease.ack().await.unwrap(),
        Settled::Stale,
        "a clone settles nothing twice"
    );
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .give_back("a deploy")
        .await
        .unwrap();
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.failed, job.interrupted),
        (JobState::Ready, 0, 1)
    );
    let kinds: Vec<_> = job.history.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [AttemptKind::Passed, AttemptKind::Interrupted]);
    assert_eq!(queue.lease(LONG, NOW).await.unwrap().unwrap().attempt(), 1);
}

async fn history_is_bounded(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    for n in 0..30 {
        queue
            .lease(LONG, NOW)
            .await
            .unwrap()
            .unwrap()
            .pass(n)
            .await
            .unwrap();
    }
    let history = subject.broker.job(&id).await.unwrap().unwrap().history;
    assert_eq!(
        (
            history.len(),
            history[0].reason.as_str(),
            history[19].reason.as_str()
        ),
        (20, "10", "29")
    );
}

async fn dead_letters_wait_for_a_person(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    assert!(queue.lease(LONG, NOW).await.unwrap().is_none());
    let dead = subject
        .broker
        .jobs(Some("q"), Some(JobState::Dead), None, 10)
        .await
        .unwrap();
    assert_eq!(dead.iter().map(|job| &job.id).collect::<Vec<_>>(), [&id]);
    assert!(subject.broker.delete(&id).await.unwrap());
    assert!(subject.broker.job(&id).await.unwrap().is_none());
}

async fn priorities_come_first_and_order_holds_within_them(subject: Subject) {
    let queue = subject.broker.queue("q");
    let (lowest, highest) = subject.broker.capabilities().priority_range;
    let (low, middle, high) = (lowest.max(-1), lowest.max(-1) + 1, highest.min(5));
    for (n, priority) in [(1, middle), (2, high), (3, middle), (4, high), (5, low)] {
        subject
            .broker
            .push(queue.job(&n).unwrap().priority(priority))
            .await
            .unwrap();
    }
    let mut order = Vec::new();
    while let Some(job) = queue.take(NOW).await.unwrap() {
        order.push(job.payload::<i32>().unwrap());
    }
    assert_eq!(order, [2, 4, 1, 3, 5]);
}

async fn delayed_jobs_come_when_they_are_due(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = subject
        .broker
        .push(queue.job(&1).unwrap().delay(Duration::from_secs(3600)))
        .await
        .unwrap()
        .id()
        .clone();
    assert_eq!(state(&subject, &id).await, JobState::Scheduled);
    assert!(queue.take(NOW).await.unwrap().is_none());
    subject.broker.clock().advance(Duration::from_secs(3601));
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().id(), &id);
}

async fn results_are_kept_as_long_as_was_asked(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = subject
        .broker
        .push(queue.job(&1).unwrap().keep(LONG))
        .await
        .unwrap()
        .id()
        .clone();
    let waiting = subject.broker.wait(&id);
    let working = async {
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        lease.ack_with(&json!({"answer": 42})).await.unwrap();
    };
    let (job, ()) = tokio::join!(waiting, working);
    let job = job.unwrap().unwrap();
    assert_eq!(
        (job.state, job.result.as_deref()),
        (JobState::Done, Some(r#"{"answer":42}"#))
    );
    subject
        .broker
        .clock()
        .advance(LONG + Duration::from_secs(1));
    queue.take(NOW).await.unwrap();
    assert!(subject.broker.job(&id).await.unwrap().is_none());
}

async fn a_call_that_is_dropped_while_it_is_pushed_is_cancelled_too(subject: Subject) {
    let call = || {
        subject
            .broker
            .call(brigade::Call::<i32>::json("q", &json!([1])))
    };
    // One poll sends the push; no caller reads its answer.
    for _ in 0..5 {
        assert!(tokio::time::timeout(NOW, call()).await.is_err());
    }
    let cancelled = async {
        while subject
            .broker
            .jobs(Some("q"), Some(JobState::Cancelled), None, 10)
            .await
            .unwrap()
            .len()
            < 5
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, cancelled)
        .await
        .expect("all are cancelled");
    assert!(subject.broker.queue("q").take(NOW).await.unwrap().is_none());
}

async fn a_paused_queue_hands_out_nothing_and_loses_nothing(subject: Subject) {
    let (queue, other) = (subject.broker.queue("q"), subject.broker.queue("other"));
    queue.pause().await.unwrap();
    queue.push(&1).await.unwrap();
    other.push(&2).await.unwrap();
    assert!(queue.take(NOW).await.unwrap().is_none());
    assert!(other.take(NOW).await.unwrap().is_some());
    assert!(
        subject
            .broker
            .queues()
            .await
            .unwrap()
            .iter()
            .any(|counts| counts.queue == "q" && counts.paused)
    );
    queue.resume().await.unwrap();
    assert!(queue.take(NOW).await.unwrap().is_some());
}

async fn counts_tell_every_state(subject: Subject) {
    let queue = subject.broker.queue("q");
    for n in 0..3 {
        queue.push(&n).await.unwrap();
    }
    subject
        .broker
        .push(queue.job(&9).unwrap().delay(LONG))
        .await
        .unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let counts = subject.broker.queues().await.unwrap();
    assert_eq!(counts.len(), 1);
    let mut jobs = counts[0].jobs.clone();
    jobs.sort_by_key(|(state, _)| state.to_string());
    assert_eq!(
        jobs,
        [
            (JobState::Leased, 1),
            (JobState::Ready, 2),
            (JobState::Scheduled, 1)
        ]
    );
    lease.ack().await.unwrap();
}

async fn many_consumers_get_each_job_once(subject: Subject) {
    get_each_job_once(subject, NOW).await;
}

async fn many_consumers_that_wait_get_each_job_once(subject: Subject) {
    get_each_job_once(subject, Duration::from_millis(50)).await;
}

async fn get_each_job_once(subject: Subject, wait: Duration) {
    let queue = subject.broker.queue("q");
    let jobs: Vec<_> = (0..500).map(|n| queue.job(&n).unwrap()).collect();
    subject.broker.push_many(jobs).await.unwrap();
    let left = Arc::new(AtomicUsize::new(500));
    let consumers = (0..8).map(|_| {
        let (queue, left) = (queue.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            let mut mine = Vec::new();
            while left.load(Ordering::Relaxed) > 0 {
                let Some(lease) = queue.lease(LONG, wait).await.unwrap() else {
                    if wait.is_zero() {
                        break;
                    }
                    continue;
                };
                mine.push(lease.payload::<u32>().unwrap());
                assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
                left.fetch_sub(1, Ordering::Relaxed);
            }
            mine
        })
    });
    let mut all = Vec::new();
    for consumer in consumers.collect::<Vec<_>>() {
        let mine = consumer.await.unwrap();
        assert!(
            mine.is_sorted(),
            "each consumer sees the order of the pushes"
        );
        all.extend(mine);
    }
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<_>>());
}

async fn names_are_checked(subject: Subject) {
    for name in ["", "a\nb", &"x".repeat(201)] {
        let error = subject.broker.queue(name).push(&1).await.unwrap_err();
        assert_eq!(error.kind(), brigade::ErrorKind::BadOption);
    }
    subject
        .broker
        .queue("x".repeat(200))
        .push(&1)
        .await
        .unwrap();
}

async fn texts_of_a_job_are_bounded(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let long = || "x".repeat(KEY_BYTES_MAX + 1);
    let job = || queue.job(&1).unwrap();
    for wrong in [
        job().key(long()),
        job().unique(long()),
        job().partition(long()),
        job().label(long()),
        job().task("x".repeat(NAME_BYTES_MAX + 1)),
    ] {
        let error = broker.push(wrong).await.unwrap_err();
        assert_eq!(error.kind(), brigade::ErrorKind::BadOption, "{error}");
    }
    let label = "x".repeat(KEY_BYTES_MAX);
    let task = "x".repeat(NAME_BYTES_MAX);
    let longest = job().label(label.as_str()).task(task.as_str());
    broker.push(longest).await.unwrap();
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!((lease.label(), lease.task()), (Some(&*label), Some(&*task)));
    lease.ack().await.unwrap();
}

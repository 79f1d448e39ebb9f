//! Dead letters that are changed before they are tried again.
//!
//! A retry with an edit is one step: either the job has all of the changes and is ready, or nothing
//! has happened. The payload, the task and the queue can change; the history and the options stay.
//! A job of a flow stays in its queue, because the other jobs of the flow know where it is.

use std::time::Duration;

use brigade::{Chain, Edit, ErrorKind, JobId, JobState, Limits, PushOutcome, Queue};
use serde_json::{Value, json};

use super::contract::state;
use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_dead_letter_is_tried_again_with_another_payload_and_task: listing),
    case!(a_dead_letter_is_tried_again_in_another_queue: listing, keys, unique, limits),
    case!(an_edit_that_is_refused_changes_nothing: listing, unique),
    case!(a_job_of_a_flow_may_be_changed_but_stays_in_its_queue: listing, flows),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

async fn dead_letter(subject: &Subject, job: brigade::Job) -> JobId {
    let queue = subject.broker.queue("q");
    let id = subject.broker.push(job).await.unwrap().id().clone();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    id
}

async fn a_dead_letter_is_tried_again_with_another_payload_and_task(subject: Subject) {
    let queue = subject.broker.queue("q");
    let id = dead_letter(
        &subject,
        queue
            .job(&json!({"to": "nobody"}))
            .unwrap()
            .task("old")
            .retries(2),
    )
    .await;
    let edit = Edit::new()
        .payload(&json!({"to": "ann"}))
        .unwrap()
        .task("new");
    assert_eq!(
        subject.broker.retry_with(&id, edit.clone()).await.unwrap(),
        Some(id.clone())
    );
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (
            job.state,
            job.failed,
            job.task.as_deref(),
            job.history.len()
        ),
        (JobState::Ready, 0, Some("new"), 1)
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(lease.payload::<Value>().unwrap(), json!({"to": "ann"}));
    // What was not given stays: it has its retries.
    lease.nack("again").await.unwrap();
    assert_eq!(state(&subject, &id).await, JobState::Retrying);
    assert_eq!(
        subject.broker.retry_with(&id, edit).await.unwrap(),
        None,
        "it is no dead letter"
    );
    assert_eq!(
        subject.broker.job(&id).await.unwrap().unwrap().payload,
        r#"{"to":"ann"}"#
    );
}

async fn a_dead_letter_is_tried_again_in_another_queue(subject: Subject) {
    let (queue, other) = (subject.broker.queue("q"), subject.broker.queue("other"));
    other
        .limit(Limits::new().running_per_partition(1))
        .await
        .unwrap();
    let id = dead_letter(
        &subject,
        queue.job(&7).unwrap().key("k").unique("m").label("mine"),
    )
    .await;
    // That queue was empty before and is again: a job that moves there gets no id that
    // another had.
    let had = subject
        .broker
        .push(other.job(&0).unwrap())
        .await
        .unwrap()
        .id()
        .clone();
    other.take(NOW).await.unwrap().unwrap();
    let id = subject
        .broker
        .retry_with(&id, Edit::new().queue("other"))
        .await
        .unwrap()
        .unwrap();
    assert_ne!(id, had);
    let job = subject.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (
            &*job.queue,
            job.state,
            job.label.as_deref(),
            job.history.len()
        ),
        ("other", JobState::Ready, Some("mine"), 1)
    );
    assert!(
        queue.take(NOW).await.unwrap().is_none(),
        "it has left its queue"
    );
    assert!(
        subject
            .broker
            .jobs(Some("q"), None, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    keeps_its_keys(&subject, &other, &id).await;
    let lease = other.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((lease.id(), lease.payload::<i32>().unwrap()), (&id, 7));
    lease.ack().await.unwrap();
    let next = other.take(NOW).await.unwrap().unwrap();
    assert_eq!(next.payload::<i32>().unwrap(), 9);
}

/// Pushes two jobs to the queue that the job has moved to: one with its unique key, one with its
/// key.
async fn keeps_its_keys(subject: &Subject, other: &Queue, id: &JobId) {
    let again = subject
        .broker
        .push(other.job(&8).unwrap().unique("m"))
        .await
        .unwrap();
    assert_eq!(
        again,
        PushOutcome::Duplicate(id.clone()),
        "its unique key is with it"
    );
    let later = subject
        .broker
        .push(other.job(&9).unwrap().key("k"))
        .await
        .unwrap()
        .id()
        .clone();
    assert_eq!(
        state(subject, &later).await,
        JobState::Blocked,
        "and so is its key"
    );
}

async fn an_edit_that_is_refused_changes_nothing(subject: Subject) {
    let (queue, broker) = (subject.broker.queue("q"), &subject.broker);
    let id = dead_letter(&subject, queue.job(&1).unwrap().unique("m")).await;
    let taken = broker
        .push(broker.queue("other").job(&2).unwrap().unique("m"))
        .await
        .unwrap()
        .id()
        .clone();
    let edit = Edit::new().payload(&3).unwrap().task("t").queue("other");
    let error = broker.retry_with(&id, edit).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Duplicate && error.to_string().contains(taken.as_str()),
        "{error:?}"
    );
    let too_large = "x".repeat(broker.capabilities().payload_bytes_max);
    let error = broker
        .retry_with(&id, Edit::new().payload(&too_large).unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = broker
        .retry_with(&id, Edit::new().queue(""))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadOption);
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, &*job.payload, job.task, &*job.queue),
        (JobState::Dead, "1", None, "q")
    );
}

async fn a_job_of_a_flow_may_be_changed_but_stays_in_its_queue(subject: Subject) {
    let (queue, broker) = (subject.broker.queue("q"), &subject.broker);
    let step = |n: i32| queue.job(&[n]).unwrap();
    broker
        .push_flow(Chain::new(step(1)).then_job(step(2)))
        .await
        .unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let id = lease.id().clone();
    lease.dead_letter("odd").await.unwrap();
    let error = broker
        .retry_with(&id, Edit::new().queue("other"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(
        broker
            .retry_with(&id, Edit::new().payload(&[10]).unwrap())
            .await
            .unwrap(),
        Some(id)
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(lease.json(), "[10]");
    lease.ack_with(&20).await.unwrap();
    assert!(
        queue
            .lease(LONG, NOW)
            .await
            .unwrap()
            .unwrap()
            .json()
            .contains('2'),
        "the rest goes on"
    );
}

//! Options of the jobs of a flow: delays, times to begin, keys.
//!
//! A delay and the time in which attempts may begin count from the moment when the job goes on,
//! which is when its parents have ended, not from the push. Keys hold between the jobs of a flow
//! and all others of the queue.

use std::time::Duration;

use brigade::{Chain, JobState};
use serde_json::json;

use super::flows::{LONG, NOW, job, lease, nothing_is_ready, push, run, states};
use crate::case::{Case, case};
use crate::subject::Subject;

use JobState::{Blocked, Dead, Ready, Scheduled};

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(
        a_step_keeps_its_options_its_delay_begins_when_it_goes_on:
        flows, listing, clock, scheduling
    ),
    case!(the_time_that_a_step_has_to_begin_in_begins_when_it_goes_on: flows, listing, clock),
    case!(keys_hold_within_flows_and_beside_them: flows, listing, keys),
    case!(
        a_delayed_step_that_falls_due_waits_for_a_later_job_of_its_key_that_runs:
        flows, listing, clock, keys, scheduling
    ),
];

async fn a_step_keeps_its_options_its_delay_begins_when_it_goes_on(
    Subject { broker, .. }: Subject,
) {
    let step = || job(&broker, &json!([]));
    let chain = Chain::new(step())
        .then_job(step())
        .with(|job| job.delay(LONG).retries(1))
        .then_job(step());
    let ids = push(&broker, chain).await;
    broker.clock().advance(LONG * 2);
    run(&broker, &json!([]), &json!(1)).await;
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(Scheduled), Some(Blocked)]
    );
    assert!(nothing_is_ready(&broker).await);
    broker.clock().advance(LONG + Duration::from_secs(1));
    lease(&broker).await.nack("again").await.unwrap();
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(JobState::Retrying), Some(Blocked)]
    );
    broker.clock().advance(LONG);
    lease(&broker).await.nack("and again").await.unwrap();
    assert_eq!(states(&broker, &ids).await, [None, Some(Dead), Some(Dead)]);
    assert!(broker.retry(&ids[1]).await.unwrap());
    run(&broker, &json!([1]), &json!(2)).await;
    run(&broker, &json!([2]), &json!(3)).await;
}

async fn the_time_that_a_step_has_to_begin_in_begins_when_it_goes_on(
    Subject { broker, .. }: Subject,
) {
    let step = || job(&broker, &json!([]));
    let window = brigade::Retry::default().within(LONG);
    let ids = push(
        &broker,
        Chain::new(step())
            .then_job(step())
            .with(|job| job.retry(window))
            .then_job(step()),
    )
    .await;
    broker.clock().advance(LONG * 2);
    assert_eq!(
        states(&broker, &ids).await,
        [Some(Ready), Some(Blocked), Some(Blocked)]
    );
    run(&broker, &json!([]), &json!(1)).await;
    assert_eq!(
        states(&broker, &ids).await,
        [None, Some(Ready), Some(Blocked)]
    );
    broker.clock().advance(LONG * 2);
    assert!(nothing_is_ready(&broker).await);
    assert_eq!(states(&broker, &ids).await, [None, Some(Dead), Some(Dead)]);
    assert!(broker.retry(&ids[1]).await.unwrap());
    run(&broker, &json!([1]), &json!(2)).await;
    run(&broker, &json!([2]), &json!(3)).await;
}

async fn keys_hold_within_flows_and_beside_them(Subject { broker, .. }: Subject) {
    let keyed = |n: i32| job(&broker, &json!([n])).key("tenant");
    let ids = push(&broker, Chain::new(keyed(1)).then_job(keyed(2))).await;
    let later = broker.push(keyed(3)).await.unwrap().id().clone();
    run(&broker, &json!([1]), &json!("r")).await;
    let second = lease(&broker).await;
    assert_eq!(second.id(), &ids[1]);
    assert!(nothing_is_ready(&broker).await, "one at a time");
    second.dead_letter("odd").await.unwrap();
    let third = lease(&broker).await;
    assert_eq!(third.id(), &later);
    third.ack().await.unwrap();

    // One that waits again for its flow holds later ones of its key again, but none that runs.
    let ids = push(
        &broker,
        Chain::new(job(&broker, &json!([1]))).then_job(keyed(2)),
    )
    .await;
    let later = [
        broker.push(keyed(3)).await.unwrap().id().clone(),
        broker.push(keyed(4)).await.unwrap().id().clone(),
    ];
    lease(&broker).await.dead_letter("odd").await.unwrap();
    let running = lease(&broker).await;
    assert_eq!(running.id(), &later[0]);
    assert!(broker.retry(&ids[0]).await.unwrap());
    run(&broker, &json!([1]), &json!("r")).await;
    assert_eq!(
        states(&broker, &[ids[1].clone(), later[1].clone()]).await,
        [Some(Blocked), Some(Blocked)]
    );
    assert!(nothing_is_ready(&broker).await, "one at a time");
    running.ack().await.unwrap();
    run(&broker, &json!(["r", 2]), &json!(null)).await;
    run(&broker, &json!([4]), &json!(null)).await;
}

async fn a_delayed_step_that_falls_due_waits_for_a_later_job_of_its_key_that_runs(
    Subject { broker, .. }: Subject,
) {
    let keyed = |n: i32| job(&broker, &json!([n])).key("tenant");
    let ids = push(
        &broker,
        Chain::new(job(&broker, &json!([1]))).then_job(keyed(2).delay(LONG)),
    )
    .await;
    broker.push(keyed(3)).await.unwrap();
    lease(&broker).await.dead_letter("odd").await.unwrap();
    let running = broker
        .queue("q")
        .lease(LONG * 100, NOW)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(running.payload::<[i32; 1]>().unwrap(), [3]);
    assert!(broker.retry(&ids[0]).await.unwrap());
    run(&broker, &json!([1]), &json!("r")).await;
    assert_eq!(states(&broker, &ids).await, [None, Some(Scheduled)]);
    broker.clock().advance(LONG * 2);
    assert!(nothing_is_ready(&broker).await, "one at a time");
    running.ack().await.unwrap();
    run(&broker, &json!(["r", 2]), &json!(null)).await;
}

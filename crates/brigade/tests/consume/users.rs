//! A user's tests: what `brigade::testing` is for.

use brigade::{JobState, testing};
use serde_json::json;

use crate::*;

/// The code under test.
async fn order(broker: &Broker, number: i64) {
    broker.push(add(number, 1).priority(3)).await.unwrap();
    broker
        .queue("emails")
        .push(&json!({"email": "ann@example.org"}))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_pushed_is_asserted() {
    let broker = testing::broker().await;
    order(&broker, 41).await;
    testing::assert_pushed(&broker, add(41, 1)).await;
    testing::assert_pushed(
        &broker,
        broker
            .queue("emails")
            .job(&json!({"email": "ann@example.org"}))
            .unwrap(),
    )
    .await;
    let pushed = testing::pushed(&broker, "add").await;
    assert_eq!(
        (
            pushed.len(),
            pushed[0].task(),
            pushed[0].args::<(i64, i64)>()
        ),
        (1, Some("add"), (41, 1))
    );
    assert_eq!(
        (pushed[0].json(), pushed[0].job().priority),
        (json!([41, 1]), 3)
    );
    assert!(testing::pushed(&broker, "nothing").await.is_empty());
}

#[tokio::test]
async fn what_was_pushed_instead_is_shown() {
    let broker = testing::broker().await;
    order(&broker, 41).await;
    let told = {
        let broker = broker.clone();
        let failed = tokio::spawn(async move { testing::assert_pushed(&broker, add(41, 2)).await })
            .await
            .unwrap_err();
        *failed.into_panic().downcast::<String>().unwrap()
    };
    for part in [
        "users.rs",
        "add [41,2] in queue \"add\"",
        "\n  add [41,1] in queue \"add\", ready",
        "\n  (no task) {\"email\":\"ann@example.org\"}",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let empty = testing::broker().await;
    let failed = tokio::spawn(async move { testing::assert_pushed(&empty, add(1, 2)).await })
        .await
        .unwrap_err();
    assert!(
        failed
            .into_panic()
            .downcast::<String>()
            .unwrap()
            .ends_with("\n  nothing")
    );
}

#[tokio::test]
async fn what_is_due_is_run_and_the_clock_is_moved() {
    let broker = testing::broker().await;
    let later = broker
        .push(add(1, 2).delay(20 * LONG).keep(100 * LONG))
        .await
        .unwrap()
        .id()
        .clone();
    let fails = broker
        .push(fails("no".to_owned()).retries(1))
        .await
        .unwrap()
        .id()
        .clone();
    let served = testing::drain(&broker).await;
    assert_eq!((served.done, served.failed), (0, 1));
    assert_eq!(
        broker.job(&fails).await.unwrap().unwrap().state,
        JobState::Retrying
    );
    broker.clock().advance(21 * LONG);
    let served = testing::drain(&broker).await;
    assert_eq!((served.done, served.failed), (1, 1));
    assert_eq!(
        broker.job(&later).await.unwrap().unwrap().result.as_deref(),
        Some("3")
    );
    assert_eq!(
        broker.job(&fails).await.unwrap().unwrap().state,
        JobState::Dead
    );
}

#[tokio::test]
async fn it_runs_in_worker_processes_too() {
    let (broker, pool) = (
        testing::broker().await,
        Pool::builder().workers(1).start().await.unwrap(),
    );
    order(&broker, 1).await;
    assert_eq!(
        broker
            .consumer()
            .on(&pool)
            .run_until_empty()
            .await
            .unwrap()
            .done,
        2
    );
    pool.shutdown().await;
}

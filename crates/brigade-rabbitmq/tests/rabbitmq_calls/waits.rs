//! How long a call waits for a worker, and how it ends then.
//!
//! `queue_timeout` limits the time until a worker begins. Without a worker at the queue a call ends
//! as `TimedOut(NoWorker)`, with busy workers as `TimedOut(Queue)`, and it is not run later. A call
//! that has begun is not ended by it.

use brigade::{Call, CallError, TimedOut};

use crate::stage::*;

#[tokio::test]
async fn without_a_worker_a_call_waits_up_to_its_time_and_says_so() {
    let stage = Stage::new().await;
    // Whether a worker is there is known once the broker has answered. On a busy machine that can
    // take longer than the call waits, so the time grows until the answer comes first.
    let mut time = millis(150);
    let error = loop {
        let call = add(1, 2).queue_timeout(time);
        let error = soon("its timeout", stage.broker.call(call))
            .await
            .unwrap_err();
        if !matches!(error, CallError::TimedOut(TimedOut::Queue(waited)) if waited == time) {
            break error;
        }
        time *= 2;
        assert!(time < BOUND, "the broker never answered in time: {error:?}");
    };
    assert!(
        matches!(error, CallError::TimedOut(TimedOut::NoWorker(waited)) if waited == time),
        "{error:?}"
    );
    assert!(error.to_string().contains("no worker serves it"), "{error}");
    // One that waits longer is served by the worker that comes; the one that gave up is not run.
    let waiting = stage.broker.call(add(3, 4).queue_timeout(BOUND));
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    assert_eq!(soon("a sum", waiting).await.unwrap(), 7);
    assert_eq!(serving.end().await.done, 1);
}

#[tokio::test]
async fn a_worker_that_is_busy_is_told_apart_from_none() {
    let stage = Stage::new().await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(waits_for)
            .prefetch(1)
            .in_process(),
    );
    let running = stage
        .broker
        .call(waits_for(stage.path("go")).queue_timeout(BOUND));
    until("it runs", async || serving.handle.stats().held == 1).await;
    let error = soon(
        "its timeout",
        stage
            .broker
            .call(waits_for(stage.path("go")).queue_timeout(millis(100))),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut(TimedOut::Queue(_))),
        "{error:?}"
    );
    std::fs::write(stage.file("go"), "").unwrap();
    soon("the first", running).await.unwrap();
    assert_eq!(
        serving.end().await.done,
        1,
        "the one that gave up was not run"
    );
}

#[tokio::test]
async fn the_queue_timeout_is_for_waiting_alone() {
    let stage = Stage::new().await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(waits_for)
            .prefetch(1)
            .in_process(),
    );
    let running = stage
        .broker
        .call(waits_for(stage.path("go")).queue_timeout(millis(500)));
    until("it runs", async || serving.handle.stats().held == 1).await;
    tokio::time::sleep(millis(600)).await;
    std::fs::write(stage.file("go"), "").unwrap();
    soon("its end", running).await.unwrap();
    serving.end().await;
}

#[tokio::test]
async fn prefetch_one_is_sent_nothing_before_it_has_finished_and_more_are_spread() {
    let stage = Stage::new().await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(waits_for)
            .prefetch(1)
            .in_process(),
    );
    let mut calls: Vec<_> = (0..3)
        .map(|_| stage.broker.call(waits_for(stage.path("go"))))
        .collect();
    until("it runs", async || serving.handle.stats().held == 1).await;
    let plain = stage.plain().await;
    until("the others wait", async || {
        plain.counts(&stage.name("waits_for")).await == (2, 1)
    })
    .await;
    // Two more workers that take three each: everybody has some of six more.
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(Serving::start(
            stage
                .elsewhere()
                .await
                .consumer()
                .task(waits_for)
                .prefetch(3)
                .in_process(),
        ));
    }
    calls.extend((0..4).map(|_| stage.broker.call(waits_for(stage.path("go")))));
    until("all run", async || {
        others.iter().all(|other| other.handle.stats().held == 3)
    })
    .await;
    assert_eq!(plain.counts(&stage.name("waits_for")).await, (0, 3));
    std::fs::write(stage.file("go"), "").unwrap();
    for call in calls {
        soon("an answer", call).await.unwrap();
    }
    serving.end().await;
    for other in others {
        other.end().await;
    }
}

#[tokio::test]
async fn a_call_may_wait_before_it_begins() {
    let stage = Stage::new().await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    let began = std::time::Instant::now();
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2).delay(millis(300))))
            .await
            .unwrap(),
        3
    );
    assert!(began.elapsed() >= millis(300));
    let refused = soon(
        "a refusal",
        stage
            .broker
            .call(Call::<i64>::json("add", &[1, 2]).key("k")),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.rejected(), Some(brigade::ErrorKind::Unsupported));
    serving.end().await;
}

//! Cancels, from the caller to whichever process runs the call.

use brigade::{CallError, Step};

use crate::stage::*;

/// Far above what it takes, far below what a user would call slow.
const SECOND: std::time::Duration = millis(1000);

async fn made(path: &std::path::Path) {
    until("it runs", async || path.exists()).await;
}

#[tokio::test]
async fn a_cancel_stops_the_call_in_another_process_within_a_second() {
    let stage = Stage::new().await;
    let pool = pool(1).await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(waits).on(&pool));
    let mut call = stage.broker.call(waits(stage.path("started")));
    made(&stage.file("started")).await;
    let began = std::time::Instant::now();
    let receipt = soon("the receipt", call.cancel("not needed")).await;
    assert_eq!(receipt.unwrap().step, Step::Asked);
    let CallError::Cancelled(cancelled) = soon("its end", &mut call).await.unwrap_err() else {
        panic!("cancelled")
    };
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(cancelled.reason, "not needed");
    assert_eq!(cancelled.report.unwrap().step, Some(Step::Asked));
    assert_eq!(serving.end().await.cancelled, 1);
    pool.shutdown().await;
}

#[tokio::test]
async fn dropping_a_call_cancels_it_and_detaching_does_not() {
    let stage = Stage::new().await;
    let pool = pool(1).await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(waits)
            .task(add)
            .on(&pool),
    );
    let call = stage.broker.call(waits(stage.path("started")));
    made(&stage.file("started")).await;
    let began = std::time::Instant::now();
    drop(call);
    until("it is stopped", async || {
        serving.handle.stats().served.cancelled == 1
    })
    .await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    stage.broker.call(add(1, 2)).detach();
    until("it is run", async || {
        serving.handle.stats().served.done == 1
    })
    .await;
    serving.end().await;
    pool.shutdown().await;
}

#[tokio::test]
async fn what_waits_for_its_turn_and_is_cancelled_is_not_run() {
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
    let running = stage.broker.call(waits_for(stage.path("go")));
    until("it runs", async || serving.handle.stats().held == 1).await;
    let waiting = stage
        .broker
        .call(waits_for(stage.path("never")).queue_timeout(LONG));
    let plain = stage.plain().await;
    until("it waits", async || {
        plain.counts(&stage.name("waits_for")).await.0 == 1
    })
    .await;
    assert!(
        soon("its end", waiting.cancel("not needed"))
            .await
            .is_none()
    );
    // No worker has it, so there is none to wait for.
    let CallError::Cancelled(cancelled) = soon("its end", waiting).await.unwrap_err() else {
        panic!("cancelled")
    };
    assert!(cancelled.reason == "not needed" && cancelled.report.is_none());
    std::fs::write(stage.file("go"), "").unwrap();
    soon("the first", running).await.unwrap();
    until("it is gone", async || {
        plain.counts(&stage.name("waits_for")).await.0 == 0
    })
    .await;
    assert_eq!(serving.end().await.done, 1);
}

//! Live reload: one worker after the other, while the others serve.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brigade_testkit::random::Random;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::stage::*;

/// What no call may wait for: a tenth of a reload.
const LOADING: Duration = millis(1000);

#[tokio::test]
async fn a_rolling_reload_under_load_delays_and_fails_no_call() {
    let stage = Stage::new().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Serving::start(
            stage
                .elsewhere()
                .await
                .consumer()
                .task(add)
                .prefetch(4)
                .in_process(),
        ));
    }
    soon("a sum", stage.broker.call(add(1, 2))).await.unwrap();
    let over = CancellationToken::new();
    let callers = (0..4).map(|_| {
        let (broker, over) = (stage.broker.clone(), over.clone());
        tokio::spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !over.is_cancelled() {
                let began = Instant::now();
                assert_eq!(broker.call(add(count, 1)).await.unwrap(), count + 1);
                (count, longest) = (count + 1, longest.max(began.elapsed()));
            }
            (count, longest)
        })
    });
    let callers: Vec<_> = callers.collect();
    let (loading, most, served) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let reloads = workers.iter().map(|worker| {
        let (loading, most, served) = (&loading, &most, &served);
        worker.handle.reload(async move {
            most.fetch_max(loading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let before = worker.handle.stats();
            tokio::time::sleep(LOADING).await;
            assert_eq!(
                (before.held, worker.handle.stats().served),
                (0, before.served),
                "it serves nothing meanwhile"
            );
            served.fetch_add(1, Ordering::SeqCst);
            loading.fetch_sub(1, Ordering::SeqCst);
        })
    });
    for reloaded in soon("all reloads", join_all(reloads)).await {
        reloaded.unwrap();
    }
    assert_eq!(
        (served.load(Ordering::SeqCst), most.load(Ordering::SeqCst)),
        (3, 1),
        "one at a time"
    );
    over.cancel();
    for caller in callers {
        let (count, longest) = soon("a caller", caller).await.unwrap();
        assert!(
            count > 100 && longest < LOADING / 2,
            "{count} calls, of which one took {longest:?}"
        );
    }
    for worker in workers {
        assert!(worker.end().await.done > 0);
    }
}

#[tokio::test]
async fn the_turn_of_one_that_died_is_the_next_one_s() {
    let stage = Stage::new().await;
    let (one, other) = (stage.elsewhere().await, stage.elsewhere().await);
    let first = Serving::start(one.consumer().task(add).in_process());
    let second = Serving::start(other.consumer().task(add).in_process());
    let (loads, loaded) = tokio::sync::oneshot::channel::<()>();
    let handle = first.handle.clone();
    let stuck = tokio::spawn(async move {
        handle
            .reload(async move {
                loads.send(()).unwrap();
                std::future::pending::<()>().await;
            })
            .await
    });
    soon("the first has its turn", loaded).await.unwrap();
    let waits = second.handle.clone();
    let mut next = std::pin::pin!(waits.reload(async { 7 }));
    assert!(
        tokio::time::timeout(millis(100), &mut next).await.is_err(),
        "it is not its turn"
    );
    stuck.abort();
    assert_eq!(soon("its turn", next).await.unwrap(), 7);
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_reload_that_is_given_up_in_the_line_holds_no_lock() {
    let stage = Stage::new().await;
    let first = Serving::start(stage.broker.consumer().task(add).in_process());
    let elsewhere = stage.elsewhere().await;
    let second = Serving::start(elsewhere.consumer().task(add).in_process());
    soon("a sum", stage.broker.call(add(1, 2))).await.unwrap();
    soon("a reload", first.handle.reload(async {}))
        .await
        .unwrap();
    let mut random = Random::from_env();
    println!("BRIGADE_SEED={}", random.seed());
    for _ in 0..100 {
        let patience = random.time(Duration::ZERO..millis(20));
        drop(tokio::time::timeout(patience, first.handle.reload(async {})).await);
    }
    soon("another reload", second.handle.reload(async {}))
        .await
        .unwrap();
    first.end().await;
    second.end().await;
}

//! Calls while the server is killed and started again, or stands still.
//!
//! Callers call without a pause. When the server is killed, each call that was sent ends as
//! uncertain, or is answered; with `calls=durable` requests and answers outlive the restart, and
//! each call is answered. A server that stands still is reported within the time that an answer
//! may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Broker, CallError, ErrorKind};
use brigade_testkit::count;
use brigade_testkit::rabbitmq::RabbitMq;

use crate::stage::*;

async fn off<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// F36 for calls: each ends with its value or a typed outcome, durable ones with their values, and
/// serving goes on soon after the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_calls_end_with_a_value_or_a_typed_outcome_when_the_server_is_killed() {
    let mut server = off(|| RabbitMq::start(&[]).unwrap()).await;
    // Longer than a start of the server takes, however loaded the machine is: what has not been
    // sent is not given up meanwhile.
    let url = format!("{}/?ns=shop&response_timeout=50s", server.url());
    let broker = Broker::connect(&url).await.unwrap();
    let durable = Broker::connect(&format!("{url}&calls=durable"))
        .await
        .unwrap();
    let workers = [
        Broker::connect(&url).await.unwrap(),
        Broker::connect(&url).await.unwrap(),
    ];
    let workers =
        workers.map(|worker| Serving::start(worker.consumer().task(add).prefetch(8).in_process()));
    let over = Arc::new(AtomicBool::new(false));
    let (good, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let is_durable = caller % 2 == 0;
            let broker = if is_durable { &durable } else { &broker };
            let counts = [Arc::clone(&good), Arc::clone(&unknown)];
            tokio::spawn(call_until(
                Arc::clone(&over),
                broker.clone(),
                is_durable,
                counts,
            ))
        })
        .collect();
    for round in 0..count(1, 10) {
        let before = good.load(Ordering::Relaxed);
        until("calls are answered", async || {
            good.load(Ordering::Relaxed) > before + 200
        })
        .await;
        server = off(move || {
            server.restart().unwrap();
            server
        })
        .await;
        let (back, before) = (Instant::now(), good.load(Ordering::Relaxed));
        until("calls are answered again", async || {
            good.load(Ordering::Relaxed) > before + 50
        })
        .await;
        println!("round {round}: {:?}", back.elapsed());
    }
    over.store(true, Ordering::Release);
    for caller in callers {
        soon("a caller", caller).await.unwrap();
    }
    assert_eq!(
        (broker.call_counts().open, durable.call_counts().open),
        (0, 0)
    );
    for worker in workers {
        assert!(worker.end().await.done > 0);
    }
    println!(
        "{good:?} answered, {unknown:?} uncertain, {:?}, {:?}",
        broker.call_counts(),
        durable.call_counts()
    );
}

/// Calls without a pause until it is over. Counts the calls that were answered, and those that are
/// uncertain.
async fn call_until(
    over: Arc<AtomicBool>,
    broker: Broker,
    is_durable: bool,
    [good, unknown]: [Arc<AtomicU64>; 2],
) {
    let what = if is_durable {
        "a durable call"
    } else {
        "a call"
    };
    for n in 0.. {
        if over.load(Ordering::Acquire) {
            return;
        }
        match soon(what, broker.call(add(n, 1))).await {
            Ok(sum) => {
                assert_eq!(sum, n + 1);
                good.fetch_add(1, Ordering::Relaxed);
            }
            Err(CallError::Rejected(error))
                if error.kind() == ErrorKind::Unreachable && !is_durable =>
            {
                assert!(error.is_uncertain(), "{error:?}");
                unknown.fetch_add(1, Ordering::Relaxed);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// F37 for calls: no call waits without an end for a server that stands still.
#[tokio::test]
async fn f37_a_server_that_stands_still_is_reported_and_not_waited_for() {
    let mut server = off(|| RabbitMq::start(&[]).unwrap()).await;
    let broker = Broker::connect(&format!(
        "{}/?ns=shop&heartbeat=1s&response_timeout=2s",
        server.url()
    ))
    .await
    .unwrap();
    let waiting = broker.call(add(1, 2));
    let plain = Plain::connect(server.port()).await;
    until("it waits", async || plain.counts("shop.add").await.0 == 1).await;
    server.stop();
    let began = Instant::now();
    let error = soon("its end", waiting).await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let CallError::Rejected(error) = error else {
        panic!("{error:?}")
    };
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_uncertain(),
        "{error:?}"
    );
    let error = soon("its end", broker.call(add(3, 4))).await.unwrap_err();
    assert_eq!(error.rejected(), Some(ErrorKind::Unreachable), "{error:?}");
    server.cont();
}

/// A connection that breaks loses no call, transient as it is: what was on its way comes again.
#[tokio::test]
async fn a_connection_that_breaks_while_the_server_lives_loses_no_call() {
    let mut server = off(|| RabbitMq::start(&[]).unwrap()).await;
    let url = format!("{}/?ns=shop", server.url());
    let broker = Broker::connect(&url).await.unwrap();
    let serving = Serving::start(
        Broker::connect(&url)
            .await
            .unwrap()
            .consumer()
            .task(add)
            .prefetch(8)
            .in_process(),
    );
    for _ in 0..3 {
        let calls: Vec<_> = (0..200).map(|n| broker.call(add(n, 1))).collect();
        server = off(move || {
            server.ctl(&["close_all_connections", "a test"]).unwrap();
            server
        })
        .await;
        for (n, call) in (0..).zip(calls) {
            assert_eq!(soon("its answer", call).await.unwrap(), n + 1);
        }
    }
    serving.end().await;
}

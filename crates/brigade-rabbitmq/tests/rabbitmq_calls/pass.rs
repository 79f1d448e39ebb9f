//! Passing calls on to other workers.
//!
//! Workers pass always, every other time, or once. A passed call reaches a worker that takes it,
//! and does not spin. When every worker has passed it often enough, its caller gets the reasons of
//! all. One that waits out its passes is offered until a worker takes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use brigade::{Broker, CallError, Pass, task};
use brigade_testkit::random::Random;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::Semaphore;

use crate::stage::*;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// Passes every other time, at random; gives how often it was run by then.
#[task]
fn passes_at_random(number: u64) -> Result<u64, Boxed> {
    let runs = RUNS.fetch_add(1, Ordering::Relaxed);
    let coin = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (number, runs)) & 1;
    if coin == 0 {
        Err(Pass::new("heads").into())
    } else {
        Ok(number)
    }
}

#[tokio::test]
async fn a_thousand_calls_while_workers_pass_at_random_are_all_answered() {
    let stage = Stage::new().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Serving::start(
            stage
                .elsewhere()
                .await
                .consumer()
                .task(passes_at_random)
                .prefetch(4)
                .in_process(),
        ));
    }
    let count = 1000;
    let numbers = soon(
        "the answers",
        join_all((0..count).map(|n| stage.broker.call(passes_at_random(n)))),
    )
    .await;
    for (n, number) in numbers.into_iter().enumerate() {
        assert_eq!(number.unwrap(), n as u64);
    }
    let (mut done, mut passed, mut failed) = (0, 0, 0);
    for worker in workers {
        let served = worker.end().await;
        (done, passed, failed) = (
            done + served.done,
            passed + served.given_back,
            failed + served.failed,
        );
    }
    assert_eq!((done, failed), (count, 0), "none was charged");
    // Each is passed once on the average; far more would be spinning.
    assert!(
        passed < 2 * count && RUNS.load(Ordering::Relaxed) == done + passed,
        "{passed} passes"
    );
    let plain = stage.plain().await;
    until("nothing is left", async || {
        plain.counts(&stage.name("passes_at_random")).await == (0, 0)
    })
    .await;
}

static GATE: AtomicBool = AtomicBool::new(true);

#[task(queue = "gated")]
fn passes_while_gated() -> Result<u32, Boxed> {
    if GATE.load(Ordering::Acquire) {
        Err(Pass::new("loading").into())
    } else {
        Ok(7)
    }
}

/// F40.
#[tokio::test]
async fn f40_when_all_pass_the_caller_is_told_by_all_and_nothing_spins() {
    let stage = Stage::new().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Serving::start(
            stage
                .elsewhere()
                .await
                .consumer()
                .task(always_passes)
                .task(add)
                .in_process(),
        ));
    }
    let passed = stage.broker.call(always_passes("busy".into()));
    let id = stage
        .broker
        .push(always_passes("busy".into()))
        .await
        .unwrap()
        .id()
        .clone();
    // Fair to the others meanwhile.
    for n in 0..20 {
        assert_eq!(
            soon("a sum", stage.broker.call(add(n, 1))).await.unwrap(),
            n + 1
        );
    }
    let CallError::Passed(reasons) = soon("its end", passed).await.unwrap_err() else {
        panic!("passed")
    };
    assert!(
        reasons.len() == 32 && reasons.iter().all(|reason| reason.contains("busy")),
        "{reasons:?}"
    );
    // A job goes to the dead letters.
    let plain = stage.plain().await;
    let dead = stage.name("always_passes.dead");
    until("it is set aside", async || plain.counts(&dead).await.0 == 1).await;
    let letter = plain
        .channel
        .basic_get(dead.as_str().into(), Default::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        letter.properties.message_id().as_ref().unwrap().as_str(),
        id.as_str()
    );
    assert!(
        header(&letter.properties, "brigade-reason")
            .unwrap()
            .contains("busy")
    );
    let mut given_back = 0;
    for worker in workers {
        given_back += worker.end().await.given_back;
    }
    // A whole round more than the limit, for each of the two.
    assert!((62..=70).contains(&given_back), "{given_back}");
}

/// F40.
#[tokio::test]
async fn f40_one_that_waits_out_its_passes_is_taken_in_the_end() {
    let stage = Stage::new().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Serving::start(
            stage
                .elsewhere()
                .await
                .consumer()
                .task(passes_while_gated)
                .in_process(),
        ));
    }
    let call = stage.broker.call(passes_while_gated().wait_out_passes());
    let given_back = || {
        workers
            .iter()
            .map(|worker| worker.handle.stats().served.given_back)
            .sum::<u64>()
    };
    until(
        "it was passed more often than another would be",
        async || given_back() > 40,
    )
    .await;
    GATE.store(false, Ordering::Release);
    assert_eq!(soon("its answer", call).await.unwrap(), 7);
    for worker in workers {
        worker.end().await;
    }
}

/// The one that passes does not get it back while another could take it.
#[tokio::test]
async fn another_takes_it_at_once_if_it_is_free_and_soon_after_if_it_is_not() {
    let stage = Stage::new().await;
    // Serves a task of the queue that passes; the other one serves the same queue by hand.
    let passes = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(always_passes)
            .prefetch(1)
            .in_process(),
    );
    let plain = stage.plain().await;
    until("it serves", async || {
        plain.counts(&stage.name("always_passes")).await.1 == 1
    })
    .await;
    let mut random = Random::from_env();
    for _ in 0..5 {
        let call = stage.broker.call(always_passes("not me".into()));
        // It is passed before there is another, and then by one that is slow to come.
        tokio::time::sleep(millis(random.within(0..100))).await;
        let queue = stage.name("always_passes");
        let channel = plain.fresh().await;
        channel.basic_qos(1, Default::default()).await.unwrap();
        let mut requests = channel
            .basic_consume(
                queue.as_str().into(),
                "".into(),
                Default::default(),
                Default::default(),
            )
            .await
            .unwrap();
        let request = soon("the request", futures_util::StreamExt::next(&mut requests))
            .await
            .unwrap()
            .unwrap();
        let properties = lapin::BasicProperties::default()
            .with_correlation_id(request.properties.correlation_id().clone().unwrap());
        plain
            .publish(
                request.properties.reply_to().as_ref().unwrap().as_str(),
                b"3",
                properties,
            )
            .await;
        request.acker.ack(Default::default()).await.unwrap();
        assert_eq!(soon("its answer", call).await.unwrap(), 3);
        channel.close(200, "".into()).await.unwrap();
    }
    // While the other was busy, the passer was not given it again and again.
    let given_back = passes.end().await.given_back;
    assert!(given_back < 60, "{given_back}");
}

static HELD: Semaphore = Semaphore::const_new(0);
static HAS_PASSED: AtomicBool = AtomicBool::new(false);

/// Passes its first call, once it may.
#[task(queue = "narrow")]
async fn passes_once(_number: u32) -> Result<(), Boxed> {
    HELD.acquire().await?.forget();
    match HAS_PASSED.swap(true, Ordering::AcqRel) {
        false => Err(Pass::new("reloading").into()),
        true => Ok(()),
    }
}

/// A quorum queue that is full: the call has nowhere to go, and its caller gets the reason.
#[tokio::test]
async fn a_call_that_is_passed_while_its_queue_has_no_room_is_rejected() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let queue = stage.name("narrow");
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    plain
        .channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .unwrap();
    let (server, namespace) = (stage.server.url(), &stage.namespace);
    let url = format!("{server}/?ns={namespace}&queues=quorum");
    let broker = Broker::connect(&url).await.unwrap();
    let consumer = broker.consumer().task(passes_once).prefetch(1);
    let serving = Serving::start(consumer.in_process());
    let call = broker.call(passes_once(1));
    until("it runs", async || serving.handle.stats().held == 1).await;
    // The server takes some more than the limit before it refuses.
    for _ in 0..20 {
        plain
            .publish(&queue, b"[2]", BasicProperties::default())
            .await;
    }
    HELD.add_permits(1000);
    let error = soon("its end", call).await.unwrap_err();
    assert!(error.rejected().is_some(), "{error:?}");
    serving.end().await;
}

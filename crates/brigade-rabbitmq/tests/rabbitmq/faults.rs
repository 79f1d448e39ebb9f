//! Servers that stop answering, run short of memory, or lose a queue (F37, F41, F42).
//!
//! Each test starts a server of its own, as it does harm to it: it stops the process by a signal,
//! sets a memory alarm, or deletes a queue under its consumers. Then it checks that the broker
//! returns an error in time, or goes on by itself, and that no job is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use brigade::{Broker, ErrorKind, Settled};
use brigade_testkit::rabbitmq::RabbitMq;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use crate::stage::{BOUND, LONG, NOW, connect, ctl, millis, plain, shared, until};

/// Starts a server without blocking the runtime.
fn start(lines: &[&str]) -> RabbitMq {
    tokio::task::block_in_place(|| RabbitMq::start(lines)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_a_server_that_stands_still_is_noticed_and_told() {
    let mut server = start(&[]);
    let heartbeat = if brigade_testkit::full() { 4 } else { 1 };
    let broker = connect(
        &server,
        &format!("heartbeat={heartbeat}s&response_timeout=2s"),
    )
    .await;
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    let held = queue.lease(LONG, LONG).await.unwrap().unwrap();
    server.stop();
    let began = Instant::now();
    let error = queue.push(&2).await.unwrap_err();
    assert!(error.is_retryable() && error.is_uncertain(), "{error:?}");
    // Unanswered, or known by now to be lost.
    assert!(!matches!(
        held.ack().await,
        Ok(brigade::Settled::Accepted(_))
    ));
    // Noticed: from then on nothing is uncertain, as nothing is sent.
    until("the connection is given up", async || {
        queue
            .push(&3)
            .await
            .is_err_and(|error| !error.is_uncertain())
    })
    .await;
    println!(
        "noticed after {:?} at the latest, with a heartbeat of {heartbeat} s",
        began.elapsed()
    );
    let error = queue.lease(LONG, millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    server.cont();
    until("it is reached again", async || queue.push(&4).await.is_ok()).await;
    let again = queue.lease(LONG, LONG).await.unwrap().unwrap();
    again.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_a_queue_that_is_deleted_under_its_consumer_is_declared_again() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    let held = queue.lease(LONG, LONG).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(LONG, LONG).await }
    });
    let name = format!("{namespace}.q");
    let passive = || {
        channel.queue_declare(
            name.as_str().into(),
            QueueDeclareOptions::default().passive(),
            FieldTable::default(),
        )
    };
    until("a consumer waits at the queue", async || {
        passive().await.unwrap().consumer_count() > 0
    })
    .await;
    channel
        .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    // What was held of it is gone with it, so nothing of it can count.
    assert_eq!(held.ack().await.unwrap_or(Settled::Stale), Settled::Stale);
    queue.push(&2).await.unwrap();
    let next = tokio::time::timeout(BOUND, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(next.json(), "2");
    assert_eq!(next.ack().await.unwrap(), Settled::Accepted(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_broker_that_blocks_publishers_is_told_and_acks_go_on() {
    let server = start(&[]);
    let waits = connect(&server, "response_timeout=1s").await;
    let fails = connect(&server, "blocked=error&response_timeout=1s").await;
    let (queue, other) = (waits.queue("q"), fails.queue("q"));
    for n in 0..3 {
        queue.push(&n).await.unwrap();
        other.push(&n).await.unwrap();
    }
    let held = queue.lease(LONG, LONG).await.unwrap().unwrap();
    ctl(
        &server,
        &["set_vm_memory_high_watermark", "absolute", "1MB"],
    )
    .await;
    // The first one makes the broker say so.
    until("the broker blocks", async || {
        queue.push(&4).await.is_err() && other.push(&4).await.is_err()
    })
    .await;
    let error = queue.push(&5).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::QueueFull && error.is_retryable() && !error.is_uncertain(),
        "{error:?}"
    );
    assert!(error.to_string().contains("blocking publishers"), "{error}");
    let began = Instant::now();
    let error = other.push(&5).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::QueueFull && began.elapsed() < Duration::from_millis(900),
        "{error:?}"
    );
    // What relieves the broker goes on.
    assert_eq!(held.ack().await.unwrap(), Settled::Accepted(None));
    queue
        .lease(LONG, LONG)
        .await
        .unwrap()
        .unwrap()
        .ack()
        .await
        .unwrap();
    ctl(&server, &["set_vm_memory_high_watermark", "0.9"]).await;
    until("the broker takes messages again", async || {
        queue.push(&6).await.is_ok() && other.push(&6).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_what_nobody_asks_for_any_more_is_given_back_in_its_place() {
    let (url, _) = shared("");
    let (slow, free) = (
        Broker::connect(&url).await.unwrap(),
        Broker::connect(&url).await.unwrap(),
    );
    let queue = slow.queue("q");
    let jobs: Vec<_> = (0..100).map(|n| queue.job(&n).unwrap()).collect();
    slow.push_many(jobs).await.unwrap();
    // Many ask at once and all but one give up: what came for them goes back.
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.lease(LONG, LONG).await })
        })
        .collect();
    until("one has a job", async || {
        asking.iter().any(tokio::task::JoinHandle::is_finished)
    })
    .await;
    let mut held = Vec::new();
    for task in asking {
        task.abort();
        if let Ok(lease) = task.await {
            held.push(lease.unwrap().unwrap().payload::<u32>().unwrap());
        }
    }
    let began = Instant::now();
    let mut seen = Vec::new();
    while seen.len() + held.len() < 100 {
        let lease = free.queue("q").lease(LONG, BOUND).await.unwrap().unwrap();
        seen.push(lease.payload::<u32>().unwrap());
        lease.ack().await.unwrap();
    }
    println!(
        "{} were held, the others came within {:?}",
        held.len(),
        began.elapsed()
    );
    assert!(held.len() < 100 && free.queue("q").take(NOW).await.unwrap().is_none());
    seen.extend(held);
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

/// The queue's process at the server stands still, or goes on.
async fn suspend(queue: &str, suspends: bool) {
    let verb = if suspends { "suspend" } else { "resume" };
    let text = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
         sys:{verb}(amqqueue:get_pid(Q))."
    );
    ctl(RabbitMq::shared().unwrap(), &["eval", &text]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_start_was_not_waited_for_keeps_no_job() {
    let (url, namespace) = shared("&response_timeout=60s");
    let (slow, free) = (
        Broker::connect(&url).await.unwrap(),
        Broker::connect(&url).await.unwrap(),
    );
    let queue = slow.queue("q");
    for n in 0..10 {
        queue.push(&n).await.unwrap();
    }
    // It has a channel, and no consumer yet.
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(first.ack().await.unwrap(), Settled::Accepted(None));
    let name = format!("{namespace}.q");
    suspend(&name, true).await;
    let asking = tokio::spawn(async move { queue.lease(LONG, LONG).await });
    // Longer than the start of a consumer is waited for; if not, this shows less.
    tokio::time::sleep(millis(4_000)).await;
    asking.abort();
    suspend(&name, false).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 9 {
        let lease = free.queue("q").lease(LONG, BOUND / 2).await.unwrap();
        let lease = lease.unwrap_or_else(|| panic!("only {seen:?} came"));
        seen.insert(lease.payload::<u32>().unwrap());
        lease.ack().await.unwrap();
    }
}

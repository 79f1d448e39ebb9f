//! Consumers of several queues: what they ask for, and what they cannot settle.

use std::time::Duration;

use brigade::{Broker, Failure, task};
use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::Semaphore;

use crate::stage::{BOUND, LONG, plain, shared, until};

/// Opened when the jobs of the upper queue may end.
static UPPER: Semaphore = Semaphore::const_new(0);

#[task(queue = "upper")]
async fn waits_in_upper(_number: u32) {
    UPPER.acquire().await.unwrap().forget();
}

#[task(queue = "lower")]
fn runs_in_lower(_number: u32) {}

/// What is fetched and not wanted costs a quorum queue one of the deliveries after which a server
/// gives it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_queue_is_not_asked_while_an_upper_one_has_jobs() {
    let (url, namespace) = shared("&queues=quorum");
    let broker = Broker::connect(&url).await.unwrap();
    let (uppers, lowers) = (40, 5);
    for number in 0..uppers {
        broker.push(waits_in_upper(number)).await.unwrap();
    }
    for number in 0..lowers {
        broker.push(runs_in_lower(number)).await.unwrap();
    }
    let consumer = broker.consumer().queue("upper").queue("lower");
    let consumer = consumer.in_process().prefetch(4);
    let handle = consumer.handle();
    let serving = tokio::spawn(consumer.run_until(std::future::pending::<()>()));
    for done in 0..u64::from(uppers) - 4 {
        UPPER.add_permits(1);
        until("one more is done", async || {
            handle.stats().served.done > done
        })
        .await;
    }
    // All of the lower queue is there, as it was pushed.
    let channel = plain(&url).await;
    for _ in 0..lowers {
        let options = BasicGetOptions { no_ack: false };
        let lower = format!("{namespace}.lower");
        let got = channel.basic_get(lower.into(), options).await.unwrap();
        assert!(!got.unwrap().delivery.redelivered);
    }
    let options = BasicNackOptions {
        multiple: true,
        requeue: true,
    };
    channel.basic_nack(0, options).await.unwrap();
    UPPER.add_permits(4);
    until("the lower ones are done too", async || {
        handle.stats().served.done == u64::from(uppers + lowers)
    })
    .await;
    handle.drain();
    serving.await.unwrap().unwrap();
}

/// Opened when the place where failed jobs go takes nothing.
static STUCK: Semaphore = Semaphore::const_new(0);

#[task(queue = "stuck")]
async fn fails_in_stuck(_number: u32) -> Result<(), Failure> {
    STUCK.acquire().await.unwrap().forget();
    Err(Failure::new("no"))
}

#[task(queue = "flows")]
fn does_nothing(_number: u32) {}

/// What cannot be settled keeps no place from other jobs, and is settled once it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_that_do_not_come_through_hold_up_no_other_and_are_kept_until_they_do() {
    let (url, namespace) = shared("");
    let broker = Broker::connect(&url).await.unwrap();
    let channel = plain(&url).await;
    // The queue of its dead letters is another program's, and full.
    let dead = format!("{namespace}.stuck.dead");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let options = QueueDeclareOptions::durable();
    channel
        .queue_declare(dead.as_str().into(), options, arguments)
        .await
        .unwrap();
    for number in 0..2 {
        broker.push(fails_in_stuck(number)).await.unwrap();
    }
    // Both of its places are taken by what cannot be settled.
    let consumer = broker.consumer().queue("stuck").queue("flows").in_process();
    let consumer = consumer.prefetch(2).lease(10 * LONG);
    let handle = consumer.handle();
    let serving = tokio::spawn(consumer.run_until(std::future::pending::<()>()));
    until("both are held", async || handle.stats().held == 2).await;
    STUCK.add_permits(2);
    for number in 0..20 {
        broker.push(does_nothing(number)).await.unwrap();
    }
    until("the others go on", async || {
        handle.stats().served.done == 20
    })
    .await;
    assert_eq!(handle.stats().served.failed, 0, "these are not settled yet");
    channel
        .queue_delete(dead.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    until("they are settled", async || {
        handle.stats().served.failed == 2
    })
    .await;
    for _ in 0..2 {
        let letter = broker.queue("stuck.dead").take(BOUND).await.unwrap();
        assert!(letter.is_some());
    }
    handle.drain();
    let served = tokio::time::timeout(Duration::from_secs(60), serving);
    let served = served.await.unwrap().unwrap().unwrap();
    assert_eq!((served.done, served.failed, served.stale), (20, 2, 0));
}

#[task(queue = "full")]
fn runs_from_a_full_queue(_number: u32) {}

/// A holder that falls silent is one loss, however often the broker refuses to take the job back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_holder_is_one_loss_also_while_its_queue_has_no_room() {
    let (url, namespace) = shared("");
    let broker = Broker::connect(&url).await.unwrap();
    let channel = plain(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let options = QueueDeclareOptions::durable();
    channel
        .queue_declare(format!("{namespace}.full").into(), options, arguments)
        .await
        .unwrap();
    let queue = broker.queue("full");
    broker.push(runs_from_a_full_queue(1)).await.unwrap();
    let lease = queue.lease(Duration::from_secs(1), BOUND).await.unwrap();
    // The holder falls silent, and its job has no room any more.
    std::mem::forget(lease.unwrap());
    broker.push(runs_from_a_full_queue(2)).await.unwrap();
    // Some tries to give it back; if they come later, this shows less.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(queue.take(BOUND).await.unwrap().is_some(), "the second");
    let consumer = broker.consumer().task(runs_from_a_full_queue).in_process();
    let handle = consumer.handle();
    let serving = tokio::spawn(consumer.run_until(std::future::pending::<()>()));
    until("the first has ended", async || {
        let served = handle.stats().served;
        served.done + served.failed > 0
    })
    .await;
    handle.drain();
    let served = serving.await.unwrap().unwrap();
    assert_eq!((served.done, served.failed), (1, 0), "it is no dead letter");
}

//! Jobs whose holders fall silent, and holders whose connection breaks at a bad moment.

use std::future::{Future as _, poll_fn};
use std::task::Poll;

use brigade::{Broker, task};
use brigade_testkit::proxy::{Cut, Proxy, Target};
use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use lapin::options::{BasicGetOptions, BasicRejectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use crate::stage::{BOUND, LONG, NOW, get, plain, shared, text, until};

#[task]
fn never_runs(_number: u32) {
    panic!("it kills its consumers");
}

/// Each lease is of another process, which ends without a word: the server only says of a classic
/// queue's message that it was delivered before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_each_of_its_consumers_becomes_a_dead_letter_in_a_classic_queue_too() {
    let (url, namespace) = shared("");
    let broker = Broker::connect(&url).await.unwrap();
    let queue = broker.queue("poison");
    let job = queue.job(&(1,)).unwrap().task("never_runs");
    broker.push(job).await.unwrap();
    let mut losses = Vec::new();
    for _ in 0..50 {
        let victim = Broker::connect(&url).await.unwrap();
        let lease = victim.queue("poison").lease(LONG, BOUND).await.unwrap();
        losses.push(lease.unwrap().lost());
        drop(victim);
    }
    assert!(losses.is_sorted(), "{losses:?}");
    let consumer = broker.consumer().queue("poison").in_process();
    let handle = consumer.handle();
    let serving = tokio::spawn(consumer.run_until(std::future::pending::<()>()));
    let (channel, dead) = (plain(&url).await, format!("{namespace}.poison.dead"));
    until("it is a dead letter", async || {
        handle.stats().served.failed + handle.stats().served.given_back > 0
    })
    .await;
    let (_, headers) = get(&channel, &dead).await.unwrap();
    let reason = text(&headers, "brigade-reason");
    assert!(!reason.contains("it kills its consumers"), "{reason}");
    handle.drain();
    serving.await.unwrap().unwrap();
}

/// What is taken is acked first: without that ack the job is still the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_take_was_not_acked_is_taken_when_it_comes_again() {
    let server = RabbitMq::shared().unwrap();
    let target = Target::Tcp(([127, 0, 0, 1], server.port()).into());
    let proxy = Proxy::start(target, 1).unwrap();
    let namespace = namespace();
    let url = |address: &str| format!("amqp://{address}?ns={namespace}");
    let producer = Broker::connect(&url(&format!("127.0.0.1:{}", server.port())))
        .await
        .unwrap();
    let taker = Broker::connect(&url(&proxy.address().to_string()))
        .await
        .unwrap();
    let queue = taker.queue("q");
    assert!(queue.take(NOW).await.unwrap().is_none());
    let taking = tokio::spawn(async move { queue.take(LONG).await });
    let channel = plain(&url(&format!("127.0.0.1:{}", server.port()))).await;
    until("it is waited for", async || {
        let declaring = channel.queue_declare(
            format!("{namespace}.q").into(),
            lapin::options::QueueDeclareOptions::default().passive(),
            lapin::types::FieldTable::default(),
        );
        declaring.await.unwrap().consumer_count() == 1
    })
    .await;
    // Of the two connections, the one that takes is made last. Its acks do not reach the server.
    proxy.hold(1);
    producer.queue("q").push(&7).await.unwrap();
    // More than a heartbeat, which is 8 bytes: an ack, and the question that follows it.
    until("it has been acked", async || proxy.traffic().held > 30).await;
    proxy.cut(Cut::Reset);
    let taken = tokio::time::timeout(BOUND, taking).await.unwrap().unwrap();
    assert_eq!(taken.unwrap().unwrap().json(), "7");
    assert!(producer.queue("q").take(NOW).await.unwrap().is_none());
}

/// A job that was handed out before goes on as a new message, which has the count. As long as the
/// server has not read the ack of the old message, it brings that again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_went_on_as_another_message_is_dropped_when_its_old_one_comes_again() {
    let server = RabbitMq::shared().unwrap();
    let target = Target::Tcp(([127, 0, 0, 1], server.port()).into());
    let proxy = Proxy::start(target, 1).unwrap();
    let namespace = namespace();
    let name = format!("{namespace}.q");
    let url = |address: &str| format!("amqp://{address}?ns={namespace}");
    let direct = url(&format!("127.0.0.1:{}", server.port()));
    let producer = Broker::connect(&direct).await.unwrap();
    let taker = Broker::connect(&url(&proxy.address().to_string()))
        .await
        .unwrap();
    let queue = taker.queue("q");
    assert!(queue.take(NOW).await.unwrap().is_none());
    let channel = plain(&direct).await;
    let counts = async || {
        let options = QueueDeclareOptions::default().passive();
        let declaring = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        let queue = declaring.await.unwrap();
        (queue.message_count(), queue.consumer_count())
    };
    producer.queue("q").push(&7).await.unwrap();
    let had = channel.basic_get(name.as_str().into(), BasicGetOptions::default());
    let had = had.await.unwrap().unwrap().delivery.delivery_tag;
    let taking = tokio::spawn(async move { queue.take(LONG).await });
    until("it is waited for", async || counts().await == (0, 1)).await;
    // Of the two connections, the one that takes is made last. Its acks do not reach the server.
    proxy.hold(1);
    channel
        .basic_reject(had, BasicRejectOptions { requeue: true })
        .await
        .unwrap();
    // More than a heartbeat, which is 8 bytes: an ack, and the question that follows it.
    until("its old message has been acked", async || {
        proxy.traffic().held > 30
    })
    .await;
    proxy.cut(Cut::Reset);
    let taken = tokio::time::timeout(BOUND, taking).await.unwrap().unwrap();
    assert_eq!(taken.unwrap().unwrap().json(), "7");
    drop(taker);
    until("its consumers are gone", async || counts().await.1 == 0).await;
    assert_eq!(counts().await, (0, 0));
}

/// Each take is dropped after so many polls, when it could go on: before its job came, while the
/// server reads its ack, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_that_is_dropped_wherever_it_waits_leaves_no_consumer_behind() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let queue = broker.queue("dropped");
    for polls in 1..=8 {
        queue.push(&polls).await.unwrap();
        let (mut taking, mut left) = (Box::pin(queue.take(LONG)), polls);
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            taking.as_mut().poll(cx).map(|taken| drop(taken.unwrap()))
        })
        .await;
        drop(taking);
        let name = format!("{namespace}.dropped");
        until("its consumers are gone", async || {
            let options = QueueDeclareOptions::default().passive();
            let declaring =
                channel.queue_declare(name.as_str().into(), options, FieldTable::default());
            declaring.await.unwrap().consumer_count() == 0
        })
        .await;
    }
}

//! When a request is acked: once its answer is confirmed to be in its caller's queue.

use std::path::Path;

use brigade::{Broker, task};
use brigade_testkit::proxy::{Cut, Proxy, Target, Way};
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::stage::*;

/// Notes each run in a directory, and ends when a file is there.
#[task]
async fn notes_and_waits(directory: String, file: String) -> u32 {
    std::fs::write(format!("{directory}/{}", runs(&directory)), "").unwrap();
    while !std::fs::exists(&file).unwrap() {
        tokio::time::sleep(millis(2)).await;
    }
    7
}

fn runs(directory: impl AsRef<Path>) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

fn directory(stage: &Stage) -> String {
    std::fs::create_dir(stage.file("runs")).unwrap();
    stage.path("runs")
}

fn target(stage: &Stage) -> Target {
    Target::Tcp(([127, 0, 0, 1], stage.server.port()).into())
}

fn url(stage: &Stage, proxy: &Proxy) -> String {
    format!("amqp://{}/?ns={}", proxy.address(), stage.namespace)
}

/// The worker has sent the answer, the server never gets it, and the worker is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_its_answer_and_the_confirm_leaves_the_call_to_another() {
    let stage = Stage::new().await;
    let (runs_in, release) = (directory(&stage), stage.path("release"));
    let proxy = Proxy::start(target(&stage), 1).unwrap();
    let worker = Broker::connect(&url(&stage, &proxy)).await.unwrap();
    let consumer = worker.consumer().task(notes_and_waits).task(add);
    let serving = Serving::start(consumer.in_process());
    // Its channel for answers is open after the first.
    let sum = soon("a sum", stage.broker.call(add(1, 2))).await;
    assert_eq!(sum.unwrap(), 3);
    let call = stage
        .broker
        .call(notes_and_waits(runs_in.clone(), release.clone()));
    until("it runs", async || runs(&runs_in) == 1).await;
    // The connection that publishes is made first.
    proxy.hold(0);
    std::fs::write(&release, "").unwrap();
    // Far more than a heartbeat, which is 8 bytes.
    until("its answer is on its way", async || {
        let traffic = proxy.traffic();
        assert_eq!(traffic.accepted, 2, "it stays connected: {traffic:?}");
        traffic.held > 100
    })
    .await;
    // One round trip of the other connection: an ack that was sent with the answer is there by now.
    worker.queue("other").take(millis(0)).await.unwrap();
    proxy.close_to_new(true);
    proxy.cut(Cut::Reset);
    let other = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(notes_and_waits)
            .in_process(),
    );
    assert_eq!(soon("its answer", call).await.unwrap(), 7);
    assert_eq!(runs(&runs_in), 2);
    other.end().await;
    serving.abort();
}

/// A caller that is connected again later than the worker, after a restart of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_its_caller_s_queue_and_its_request_is_neither_run_again_nor_lost() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let (runs_in, release) = (directory(&stage), stage.path("release"));
    let proxy = Proxy::start(target(&stage), 1).unwrap();
    let worker = Broker::connect(&url(&stage, &proxy)).await.unwrap();
    let serving = Serving::start(
        worker
            .consumer()
            .task(notes_and_waits)
            .task(add)
            .in_process(),
    );
    let sum = soon("a sum", stage.broker.call(add(1, 2))).await;
    assert_eq!(sum.unwrap(), 3);
    let (queue, mine) = (stage.name("notes_and_waits"), stage.name("late"));
    let asks = BasicProperties::default()
        .with_reply_to(mine.as_str().into())
        .with_correlation_id("late-1".into())
        .with_app_id("brigade".into());
    let body = serde_json::to_vec(&(&runs_in, &release)).unwrap();
    plain.publish(&queue, &body, asks).await;
    until("it runs", async || runs(&runs_in) == 1).await;
    let before = proxy.traffic().bytes[Way::Back as usize];
    std::fs::write(&release, "").unwrap();
    // Far more than heartbeats and confirms.
    until("its answer comes back", async || {
        proxy.traffic().bytes[Way::Back as usize] > before + 150
    })
    .await;
    // Its delivery comes again while the answer waits.
    proxy.cut(Cut::Reset);
    let sum = soon("a sum", stage.broker.call(add(3, 4))).await;
    assert_eq!(sum.unwrap(), 7);
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declaring =
        plain
            .channel
            .queue_declare(mine.as_str().into(), options, FieldTable::default());
    declaring.await.unwrap();
    let mut answers = plain.consume(&mine).await;
    let answer = soon("its answer", answers.next()).await.unwrap().unwrap();
    assert_eq!(answer.data, b"7");
    serving.end().await;
    assert_eq!(runs(&runs_in), 1);
    assert_eq!(plain.counts(&queue).await, (0, 0));
}

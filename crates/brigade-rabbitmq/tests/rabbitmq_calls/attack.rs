//! Callers that mean harm.
//!
//! They name queues of jobs in `reply_to`, so that an answer would run as a job; they send requests
//! that cannot be read; they ask for results over the limits of the server. Each caller gets a
//! `rejected` answer, or its request is a dead letter; calls of other callers go on.

use brigade::{Broker, Call};
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::BasicGetOptions;
use serde_json::json;

use crate::stage::*;

/// An answer is a message with the caller's choice of a queue: it must not be run as a job.
#[tokio::test]
async fn an_answer_cannot_be_pushed_into_a_queue_of_jobs() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(add)
            .task(fails)
            .in_process(),
    );
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    soon("a failure", stage.broker.call(fails("no".into())))
        .await
        .unwrap_err();
    let done = serving.handle.stats().served.done;
    // Known queues, those that go with them, and our own.
    for to in ["fails", "add.dead", "add.delay.1024", "brigade-turn.add"] {
        let asks = BasicProperties::default()
            .with_reply_to(stage.name(to).as_str().into())
            .with_correlation_id("1".into());
        plain.publish(&stage.name("add"), b"[1, 2]", asks).await;
        let reason = dead_letter(&stage, &stage.name("add.dead")).await;
        assert!(
            reason.contains("reply_to") && reason.contains(to),
            "{reason}"
        );
    }
    // A queue of jobs that this worker does not know: its consumer refuses the answer.
    let elsewhere = stage.elsewhere().await;
    elsewhere.queue("other").push(&1).await.unwrap();
    assert!(
        elsewhere
            .queue("other")
            .take(BOUND)
            .await
            .unwrap()
            .is_some()
    );
    let asks = BasicProperties::default()
        .with_reply_to(stage.name("other").as_str().into())
        .with_correlation_id("1".into());
    plain.publish(&stage.name("add"), b"[1, 2]", asks).await;
    let taking = tokio::spawn(async move { elsewhere.queue("other").take(BOUND).await });
    let reason = dead_letter(&stage, &stage.name("other.dead")).await;
    assert!(reason.contains("answer to a call"), "{reason}");
    taking.abort();
    assert_eq!(serving.end().await.done, done + 1);
}

async fn dead_letter(stage: &Stage, queue: &str) -> String {
    let getting = async {
        loop {
            // Asking for a queue that is not there ends the channel.
            let plain = stage.plain().await;
            while let Ok(found) = plain
                .channel
                .basic_get(queue.into(), BasicGetOptions { no_ack: true })
                .await
            {
                if let Some(message) = found {
                    return header(&message.delivery.properties, "brigade-reason").unwrap();
                }
            }
        }
    };
    soon("a dead letter", getting).await
}

#[tokio::test]
async fn a_call_with_strings_that_no_caller_has_is_answered_as_rejected() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    let mine = plain.own_queue().await;
    let mut answers = plain.consume(&mine).await;
    let asks = || BasicProperties::default().with_reply_to(mine.as_str().into());
    for properties in [
        asks().with_correlation_id("a\0b".into()),
        asks()
            .with_correlation_id("1".into())
            .with_message_id("\u{1b}[2J".into()),
        asks()
            .with_correlation_id("1".into())
            .with_app_id("brigade\n".into()),
    ] {
        let id = properties.correlation_id().clone();
        plain
            .publish(&stage.name("add"), b"[1, 2]", properties)
            .await;
        let answer = soon("an answer", answers.next()).await.unwrap().unwrap();
        assert_eq!(*answer.properties.correlation_id(), id);
        assert_eq!(
            header(&answer.properties, "brigade-error").as_deref(),
            Some("rejected")
        );
    }
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    serving.end().await;
}

/// The header is text, which every client can read; numbers of other workers are read as well.
#[tokio::test]
async fn progress_is_text_in_a_header() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(counts).in_process());
    assert_eq!(
        soon("a count", stage.broker.call(counts(1))).await.unwrap(),
        1
    );
    let mine = plain.own_queue().await;
    let mut answers = plain.consume(&mine).await;
    let asks = BasicProperties::default()
        .with_reply_to(mine.as_str().into())
        .with_correlation_id("1".into())
        .with_app_id("brigade".into());
    plain.publish(&stage.name("counts"), b"[4]", asks).await;
    let mut report = Vec::new();
    while report.len() < 4 {
        let message = soon("progress", answers.next()).await.unwrap().unwrap();
        report.push(header(&message.properties, "brigade-progress").expect("text"));
    }
    assert_eq!(report, ["0.25", "0.5", "0.75", "1"]);
    serving.end().await;
}

/// Answers over the limit of the server.
#[tokio::test]
async fn an_answer_that_the_server_does_not_take_is_replaced_by_a_refusal() {
    let server = tokio::task::spawn_blocking(|| {
        brigade_testkit::rabbitmq::RabbitMq::start(&["max_message_size = 100000"]).unwrap()
    })
    .await
    .unwrap();
    let (worker, caller) = (
        Broker::connect(&server.url()).await.unwrap(),
        Broker::connect(&server.url()).await.unwrap(),
    );
    let serving = Serving::start(
        worker
            .consumer()
            .task(large)
            .task(add)
            .prefetch(4)
            .in_process(),
    );
    // Before the limit of the server is known, at the same time, and after.
    for _ in 0..3 {
        let (sum, over) = futures_util::join!(
            soon("a sum", caller.call(add(1, 2))),
            soon("a refusal", caller.call(large(200_000)))
        );
        assert_eq!(sum.unwrap(), 3);
        let over = over.unwrap_err();
        assert_eq!(
            over.rejected(),
            Some(brigade::ErrorKind::TooLarge),
            "{over:?}"
        );
        let text = format!("{over:?}");
        assert!(text.contains("100000") && text.contains("200"), "{text}");
    }
    // A request over the limit is refused where it is made.
    let error = soon(
        "a refusal",
        caller.call(Call::<i64>::json("add", &json!(["x".repeat(200_000)]))),
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.rejected(),
        Some(brigade::ErrorKind::TooLarge),
        "{error:?}"
    );
    let error = caller
        .queue("q")
        .push(&"x".repeat(200_000))
        .await
        .unwrap_err();
    assert!(
        error.kind() == brigade::ErrorKind::TooLarge && !error.is_uncertain(),
        "{error:?}"
    );
    assert_eq!(soon("a sum", caller.call(add(1, 2))).await.unwrap(), 3);
    serving.end().await;
}

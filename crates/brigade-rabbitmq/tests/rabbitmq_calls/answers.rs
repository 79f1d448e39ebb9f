//! Answers to calls: results, failures, progress, and what is dropped.
//!
//! Workers are consumers of this process or processes of their own; in some tests a plain AMQP
//! connection takes the place of the worker or of the caller, so that requests and answers are seen
//! as they are on the wire. Late and foreign answers are counted in `Broker::call_counts`.

use brigade::{Broker, Call, CallError, ErrorKind, TimedOut};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::BasicProperties;
use serde_json::json;

use crate::stage::*;

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer_in_a_pool_and_in_process() {
    let stage = Stage::new().await;
    let pool = pool(2).await;
    let one = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(add)
            .prefetch(8)
            .on(&pool),
    );
    let other = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(add)
            .prefetch(8)
            .in_process(),
    );
    let sums = join_all((0..500).map(|n| stage.broker.call(add(n, 1))));
    for (n, sum) in soon("the sums", sums).await.into_iter().enumerate() {
        assert_eq!(sum.unwrap(), n as i64 + 1);
    }
    let (one, other) = (one.end().await.done, other.end().await.done);
    assert!(
        one + other == 500 && one > 0 && other > 0,
        "{one} and {other}"
    );
    let counts = stage.broker.call_counts();
    assert_eq!((counts.open, counts.late, counts.foreign), (0, 0, 0));
    pool.shutdown().await;
}

#[tokio::test]
async fn every_end_of_an_attempt_is_told_as_what_it_is() {
    let stage = Stage::new().await;
    let pool = pool(1).await;
    let worker = stage
        .elsewhere()
        .await
        .consumer()
        .task(add)
        .task(fails)
        .task(panics)
        .task(aborts)
        .task(spins)
        .task(large);
    let serving = Serving::start(worker.on(&pool));
    let broker = &stage.broker;

    let CallError::Failed(failure) = soon("a failure", broker.call(fails("no".into())))
        .await
        .unwrap_err()
    else {
        panic!("failed")
    };
    assert_eq!(
        (failure.message.as_str(), failure.details()),
        ("no", Some(json!([1, 2, 3])))
    );
    assert!(failure.type_name.contains("Failure"), "{failure:?}");

    let CallError::Panicked(report) = soon("a panic", broker.call(panics())).await.unwrap_err()
    else {
        panic!("panicked")
    };
    assert!(
        report.task == "panics" && report.stderr.contains("oh no"),
        "{report:?}"
    );

    let CallError::Crashed(report) = soon("a crash", broker.call(aborts())).await.unwrap_err()
    else {
        panic!("crashed")
    };
    assert_eq!(report.exit, Some(brigade::Exit::Signal(6)));

    let spinning = broker.call(spins().timeout(millis(100)));
    let CallError::TimedOut(TimedOut::Run(report)) =
        soon("its timeout", spinning).await.unwrap_err()
    else {
        panic!("timed out")
    };
    assert_eq!(report.ended, brigade::AttemptOutcome::TimedOut);

    what_cannot_be_carried_is_rejected(broker).await;

    // The worker goes on.
    assert_eq!(soon("a sum", broker.call(add(1, 2))).await.unwrap(), 3);
    serving.end().await;
    pool.shutdown().await;
}

/// Arguments that do not fit, a result over the limit, an answer of another type.
async fn what_cannot_be_carried_is_rejected(broker: &Broker) {
    let wrong = soon(
        "a refusal",
        broker.call(Call::<i64>::json("add", &json!([1]))),
    )
    .await
    .unwrap_err();
    assert_eq!(wrong.rejected(), Some(ErrorKind::BadArguments), "{wrong:?}");
    let wrong = soon(
        "a refusal",
        broker.call(Call::<i64>::json("add", &json!([1, "two"]))),
    )
    .await
    .unwrap_err();
    assert_eq!(wrong.rejected(), Some(ErrorKind::BadArguments), "{wrong:?}");
    let over = soon("a refusal", broker.call(large((16 << 20) + 1)))
        .await
        .unwrap_err();
    assert_eq!(over.rejected(), Some(ErrorKind::TooLarge), "{over:?}");
    // A little less is carried.
    assert_eq!(
        soon("a large one", broker.call(large(15 << 20)))
            .await
            .unwrap()
            .len(),
        15 << 20
    );
    // An answer that is no `i64`.
    let other = soon(
        "another type",
        broker.call(Call::<Vec<u8>>::json("add", &json!([1, 2]))),
    )
    .await
    .unwrap_err();
    assert_eq!(other.rejected(), Some(ErrorKind::Decode), "{other:?}");
}

#[tokio::test]
async fn a_crash_is_answered_at_once_and_tried_again_only_if_that_was_asked_for() {
    let stage = Stage::new().await;
    let pool = pool(1).await;
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(aborts)
            .task(fails)
            .on(&pool),
    );
    assert!(matches!(
        soon("a crash", stage.broker.call(aborts())).await,
        Err(CallError::Crashed(_))
    ));
    until("it is counted", async || {
        serving.handle.stats().served.failed > 0
    })
    .await;
    assert_eq!(serving.handle.stats().served.failed, 1, "it ran once");
    // Poison: the second crash is its last, however many retries it has.
    assert!(matches!(
        soon("a crash", stage.broker.call(aborts().retries(5))).await,
        Err(CallError::Crashed(_))
    ));
    until("both are counted", async || {
        serving.handle.stats().served.failed == 3
    })
    .await;
    let pause = brigade::Retry::exponential(millis(20), millis(20));
    assert!(matches!(
        soon(
            "a failure",
            stage
                .broker
                .call(fails("no".into()).retries(2).retry(pause))
        )
        .await,
        Err(CallError::Failed(_))
    ));
    assert_eq!(serving.end().await.failed, 6);
    pool.shutdown().await;
}

#[tokio::test]
async fn progress_reaches_the_caller_in_order_while_it_runs() {
    let stage = Stage::new().await;
    let pool = pool(1).await;
    for worker in [
        stage.elsewhere().await.consumer().on(&pool),
        stage.elsewhere().await.consumer().in_process(),
    ] {
        let serving = Serving::start(worker.task(counts));
        let call = stage.broker.call(counts(5));
        let mut progress = call.progress();
        assert_eq!(soon("the count", call).await.unwrap(), 5);
        for n in 1..=5 {
            let report = soon("progress", progress.next()).await.unwrap();
            assert_eq!(
                (report.fraction(), report.payload::<u32>().unwrap()),
                (f64::from(n) / 5.0, n)
            );
        }
        assert!(progress.next().await.is_none());
        serving.end().await;
    }
    pool.shutdown().await;
}

/// F39.
#[tokio::test]
async fn f39_late_and_foreign_answers_are_dropped_and_counted() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    // A worker of another program, which answers as it likes.
    let call = stage
        .broker
        .call(Call::<i64>::json("odd", &json!([7])).queue_timeout(millis(3_000)));
    let queue = stage.name("odd");
    until("the request", async || plain.counts(&queue).await.0 == 1).await;
    let mut requests = plain.consume(&queue).await;
    let request = soon("the request", requests.next()).await.unwrap().unwrap();
    let to = request.properties.reply_to().clone().unwrap();
    let id = request.properties.correlation_id().clone().unwrap();
    // No worker said that it has begun, so its time is over.
    let error = soon("its timeout", call).await.unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut(TimedOut::Queue(_))),
        "{error:?}"
    );
    let answer = |id: lapin::types::ShortString| BasicProperties::default().with_correlation_id(id);
    plain.publish(to.as_str(), b"8", answer(id)).await;
    plain
        .publish(to.as_str(), b"8", answer("not-ours-1".into()))
        .await;
    plain
        .publish(to.as_str(), b"8", BasicProperties::default())
        .await;
    until("they are counted", async || {
        (
            stage.broker.call_counts().late,
            stage.broker.call_counts().foreign,
        ) == (1, 2)
    })
    .await;
    // The next one is answered as ever.
    let call = stage.broker.call(Call::<i64>::json("odd", &json!([9])));
    let request = soon("the request", requests.next()).await.unwrap().unwrap();
    assert_eq!(request.data, b"[9]");
    let id = request.properties.correlation_id().clone().unwrap();
    plain.publish(to.as_str(), b"10", answer(id)).await;
    assert_eq!(soon("its answer", call).await.unwrap(), 10);
}

/// F39.
#[tokio::test]
async fn f39_a_queue_that_is_deleted_is_made_again_for_the_next_call() {
    let stage = Stage::new().await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    serving.end().await;
    let plain = stage.plain().await;
    plain
        .channel
        .queue_delete(stage.name("add").into(), Default::default())
        .await
        .unwrap();
    // It comes back as unroutable, and is published once more.
    let call = stage.broker.call(add(3, 4));
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    assert_eq!(soon("a sum", call).await.unwrap(), 7);
    serving.end().await;
}

/// F39.
#[tokio::test]
async fn f39_a_caller_that_is_gone_is_nobodys_trouble() {
    let stage = Stage::new().await;
    let plain = stage.plain().await;
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    let gone = BasicProperties::default()
        .with_reply_to("missing-queue".into())
        .with_correlation_id("1".into());
    plain.publish(&stage.name("add"), b"[3, 4]", gone).await;
    assert_eq!(
        soon("a sum", stage.broker.call(add(5, 6))).await.unwrap(),
        11
    );
    assert_eq!(serving.end().await.done, 3);
    until("nothing is left", async || {
        plain.counts(&stage.name("add")).await == (0, 0)
    })
    .await;
}

/// The broker closes the channel by which a cancel without that right comes, with all that is under
/// way there.
#[tokio::test]
async fn bad_use_a_cancel_that_is_not_allowed_takes_no_call_along() {
    let stage = Stage::new().await;
    let clerk = format!("clerk-{}", stage.namespace);
    let server = stage.server;
    let user = clerk.clone();
    let allow = move || {
        server.ctl(&["add_user", &user, "secret"])?;
        server.ctl(&[
            "set_permissions",
            &user,
            ".*",
            "^(?!brigade\\.control$)",
            ".*",
        ])
    };
    tokio::task::spawn_blocking(allow).await.unwrap().unwrap();
    let url = format!(
        "{}/?ns={}",
        stage
            .server
            .url()
            .replace("amqp://", &format!("amqp://{clerk}:secret@")),
        stage.namespace
    );
    let broker = Broker::connect(&url).await.unwrap();
    let calls: Vec<_> = (0..40)
        .map(|n| {
            if n % 8 == 0 {
                drop(broker.call(add(n, 0)));
            }
            broker.call(add(n, 1))
        })
        .collect();
    let serving = Serving::start(stage.elsewhere().await.consumer().task(add).in_process());
    for (n, call) in (0..).zip(calls) {
        assert_eq!(soon("a sum", call).await.unwrap(), n + 1);
    }
    serving.end().await;
}

#[tokio::test]
async fn a_call_whose_broker_is_dropped_ends() {
    let stage = Stage::new().await;
    let broker = stage.elsewhere().await;
    let calling = broker.call(add(1, 2));
    drop(broker);
    let CallError::Rejected(error) = soon("its end", calling).await.unwrap_err() else {
        panic!("rejected")
    };
    assert!(
        error.kind() == ErrorKind::Closed && error.is_uncertain(),
        "{error:?}"
    );
}

/// What other programs may send.
#[tokio::test]
async fn nonsense_is_answered_with_the_reason() {
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
    let mine = plain.own_queue().await;
    let mut answers = plain.consume(&mine).await;
    let cases: [(&str, &[u8], &str, &str); 6] = [
        ("add", b"[1, 2]", "", "3"),
        ("add", b"not JSON", "rejected", "not JSON"),
        ("add", b"\xff\xfe", "rejected", "UTF-8"),
        ("add", b"{\"a\": 1}", "rejected", "arguments"),
        ("add", b"[1, 2, 3]", "rejected", "arguments"),
        ("fails", b"[\"no\"]", "failed", "no"),
    ];
    for (number, (queue, body, kind, text)) in cases.into_iter().enumerate() {
        let id = number.to_string();
        let asks = BasicProperties::default()
            .with_reply_to(mine.as_str().into())
            .with_correlation_id(id.as_str().into());
        plain.publish(&stage.name(queue), body, asks).await;
        let answer = soon("an answer", answers.next()).await.unwrap().unwrap();
        assert_eq!(
            answer
                .properties
                .correlation_id()
                .as_ref()
                .unwrap()
                .as_str(),
            id
        );
        assert_eq!(
            header(&answer.properties, "brigade-error").unwrap_or_default(),
            kind
        );
        let body = String::from_utf8(answer.data).unwrap();
        assert!(body.contains(text), "{body}");
        if !kind.is_empty() {
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&body).unwrap()["kind"],
                kind
            );
        }
    }
    serving.end().await;
}

//! Bad use of the broker: wrong URLs, rights and options, queues with other arguments, messages of
//! other programs that are no jobs.
//!
//! Each gets an error that says what to do, or is a dead letter with the reason in
//! `brigade-reason`, and the good jobs of the same queue are run. The tests share one server, each
//! in a namespace of its own.

use std::time::Instant;

use brigade::{Broker, ErrorKind, Settled};
use brigade_testkit::rabbitmq::RabbitMq;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::stage::{BOUND, LONG, NOW, get, millis, plain, publish, shared, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_what_cannot_be_connected_to_is_told_at_once() {
    let server = RabbitMq::shared().unwrap();
    let port = server.port();
    let began = Instant::now();
    let refused = |url: String| async move { Broker::connect(&url).await.unwrap_err() };
    let error = refused(format!("amqp://guest:wrong@127.0.0.1:{port}")).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let error = refused(format!("amqp://stranger:x@127.0.0.1:{port}/")).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    // F37: lapin once waited for ever here.
    let error = refused(format!("amqp://127.0.0.1:{port}/no-such-vhost")).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let error = refused(format!(
        "amqp://127.0.0.1:{}",
        brigade_testkit::places::free_port()
    ))
    .await;
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_retryable(),
        "{error:?}"
    );
    assert!(began.elapsed() < BOUND);
    for url in [
        "amqp://",
        "amqp://h:0",
        "amqp://u@h",
        "amqp://h?queues=odd",
        "amqp://h?x=1",
        "amqp://h/a/b",
        "amqp://h?priorities=0",
        "amqp:h",
    ] {
        assert_eq!(
            refused(url.to_owned()).await.kind(),
            ErrorKind::BadOption,
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_a_server_of_another_kind_is_no_broker() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .ok();
        }
    });
    let error = Broker::connect(&format!("amqp://127.0.0.1:{port}"))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unreachable),
        "{error:?}"
    );
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_a_queue_with_other_arguments_is_used_as_it_is() {
    let (url, namespace) = shared("");
    let channel = plain(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::LongInt(3));
    channel
        .queue_declare(
            format!("{namespace}.other").into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .unwrap();
    let broker = Broker::connect(&url).await.unwrap();
    let queue = broker.queue("other");
    queue.push(&1).await.unwrap();
    queue.push(&2).await.unwrap();
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "1");
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    lease.nack_later("busy", millis(1)).await.unwrap();
    assert!(
        queue.take(millis(300)).await.unwrap().is_none(),
        "no attempt was left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_a_queue_of_another_connection_alone_is_a_clear_error() {
    let (url, namespace) = shared("");
    let channel = plain(&url).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(
            format!("{namespace}.mine").into(),
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let broker = Broker::connect(&url).await.unwrap();
    for wait in [NOW, LONG] {
        let error = broker.queue("mine").lease(LONG, wait).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    }
    // Other queues go on.
    broker.queue("q").push(&1).await.unwrap();
    assert!(broker.queue("q").take(LONG).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_a_body_that_is_not_json_goes_to_the_dead_letters_with_the_reason() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let (queue, name) = (broker.queue("q"), format!("{namespace}.q"));
    queue.push(&1).await.unwrap();
    publish(
        &channel,
        &name,
        "{odd",
        BasicProperties::default().with_correlation_id("c".into()),
    )
    .await;
    let mut headers = FieldTable::default();
    headers.insert(
        "brigade-options".into(),
        AMQPValue::LongString("nonsense".into()),
    );
    publish(
        &channel,
        &name,
        "[7]",
        BasicProperties::default().with_headers(headers),
    )
    .await;
    queue.push(&2).await.unwrap();
    for n in ["1", "2"] {
        assert_eq!(queue.take(LONG).await.unwrap().unwrap().json(), n);
    }
    let dead = format!("{name}.dead");
    let mut found = Vec::new();
    let began = Instant::now();
    while found.len() < 2 {
        assert!(began.elapsed() < BOUND, "{found:?}");
        // Before the first dead letter the queue does not exist, and a request for it ends the
        // channel.
        let channel = plain(&url).await;
        let options = lapin::options::BasicGetOptions { no_ack: true };
        if let Ok(Some(message)) = channel.basic_get(dead.as_str().into(), options).await {
            let headers = message.delivery.properties.headers().clone().unwrap();
            let body = String::from_utf8(message.delivery.data).unwrap();
            found.push((
                body,
                text(&headers, "brigade-reason"),
                text(&headers, "brigade-queue"),
            ));
        }
    }
    found.sort();
    assert_eq!(
        (
            found[0].0.as_str(),
            found[1].0.as_str(),
            found[0].2.as_str()
        ),
        ("[7]", "{odd", "q")
    );
    assert!(
        found[0]
            .1
            .contains("options cannot be read: they are no JSON object")
            && found[1].1.contains("not JSON"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_pushes_and_takes_with_nothing_but_json() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let (queue, name) = (broker.queue("hello"), format!("{namespace}.hello"));
    // As `assertQueue` of any client does it: the same as ours.
    channel
        .queue_declare(
            name.as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    publish(&channel, &name, r#"[1, "two"]"#, BasicProperties::default()).await;
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!(
        (
            lease.payload::<serde_json::Value>().unwrap(),
            lease.attempt()
        ),
        (json!([1, "two"]), 1)
    );
    // Given back, it is a job like any other, and what the client had written stays with it.
    lease.pass("not now").await.unwrap();
    let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    queue.push(&json!({"to": "ann"})).await.unwrap();
    channel
        .queue_declare(
            name.as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    // It may have come for a lease request that has ended: then the consumer gives it back.
    let mut got = None;
    let began = Instant::now();
    while got.is_none() && began.elapsed() < BOUND {
        got = get(&channel, &name).await;
    }
    assert_eq!(got.unwrap().0, r#"{"to":"ann"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_use_what_is_too_large_is_refused_before_it_is_sent() {
    let (url, _) = shared("");
    let broker = Broker::connect(&url).await.unwrap();
    let text = "x".repeat(broker.capabilities().payload_bytes_max);
    assert_eq!(
        broker.queue("q").push(&text).await.unwrap_err().kind(),
        ErrorKind::TooLarge
    );
    let long = broker.queue("q").job(&1).unwrap().label("l".repeat(60_000));
    assert_eq!(
        broker.push(long).await.unwrap_err().kind(),
        ErrorKind::BadOption
    );
    assert_eq!(
        broker
            .queue("amq.q")
            .push(&1)
            .await
            .err()
            .map(|error| error.kind()),
        None,
        "with a namespace it is no reserved name"
    );
    let bare = Broker::connect(&RabbitMq::shared().unwrap().url())
        .await
        .unwrap();
    assert_eq!(
        bare.queue("amq.q").push(&1).await.unwrap_err().kind(),
        ErrorKind::BadOption
    );
    assert!(broker.queue("q").take(NOW).await.unwrap().is_none());
}

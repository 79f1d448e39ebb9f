//! Messages that were made to do harm.
//!
//! A plain AMQP connection publishes them: strings with control characters or bytes that are not
//! UTF-8, headers of wrong types or nested too deep, counters and times at the ends of their
//! ranges, headers that are larger than a frame. Each becomes a dead letter with the reason, or a
//! job like any other. After each, the consumer takes a good job, so it was not ended by the bad
//! message.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};

use brigade::{Broker, task};
use brigade_testkit::rabbitmq::RabbitMq;
use brigade_testkit::rabbitmq::raw::{Properties, Raw, long, place, short};
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};

use crate::stage::{BOUND, LONG, plain, publish, shared, text, until};

static RAN: AtomicU64 = AtomicU64::new(0);

#[task]
fn attacked(n: u64) {
    RAN.fetch_add(n, Ordering::SeqCst);
}

fn with(at: u16, text: &[u8]) -> Properties {
    Properties {
        strings: vec![(at, text.to_vec())],
        ..Properties::default()
    }
}

fn header(name: &[u8], kind: u8, value: &[u8]) -> Properties {
    Properties {
        headers: Some([&short(name)[..], &[kind], value].concat()),
        ..Properties::default()
    }
}

fn nested(depth: usize, kind: u8) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| {
        let name = if kind == b'F' { &[1, b'k'][..] } else { b"" };
        [name, &[kind], &long(&inner)].concat()
    })
}

/// What is refused, with words that only reasons of its kind have.
fn harmful() -> Vec<(Properties, &'static [u8], &'static str)> {
    let options = |text: &str| header(b"brigade-options", b'S', &long(text.as_bytes()));
    vec![
        (with(place::MESSAGE_ID, b"a\0b"), b"[1000]", "message_id"),
        (
            with(place::MESSAGE_ID, b"\xff\xfe"),
            b"[1000]",
            "message_id",
        ),
        (
            with(place::MESSAGE_ID, b"\x1b[2Jgone"),
            b"[1000]",
            "message_id",
        ),
        (
            with(place::CORRELATION_ID, b"c\r\nforged: line"),
            b"[1000]",
            "correlation_id",
        ),
        (
            with(place::CORRELATION_ID, &[0xc3; 255]),
            b"[1000]",
            "correlation_id",
        ),
        (with(place::APP_ID, b"brigade\0"), b"[1000]", "app_id"),
        (
            with(place::CONTENT_TYPE, b"\xf0\x9f"),
            b"[1000]",
            "content_type",
        ),
        (with(place::REPLY_TO, b"no\0where"), b"[1000]", "reply_to"),
        (with(place::REPLY_TO, b"\xff"), b"[1000]", "reply_to"),
        (
            header(b"brigade-task", b'S', &long(b"a\0b")),
            b"[1000]",
            "brigade-task",
        ),
        (
            header(b"brigade-task", b'S', &long(b"\xff")),
            b"[1000]",
            "brigade-task",
        ),
        (
            header(b"brigade-task", b'I', &[0, 0, 0, 1]),
            b"[1000]",
            "brigade-task",
        ),
        (
            header(b"brigade-failed", b'S', &long(b"many")),
            b"[1000]",
            "brigade-failed",
        ),
        (
            header(b"brigade-crashed", b'l', &[0xff; 8]),
            b"[1000]",
            "brigade-crashed",
        ),
        (
            header(b"brigade-options", b'F', &long(&nested(20, b'F'))),
            b"[1000]",
            "brigade-options",
        ),
        (options(r#"{"retries": -1}"#), b"[1000]", "options cannot"),
        (
            options(r#"{"timeout": {"secs": 18446744073709551615, "nanos": 4294967295}}"#),
            b"[1000]",
            "options cannot",
        ),
        (Properties::default(), b"\xff\xfe", "body is not UTF-8"),
        (Properties::default(), b"", "body is not JSON"),
    ]
}

/// What is odd, and a job all the same.
fn odd() -> Vec<Properties> {
    let whole = |name: &str, number: i64| header(name.as_bytes(), b'l', &number.to_be_bytes());
    vec![
        header(b"\xff\xfe", b't', &[1]),
        header(b"deep", b'A', &long(&nested(20_000, b'A'))),
        header(b"deep", b'F', &long(&nested(10_000, b'F'))),
        header(b"bytes", b'x', &long(&[0xff; 60_000])),
        with(place::MESSAGE_ID, &[b'i'; 255]),
        whole("brigade-failed", i64::MAX),
        whole("brigade-crashed", i64::from(u32::MAX)),
        whole("brigade-interrupted", i64::from(u32::MAX)),
        whole("brigade-seq", i64::MAX),
        whole("brigade-due", 0),
        header(
            b"brigade-history",
            b'S',
            &long("[".repeat(50_000).as_bytes()),
        ),
        header(b"brigade-passed-by", b'I', &[0xff; 4]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_messages_end_no_consumer_and_leave_the_reason() {
    let (url, namespace) = shared("");
    let broker = Broker::connect(&url).await.unwrap();
    broker.queue("attacked").push(&[0]).await.unwrap();
    let worker = broker.consumer().task(attacked).in_process();
    let handle = worker.handle();
    let serving = tokio::spawn(worker.run_until(pending::<()>()));
    let name = format!("{namespace}.attacked");
    let port = RabbitMq::shared().unwrap().port();
    let (sent, wanted) = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(port).unwrap();
        let mut wanted = 0;
        for (properties, body, _) in harmful() {
            raw.publish(&name, &properties, body).unwrap();
            // Others go on.
            raw.publish(&name, &Properties::default(), b"[1]").unwrap();
            wanted += 1;
        }
        for properties in odd() {
            raw.publish(&name, &properties, b"[1]").unwrap();
            wanted += 1;
        }
        (harmful(), wanted)
    })
    .await
    .unwrap();
    until("all that can be run has run", async || {
        RAN.load(Ordering::SeqCst) == wanted
    })
    .await;
    let dead = format!("{namespace}.attacked.dead");
    let channel = tokio::time::timeout(BOUND, plain_with(&url, &dead))
        .await
        .unwrap();
    let mut reasons = Vec::new();
    while reasons.len() < sent.len() {
        let found = tokio::time::timeout(BOUND, dead_letter(&channel, &dead)).await;
        reasons.push(found.unwrap_or_else(|_| panic!("a dead letter is missing: {reasons:#?}")));
    }
    for (properties, body, word) in sent {
        let place = reasons.iter().position(|reason| reason.contains(word));
        let place =
            place.unwrap_or_else(|| panic!("{word}: {properties:?} {body:?}: {reasons:#?}"));
        assert!(!reasons.swap_remove(place).chars().any(char::is_control));
    }
    assert_eq!(handle.stats().served.done, wanted + 1);
    handle.drain();
    serving.await.unwrap().unwrap();
    // Nothing is there a second time.
    assert_eq!(RAN.load(Ordering::SeqCst), wanted);
}

async fn dead_letter(channel: &lapin::Channel, queue: &str) -> String {
    loop {
        if let Some(message) = channel
            .basic_get(queue.into(), BasicGetOptions { no_ack: true })
            .await
            .unwrap()
        {
            return text(
                message.delivery.properties.headers().as_ref().unwrap(),
                "brigade-reason",
            );
        }
        tokio::task::yield_now().await;
    }
}

/// The broker makes a copy of a message for each queue that its header CC names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_makes_no_copies_elsewhere() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let spy = format!("{namespace}-spy");
    channel
        .queue_declare(
            spy.as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    broker.queue("q").push(&1).await.unwrap();
    let copies = FieldArray::from(vec![AMQPValue::LongString(spy.as_str().into())]);
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(copies));
    let properties = lapin::BasicProperties::default().with_headers(headers);
    publish(&channel, &format!("{namespace}.q"), "no JSON", properties).await;
    broker.queue("q").push(&2).await.unwrap();
    for n in ["1", "2"] {
        assert_eq!(
            broker.queue("q").take(LONG).await.unwrap().unwrap().json(),
            n
        );
    }
    let dead = format!("{namespace}.q.dead");
    let there = plain_with(&url, &dead).await;
    assert!(
        tokio::time::timeout(BOUND, dead_letter(&there, &dead))
            .await
            .unwrap()
            .contains("JSON")
    );
    let options = QueueDeclareOptions::default().passive();
    let copies = channel
        .queue_declare(spy.as_str().into(), options, FieldTable::default())
        .await
        .unwrap()
        .message_count();
    assert_eq!(copies, 1, "the sender's own");
    channel
        .queue_delete(spy.as_str().into(), Default::default())
        .await
        .unwrap();
}

/// A channel, once the queue is there.
async fn plain_with(url: &str, queue: &str) -> lapin::Channel {
    loop {
        let channel = plain(url).await;
        let options = QueueDeclareOptions::default().passive();
        if channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .is_ok()
        {
            return channel;
        }
    }
}

/// The end of a job in all its ways, with numbers that cannot be added to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_and_times_at_their_ends_do_not_overflow() {
    let (url, namespace) = shared("");
    let (broker, channel) = (Broker::connect(&url).await.unwrap(), plain(&url).await);
    let queue = broker.queue("q");
    queue.push(&0).await.unwrap();
    queue.take(LONG).await.unwrap().unwrap();
    for n in 0..3 {
        let mut headers = FieldTable::default();
        for name in [
            "brigade-failed",
            "brigade-crashed",
            "brigade-interrupted",
            "brigade-seq",
        ] {
            headers.insert(name.into(), AMQPValue::LongLongInt(u32::MAX.into()));
        }
        let options = r#"{"retries": 4294967295, "retry": {"base": {"secs": 9999999999999999999, "nanos": 0}, "cap": {"secs": 9999999999999999999, "nanos": 0}, "within": {"secs": 9999999999999999999, "nanos": 0}}, "timeout": {"secs": 18446744073709551615, "nanos": 0}}"#;
        let mut options: serde_json::Value = serde_json::from_str(options).unwrap();
        let whole = serde_json::to_value(brigade_options()).unwrap();
        for (name, value) in whole.as_object().unwrap() {
            options
                .as_object_mut()
                .unwrap()
                .entry(name.clone())
                .or_insert(value.clone());
        }
        headers.insert(
            "brigade-options".into(),
            AMQPValue::LongString(options.to_string().into()),
        );
        publish(
            &channel,
            &format!("{namespace}.q"),
            &n.to_string(),
            lapin::BasicProperties::default()
                .with_app_id("brigade".into())
                .with_headers(headers),
        )
        .await;
        let lease = queue
            .lease(std::time::Duration::MAX, std::time::Duration::MAX)
            .await
            .unwrap()
            .expect("it is handed out");
        match n {
            0 => drop(lease.ack().await.unwrap()),
            1 => drop(
                lease
                    .nack_later("no", std::time::Duration::MAX)
                    .await
                    .unwrap(),
            ),
            _ => drop(lease.dead_letter("no").await.unwrap()),
        }
    }
}

/// What is needed of options to be read.
fn brigade_options() -> serde_json::Value {
    serde_json::json!({
        "priority": 0, "retries": 0, "retry": {"base": {"secs": 0, "nanos": 0}, "cap": {"secs": 0, "nanos": 0}}, "delay": null, "at": null,
        "key": null, "partition": null, "unique": null, "unique_for": null, "timeout": null, "memory": null, "label": null, "keep": null,
    })
}

/// A frame with the properties and headers of a message has a size that both sides agreed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_into_a_frame_is_shortened() {
    let server = tokio::task::block_in_place(|| RabbitMq::start(&["frame_max = 8192"]).unwrap());
    let broker = crate::stage::connect(&server, "").await;
    let queue = broker.queue("q");
    let pause = brigade::Retry::exponential(crate::stage::millis(1), crate::stage::millis(1));
    broker
        .push(queue.job(&1).unwrap().retries(30).retry(pause))
        .await
        .unwrap();
    // Its history grows beyond the frame.
    for _ in 0..15 {
        let lease = queue
            .lease(LONG, LONG)
            .await
            .unwrap()
            .expect("it comes again");
        lease.nack("long ".repeat(300)).await.unwrap();
    }
    // The longest texts that a job may have fit.
    let large = queue
        .job(&2)
        .unwrap()
        .label("x".repeat(1_024))
        .task("x".repeat(200));
    broker.push(large).await.unwrap();
    for _ in 0..2 {
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        lease.ack().await.unwrap();
    }
    assert!(
        !server.log().contains("frame_too_large"),
        "the server ended no connection"
    );
}

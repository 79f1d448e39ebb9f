//! What these tests share: a server and a broker, and a plain AMQP connection.

use std::future::Future;
use std::time::Duration;

use brigade::Broker;
use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

pub(crate) const NOW: Duration = Duration::ZERO;
/// A lease that does not run out within a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// No step takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The server that all share, with names of its own: the URL, and what is in front of all names.
pub(crate) fn shared(options: &str) -> (String, String) {
    let namespace = namespace();
    (
        format!(
            "{}?ns={namespace}{options}",
            RabbitMq::shared().unwrap().url()
        ),
        namespace,
    )
}

/// As another program has it.
pub(crate) async fn plain(url: &str) -> Channel {
    let connection =
        Connection::connect(&url.replace("?", "/%2f?"), ConnectionProperties::default())
            .await
            .unwrap();
    connection.create_channel().await.unwrap()
}

pub(crate) async fn publish(
    channel: &Channel,
    queue: &str,
    body: &str,
    properties: BasicProperties,
) {
    let publishing = channel.basic_publish(
        "".into(),
        queue.into(),
        BasicPublishOptions::default(),
        body.as_bytes(),
        properties,
    );
    publishing.await.unwrap().await.unwrap();
}

/// The next message of a queue: its body and its headers.
pub(crate) async fn get(channel: &Channel, queue: &str) -> Option<(String, FieldTable)> {
    let message = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()?;
    let headers = message
        .delivery
        .properties
        .headers()
        .clone()
        .unwrap_or_default();
    Some((String::from_utf8(message.delivery.data).unwrap(), headers))
}

pub(crate) fn text(headers: &FieldTable, name: &str) -> String {
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

/// Asks again and again, bounded, until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(BOUND, asking).await.is_ok(),
        "never came: {what}"
    );
}

/// Runs `rabbitmqctl`, which is slow, without blocking the runtime.
pub(crate) async fn ctl(server: &RabbitMq, arguments: &[&str]) -> String {
    tokio::task::block_in_place(|| server.ctl(arguments)).unwrap()
}

pub(crate) async fn connect(server: &RabbitMq, options: &str) -> Broker {
    Broker::connect(&format!("{}?{options}", server.url()))
        .await
        .unwrap()
}

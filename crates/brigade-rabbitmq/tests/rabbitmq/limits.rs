//! Limits of a vhost, and what is done where they are reached.

use brigade::{Broker, ErrorKind};
use brigade_testkit::rabbitmq::RabbitMq;

use crate::stage::{LONG, ctl, millis, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_vhost_are_named_as_what_they_are() {
    let server = tokio::task::block_in_place(|| RabbitMq::start(&[]).unwrap());
    let broker = Broker::connect(&server.url()).await.unwrap();
    broker.queue("there").push(&1).await.unwrap();
    ctl(
        &server,
        &["set_vhost_limits", "-p", "/", r#"{"max-queues": 1}"#],
    )
    .await;
    for error in [
        broker.queue("more").push(&1).await.unwrap_err(),
        broker
            .queue("more")
            .lease(LONG, millis(2000))
            .await
            .unwrap_err(),
        broker.queue("more").take(millis(0)).await.unwrap_err(),
    ] {
        assert!(
            error.kind() == ErrorKind::QueueFull && error.to_string().contains("max-queues"),
            "{error:?}"
        );
    }
    // What is there goes on.
    broker.queue("there").push(&2).await.unwrap();
    assert!(broker.queue("there").take(LONG).await.unwrap().is_some());
    // No channel is opened five times a second for the one that cannot be.
    let refusals = || server.log().matches("queue limit").count();
    let before = refusals();
    let waiting = broker.queue("more").lease(LONG, millis(3000)).await;
    assert!(waiting.is_err());
    assert!(refusals() - before <= 8, "{}", refusals() - before);
    ctl(
        &server,
        &["set_vhost_limits", "-p", "/", r#"{"max-connections": 2}"#],
    )
    .await;
    let error = Broker::connect(&server.url()).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::QueueFull && error.to_string().contains("max-connections"),
        "{error:?}"
    );
    ctl(&server, &["clear_vhost_limits", "-p", "/"]).await;
    broker.queue("more").push(&1).await.unwrap();
    // It is tried again after a pause.
    until("its job is taken", async || {
        broker
            .queue("more")
            .take(LONG)
            .await
            .is_ok_and(|job| job.is_some())
    })
    .await;
}

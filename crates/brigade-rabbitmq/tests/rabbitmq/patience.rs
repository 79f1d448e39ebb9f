//! F38: the broker takes back what is held for longer than its `consumer_timeout`, and closes the
//! channel.
//!
//! If the URL names that time, the consumer refreshes each delivery before it is over, and no lease
//! is lost. If the URL does not, the leases are lost once; the process learns the time from the
//! error, and no result is counted twice.

use std::collections::BTreeMap;
use std::time::Duration;

use brigade::{Broker, Settled};
use brigade_testkit::rabbitmq::RabbitMq;
use brigade_testkit::random::Random;

use crate::stage::{BOUND, LONG, NOW, connect, ctl, millis, until};

/// A server with this `consumer_timeout`, that looks at it often: by default it does once a minute.
async fn impatient(timeout: Duration) -> RabbitMq {
    let line = format!("consumer_timeout = {}", timeout.as_millis());
    let server = tokio::task::block_in_place(|| RabbitMq::start(&[&line])).unwrap();
    ctl(
        &server,
        &[
            "eval",
            "application:set_env(rabbit, channel_tick_interval, 300).",
        ],
    )
    .await;
    server
}

/// Names, and how many messages are in them.
async fn queues(server: &RabbitMq) -> Vec<(String, String)> {
    let text = ctl(
        server,
        &["list_queues", "--formatter", "json", "name", "messages"],
    )
    .await;
    let queues: Vec<BTreeMap<String, serde_json::Value>> = serde_json::from_str(&text).unwrap();
    let field = |queue: &BTreeMap<String, serde_json::Value>, name: &str| {
        queue[name].to_string().trim_matches('"').to_owned()
    };
    queues
        .iter()
        .map(|queue| (field(queue, "name"), field(queue, "messages")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f38_what_the_broker_took_back_is_another_s_and_the_first_result_is_refused() {
    let server = impatient(millis(1_000)).await;
    let (first, second) = (
        connect(&server, "ns=f38").await,
        connect(&server, "ns=f38").await,
    );
    first.queue("q").push(&1).await.unwrap();
    let held = first.queue("q").lease(LONG, LONG).await.unwrap().unwrap();
    let again = second.queue("q").lease(LONG, BOUND).await.unwrap().unwrap();
    assert_eq!((again.id(), again.attempt()), (held.id(), 1));
    assert_eq!(again.ack().await.unwrap(), Settled::Accepted(None));
    assert_eq!(held.extend(LONG).await.unwrap(), Settled::Stale);
    assert_eq!(held.ack().await.unwrap(), Settled::Stale);
    // It goes on taking.
    first.queue("q").push(&2).await.unwrap();
    let next = first.queue("q").lease(LONG, BOUND).await.unwrap().unwrap();
    assert_eq!(next.ack().await.unwrap(), Settled::Accepted(None));
}

/// Settles jobs at random moments around those in which their deliveries are exchanged; each is
/// settled once.
async fn settle_around_the_exchange(broker: Broker, timeout: Duration) {
    const JOBS: usize = 40;
    let mut random = Random::from_env();
    println!("BRIGADE_SEED={}", random.seed());
    let queue = broker.queue("race");
    for job in 0..JOBS {
        queue.push(&job).await.unwrap();
    }
    let mut settling = Vec::new();
    for _ in 0..JOBS {
        let lease = queue.lease(LONG, BOUND).await.unwrap().unwrap();
        let after = random.time(timeout * 2 / 5..timeout * 9 / 10);
        let gives_back = random.within(0..4) == 0;
        settling.push(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let job: usize = lease.payload().unwrap();
            let settled = if gives_back {
                lease.give_back("a test").await
            } else {
                lease.ack().await
            };
            assert_eq!(settled.unwrap(), Settled::Accepted(None));
            (job, usize::from(gives_back))
        }));
    }
    let mut owed = BTreeMap::new();
    for one in settling {
        let (job, more) = one.await.unwrap();
        owed.insert(job, more);
    }
    while owed.values().any(|more| *more > 0) {
        let lease = queue.lease(LONG, BOUND).await.unwrap().unwrap();
        *owed
            .get_mut(&lease.payload().unwrap())
            .filter(|more| **more > 0)
            .expect("it was given back") -= 1;
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    assert!(queue.take(millis(500)).await.unwrap().is_none());
}

/// The URL names the broker's time, so a delivery is refreshed in time however long it is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f38_what_is_held_for_longer_than_the_broker_allows_stays_its_holder_s() {
    let timeout = millis(5_000);
    let mut server = impatient(timeout).await;
    let options = "ns=f38&consumer_timeout=5s";
    let (first, second) = (
        connect(&server, options).await,
        connect(&server, options).await,
    );
    let race = tokio::spawn(settle_around_the_exchange(first.clone(), timeout));
    let queue = first.queue("q");
    queue.push(&1).await.unwrap();
    queue.push(&2).await.unwrap();
    let held = [
        queue.lease(LONG, NOW).await.unwrap().unwrap(),
        queue.lease(LONG, LONG).await.unwrap().unwrap(),
    ];
    // One exchange, and the time of what was exchanged as well.
    let wait = if brigade_testkit::full() {
        timeout * 12
    } else {
        timeout * 8 / 5
    };
    assert!(
        second.queue("q").take(wait).await.unwrap().is_none(),
        "they are held"
    );
    for lease in held {
        assert_eq!(lease.extend(LONG).await.unwrap(), Settled::Accepted(None));
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    race.await.unwrap();
    // Both have been there; the server counts with a delay of seconds.
    let is_empty = async || {
        let queues = queues(&server).await;
        queues
            .iter()
            .filter(|(name, messages)| name.contains(".held.") && messages == "0")
            .count()
            == 2
    };
    until("nothing is left of the copies", is_empty).await;
    assert!(
        second.queue("q").take(millis(300)).await.unwrap().is_none(),
        "they are done"
    );

    // What was exchanged is not lost when the server is killed.
    queue.push(&3).await.unwrap();
    let held = queue.lease(LONG, LONG).await.unwrap().unwrap();
    let is_exchanged = async || {
        let queues = queues(&server).await;
        let held = queues
            .iter()
            .any(|(name, messages)| name.contains("q.held.") && messages == "1");
        held && queues.contains(&("f38.q".to_owned(), "0".to_owned()))
    };
    until("its delivery is exchanged", is_exchanged).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    let again = second.queue("q").lease(LONG, BOUND).await.unwrap().unwrap();
    assert_eq!((again.json(), again.attempt()), ("3", 1));
    assert_eq!(again.ack().await.unwrap(), Settled::Accepted(None));
    assert!(
        held.ack()
            .await
            .is_ok_and(|settled| settled == Settled::Stale)
    );
    assert!(
        second.queue("q").take(millis(300)).await.unwrap().is_none(),
        "there was one of it"
    );
}

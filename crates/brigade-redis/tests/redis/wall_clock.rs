//! A server whose wall clock is set while it runs: leases and rates keep their time, and what is
//! due at a moment of the wall clock comes at that moment.

use std::time::Duration;

use brigade::{Broker, Limits, Settled};
use brigade_testkit::redis::Redis;
use brigade_testkit::wall_clock::WallClock;

use crate::stage::{BOUND, LONG, NOW, until};

async fn stage() -> (WallClock, Redis, Broker, Broker) {
    let clock = WallClock::new().unwrap();
    let server = Redis::start_in(&[], clock.environment()).unwrap();
    let broker = Broker::connect(&server.url()).await.unwrap();
    let other = Broker::connect(&server.url()).await.unwrap();
    (clock, server, broker, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_lease_holds_however_the_servers_wall_clock_is_set() {
    let (clock, server, broker, other) = stage().await;
    broker.queue("q").push(&1).await.unwrap();
    let lease = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
    for offset in ["+1h", "-3h", "+2d", "+0"] {
        clock.set(offset).unwrap();
        assert!(
            other.queue("q").lease(LONG, NOW).await.unwrap().is_none(),
            "at {offset}"
        );
        assert_eq!(
            lease.extend(LONG).await.unwrap(),
            Settled::Accepted(None),
            "at {offset}"
        );
    }
    clock.set("+1h").unwrap();
    until("the server has the correction for all", async || {
        let stored = server
            .ask("HGET brigade:{brigade.clock}:corrections server")
            .unwrap();
        stored.contains(":-3600") || stored.contains(":-3599")
    })
    .await;
    let new = Broker::connect(&server.url()).await.unwrap();
    assert!(new.queue("q").lease(LONG, NOW).await.unwrap().is_none());
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_not_renewed_runs_out_in_its_time_though_the_wall_clock_was_set_back() {
    let (clock, _server, broker, other) = stage().await;
    broker.queue("q").push(&1).await.unwrap();
    let lease = broker
        .queue("q")
        .lease(Duration::from_secs(2), NOW)
        .await
        .unwrap()
        .unwrap();
    clock.set("-1h").unwrap();
    let again = other.queue("q").lease(LONG, BOUND).await.unwrap();
    assert_eq!(again.expect("it comes again").id(), lease.id());
    assert_eq!(lease.ack().await.unwrap(), Settled::Stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_goes_on_though_the_wall_clock_was_set_back() {
    let (clock, _server, broker, _) = stage().await;
    let queue = broker.queue("q");
    queue
        .limit(Limits::new().starts(1, Duration::from_secs(1)))
        .await
        .unwrap();
    for number in 0..3 {
        queue.push(&number).await.unwrap();
    }
    for (number, offset) in [(0, "-1h"), (1, "+1h"), (2, "+0")] {
        let job = queue.take(BOUND).await.unwrap().expect("it is its turn");
        assert_eq!(job.payload::<u32>().unwrap(), number);
        clock.set(offset).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_a_date_comes_when_the_wall_clock_shows_that() {
    let (clock, _server, broker, other) = stage().await;
    let queue = broker.queue("q");
    let date = std::time::SystemTime::now() + Duration::from_secs(1800);
    broker.push(queue.job(&1).unwrap().at(date)).await.unwrap();
    assert!(other.queue("q").take(NOW).await.unwrap().is_none());
    clock.set("+1h").unwrap();
    assert!(other.queue("q").take(BOUND).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_consumer_stays_listed_however_the_servers_wall_clock_is_set() {
    let (clock, _server, broker, other) = stage().await;
    let consumer = broker.consumer().queue("q").in_process();
    let handle = consumer.handle();
    let listed = async {
        until("it is listed", async || {
            other.consumers().await.unwrap().len() == 1
        })
        .await;
        // Sooner than it announces itself again. The list itself outlasts steps of less than a day.
        for offset in ["+1h", "-3h", "+12h", "+0"] {
            clock.set(offset).unwrap();
            let consumers = other.consumers().await.unwrap();
            assert_eq!(consumers.len(), 1, "at {offset}");
        }
        handle.drain();
    };
    let (_, served) = tokio::join!(listed, consumer.run_until(std::future::pending::<()>()));
    served.unwrap();
    assert_eq!(other.consumers().await.unwrap(), []);
}

//! What is Redis's own: plain clients, and what other programs leave in its keys.

use std::time::Duration;

use brigade::Broker;
use brigade::{Blocker, ErrorKind, JobState};
use brigade_testkit::redis::Redis;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(30);

async fn start() -> (Redis, Broker) {
    let server = Redis::start(&[]).unwrap();
    let broker = Broker::connect(&server.url()).await.unwrap();
    (server, broker)
}

#[tokio::test]
async fn capabilities_are_pinned() {
    let (_server, broker) = start().await;
    let can = broker.capabilities();
    assert!(
        can.durable
            && can.listing
            && can.scheduling
            && can.priorities
            && can.keys
            && can.unique
            && can.results
    );
    assert!(can.limits && can.schedules && can.manager);
    assert_eq!(can.payload_bytes_max, 16 << 20);
    let memory = Broker::connect("sqlite::memory:").await.unwrap();
    assert!(!memory.capabilities().manager);
    let refused = memory
        .manager("q")
        .run_until(std::future::pending::<()>())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn any_client_may_push_to_the_inbox() {
    let (server, broker) = start().await;
    let queue = broker.queue("emails");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take(LONG).await.unwrap().unwrap().json().to_owned() }
    });
    server.ask("RPUSH brigade:{emails}:inbox 1").unwrap();
    assert_eq!(waiting.await.unwrap(), "1");
    server
        .ask(r#"RPUSH brigade:{emails}:inbox [1,2] "{\"n\":" '{"n":3}'"#)
        .unwrap();
    assert_eq!(
        broker.queues().await.unwrap()[0].jobs,
        [(JobState::Ready, 3)]
    );
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(lease.json(), "[1,2]");
    lease.ack().await.unwrap();
    let next = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(next.json(), r#"{"n":3}"#, "what is no JSON is set aside");
    let dead = broker
        .jobs(Some("emails"), Some(JobState::Dead), None, 10)
        .await
        .unwrap();
    assert!(
        dead[0]
            .reason
            .as_deref()
            .unwrap()
            .starts_with("its payload is not JSON"),
        "{dead:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_gives_jobs_to_the_free_in_the_order_in_which_they_asked() {
    let (server, broker) = start().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let managing = tokio::spawn(broker.manager("emails").run_until(stopped));
    for client in ["ann", "bob", "ann", "cleo"] {
        server
            .ask(&format!("RPUSH brigade:{{emails}}:free {client}"))
            .unwrap();
    }
    let queue = broker.queue("emails");
    for n in 1..=4 {
        queue.push(&n).await.unwrap();
    }
    let collect = async |client: &str| {
        let server = &server;
        server
            .ask(&format!("BLPOP brigade:{{emails}}:to:{client} 5"))
            .unwrap()
    };
    let (ann, bob, cleo) = (
        collect("ann").await,
        collect("bob").await,
        collect("cleo").await,
    );
    assert!(
        ann.ends_with("$1\r\n1\r\n")
            && bob.ends_with("$1\r\n2\r\n")
            && cleo.ends_with("$1\r\n3\r\n"),
        "{ann} {bob} {cleo}"
    );
    assert_eq!(
        server.ask("LLEN brigade:{emails}:to:ann").unwrap(),
        ":0\r\n",
        "one that asks twice is given one"
    );
    server.ask("RPUSH brigade:{emails}:free ann").unwrap();
    assert!(collect("ann").await.ends_with("$1\r\n4\r\n"));
    // What was collected is gone by the next look.
    server.ask("RPUSH brigade:{emails}:free dora").unwrap();
    queue.push(&5).await.unwrap();
    assert!(collect("dora").await.ends_with("$1\r\n5\r\n"));
    drop(stop);
    assert_eq!(managing.await.unwrap().unwrap(), 5);
}

#[tokio::test]
async fn what_nobody_collects_goes_back_to_the_head() {
    let (server, broker) = start().await;
    let queue = broker.queue("q");
    for n in 1..=3 {
        queue.push(&n).await.unwrap();
    }
    server.ask("RPUSH brigade:{q}:free gone").unwrap();
    // As many turns as there is something to do.
    let manage = || async {
        broker
            .manager("q")
            .run_until(std::future::ready(()))
            .await
            .unwrap()
    };
    assert_eq!(manage().await, 1);
    let first = &broker.jobs(Some("q"), None, None, 10).await.unwrap()[0];
    assert_eq!(
        (first.state, first.holder.as_deref()),
        (JobState::Leased, Some("gone"))
    );
    let why = broker.why(&first.id).await.unwrap().unwrap();
    assert!(
        matches!(&why.reasons[..], [Blocker::Running { .. }]),
        "{why}"
    );
    broker.clock().advance(Duration::from_secs(61));
    let again = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!((again.json(), again.attempt()), ("1", 1));
    assert_eq!(
        server
            .ask("EXISTS brigade:{q}:to:gone brigade:{q}:handed:gone brigade:{q}:free")
            .unwrap(),
        ":0\r\n"
    );
    again.ack().await.unwrap();
    // One that collects in time has its job for good.
    server.ask("RPUSH brigade:{q}:free here").unwrap();
    assert_eq!(manage().await, 1);
    assert!(
        server
            .ask("LPOP brigade:{q}:to:here")
            .unwrap()
            .ends_with("2\r\n")
    );
    broker.clock().advance(Duration::from_secs(61));
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "3");
    assert!(queue.take(NOW).await.unwrap().is_none());
    assert!(
        broker
            .jobs(Some("q"), None, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn nothing_is_left_in_the_keys_of_a_queue_that_is_done() {
    let (server, broker) = start().await;
    let queue = broker.queue("q");
    for n in 0..20 {
        let job = queue
            .job(&n)
            .unwrap()
            .key(format!("k{}", n % 3))
            .unique(format!("m{n}"))
            .retries(1);
        broker.push(job).await.unwrap();
    }
    broker
        .push(queue.job(&99).unwrap().keep(LONG).retries(1))
        .await
        .unwrap();
    let mut settled = 0;
    while settled < 21 {
        let Some(lease) = queue.lease(LONG, NOW).await.unwrap() else {
            broker.clock().advance(Duration::from_secs(60));
            continue;
        };
        if settled % 4 == 1 && lease.attempt() == 1 {
            lease.nack("once").await.unwrap();
        } else {
            lease.ack().await.unwrap();
            settled += 1;
        }
    }
    broker.clock().advance(LONG * 10);
    assert!(queue.take(NOW).await.unwrap().is_none());
    let keys = server.ask("KEYS brigade:*").unwrap();
    let mut left: Vec<&str> = keys
        .lines()
        .filter(|line| line.starts_with("brigade:"))
        .collect();
    // What was counted goes after a day.
    left.retain(|key| !is_counted(key));
    left.sort_unstable();
    assert_eq!(left, ["brigade:bell:{q}", "brigade:{q}:consumers"]);
    for key in left {
        let goes_in: i64 = server
            .ask(&format!("PTTL {key}"))
            .unwrap()
            .trim()
            .trim_start_matches(':')
            .parse()
            .unwrap();
        assert!(
            (1..=60_000).contains(&goes_in),
            "{key} goes by itself: {goes_in}"
        );
    }
}

/// Whether a key has statistics.
fn is_counted(key: &str) -> bool {
    let statistics = ["minute", "minute:", "minutes:", "tasks:"];
    let of_queue = key.strip_prefix("brigade:{q}:");
    key == "brigade:{brigade:queues}:counted"
        || of_queue.is_some_and(|name| {
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
            statistics.contains(&name)
        })
}

//! Servers that are killed: what is lost, by how they write.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brigade::{Broker, ErrorKind, Level, Settled};
use brigade_testkit::random::Random;
use brigade_testkit::redis::Redis;

use crate::stage::{BOUND, LONG, NOW, all_jobs, assert_passing, millis, plain, start, tell, until};

/// The answer that a push got, and when.
#[derive(Default)]
struct Answers {
    acknowledged: Vec<(u64, Instant)>,
    uncertain: usize,
}

/// Pushes as fast as it can until the server is gone.
async fn push_until_it_dies(broker: Broker, answers: Arc<Mutex<Answers>>, first: u64) {
    for number in first.. {
        match broker.queue("q").push(&number).await {
            Ok(_) => answers
                .lock()
                .unwrap()
                .acknowledged
                .push((number, Instant::now())),
            Err(error) => {
                assert_passing(&error);
                answers.lock().unwrap().uncertain += usize::from(error.is_uncertain());
                return;
            }
        }
    }
}

/// Jobs that were acknowledged and are gone, and how long before the kill the oldest of these was.
async fn count_lost(fsync: &str) -> (usize, Duration) {
    let mut random = Random::from_env();
    let mut server = Redis::start(&["--appendonly", "yes", "--appendfsync", fsync]).unwrap();
    let broker = Broker::connect(&server.url()).await.unwrap();
    let (mut lost, mut oldest, mut pushed, mut uncertain) = (0, Duration::ZERO, 0, 0);
    for round in 0..brigade_testkit::count(2, 10) as u64 {
        let answers = Arc::<Mutex<Answers>>::default();
        let pushing: Vec<_> = (0..4)
            .map(|lane| {
                tokio::spawn(push_until_it_dies(
                    broker.clone(),
                    Arc::clone(&answers),
                    (round * 4 + lane) << 32,
                ))
            })
            .collect();
        tokio::time::sleep(random.time(millis(100)..millis(400))).await;
        server.kill().unwrap();
        let killed = Instant::now();
        for task in pushing {
            tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
        }
        server.start_again().unwrap();
        until("the server is back", async || broker.queues().await.is_ok()).await;
        let stored: BTreeSet<u64> = all_jobs(&broker, "q")
            .await
            .iter()
            .map(|job| job.payload.parse().unwrap())
            .collect();
        let answers = answers.lock().unwrap();
        for (_, at) in answers
            .acknowledged
            .iter()
            .filter(|(number, _)| !stored.contains(number))
        {
            lost += 1;
            oldest = oldest.max(killed.saturating_duration_since(*at));
        }
        pushed += answers.acknowledged.len();
        uncertain += answers.uncertain;
    }
    println!(
        "appendfsync {fsync}: acknowledged {pushed} uncertain {uncertain}: LOST {lost} (the oldest \
            {oldest:?} before the kill)"
    );
    assert!(pushed > 0);
    (lost, oldest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e31_a_killed_server_that_always_writes_loses_nothing() {
    assert_eq!(count_lost("always").await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e31_a_killed_server_that_writes_each_second_loses_two_seconds_at_most_and_a_check_says_so()
{
    let (_, oldest) = count_lost("everysec").await;
    assert!(oldest <= Duration::from_secs(2), "{oldest:?}");
    let (_server, broker) = start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    let findings = broker.check().await.unwrap();
    assert!(
        findings
            .iter()
            .any(|found| found.level == Level::Warning && found.what.contains("once a second")),
        "{findings:?}"
    );
}

/// What a server does that comes back with an older state: the last snapshot, a replica that was
/// behind.
#[tokio::test]
async fn e31_a_holder_from_before_an_older_state_does_not_hold_what_is_handed_out_again() {
    let (mut server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    assert_eq!(server.ask("SAVE").unwrap(), "+OK\r\n");
    let before = queue.lease(LONG, NOW).await.unwrap().unwrap();
    server.restart().unwrap();
    until("the server is back", async || broker.queues().await.is_ok()).await;
    let after = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(before.id(), after.id());
    assert_eq!(
        before.clone().pass("no longer mine").await.unwrap(),
        Settled::Stale
    );
    assert_eq!(before.ack().await.unwrap(), Settled::Stale);
    assert_eq!(after.ack().await.unwrap(), Settled::Accepted(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e31_who_waits_is_served_by_the_server_that_came_back_empty() {
    let (mut server, broker) = start(&[]).await;
    broker.queue("q").push(&1).await.unwrap();
    let lease = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
    server.restart().unwrap();
    let other = Broker::connect(&server.url()).await.unwrap();
    // This one knew the queue from before; the server does not know it any more.
    until("the server is back", async || broker.queues().await.is_ok()).await;
    assert_eq!(lease.ack().await.unwrap(), Settled::Stale);
    broker.queue("q").push(&2).await.unwrap();
    let listed = other.queues().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|counts| counts.queue.as_str())
            .collect::<Vec<_>>(),
        ["q"],
        "it is on the list of queues again"
    );
    assert_eq!(
        other.queue("q").take(NOW).await.unwrap().unwrap().json(),
        "2"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e31_while_there_is_no_server_the_errors_say_so_and_are_certain() {
    let (mut server, broker) = start(&[]).await;
    server.kill().unwrap();
    // The first may have been on its way.
    broker.queue("q").push(&1).await.unwrap_err();
    let error = broker.queue("q").push(&2).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_retryable() && !error.is_uncertain(),
        "{error:?}"
    );
    server.start_again().unwrap();
    until("it is reached again", async || {
        broker.queue("q").push(&3).await.is_ok()
    })
    .await;
    let mut connection = plain(&server);
    assert_eq!(
        tell::<u64>(&mut connection, &["ZCARD", "brigade:{q}:jobs"]),
        1,
        "what was certainly not stored is not there"
    );
}

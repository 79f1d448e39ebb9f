//! The crash test: a server that syncs each commit is killed and started again under load.
//!
//! Producers push each number once, consumers settle what they are given, and all of them remember
//! the answers that they got. At the end nothing is left in the database, so each number whose push
//! was acknowledged must have been settled: once as far as answers arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brigade::{Broker, Error, ErrorKind, Settled};
use brigade_testkit::postgres::Postgres;
use brigade_testkit::random::Random;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Leases outlive a restart, so that nothing is repeated without need.
const LEASE: Duration = Duration::from_secs(30);
/// Far beyond what it takes; what it takes is printed.
const BOUND: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const KILLS: usize = 10;

/// The answers that producers and consumers got.
#[derive(Default)]
struct Answers {
    acknowledged: BTreeSet<u64>,
    uncertain: BTreeSet<u64>,
    /// Settlements that were accepted, by number.
    accepted: BTreeMap<u64, usize>,
    /// Settlements whose answer was lost at least once.
    unsure: BTreeSet<u64>,
}

#[derive(Default)]
struct Load {
    answers: Mutex<Answers>,
    settled: watch::Sender<u64>,
    numbers: AtomicU64,
    stop: CancellationToken,
}

impl Load {
    async fn produce(self: Arc<Self>, broker: Broker) {
        let queue = broker.queue("load");
        let mut pace = tokio::time::interval(Duration::from_millis(3));
        while !self.stop.is_cancelled() {
            pace.tick().await;
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            loop {
                match queue.push(&number).await {
                    Ok(_) => drop(self.answers.lock().unwrap().acknowledged.insert(number)),
                    Err(error) if error.is_uncertain() => {
                        self.answers.lock().unwrap().uncertain.insert(number);
                    }
                    Err(error) => {
                        assert_passing(&error);
                        sleep(PAUSE).await;
                        continue;
                    }
                }
                break;
            }
        }
    }

    async fn consume(self: Arc<Self>, broker: Broker, until: CancellationToken) {
        let queue = broker.queue("load");
        while !until.is_cancelled() {
            let lease = match queue.lease(LEASE, 10 * PAUSE).await {
                Ok(Some(lease)) => lease,
                Ok(None) => continue,
                Err(error) => {
                    assert_passing(&error);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let number: u64 = lease.payload().unwrap();
            loop {
                match lease.clone().ack().await {
                    Ok(Settled::Accepted(_)) => {
                        let mut answers = self.answers.lock().unwrap();
                        *answers.accepted.entry(number).or_default() += 1;
                        self.settled.send_modify(|count| *count += 1);
                    }
                    Ok(Settled::Stale) => {}
                    Err(error) => {
                        assert_passing(&error);
                        if error.is_uncertain() {
                            self.answers.lock().unwrap().unsure.insert(number);
                        }
                        sleep(PAUSE).await;
                        continue;
                    }
                }
                break;
            }
        }
    }

    /// Waits until so many more jobs were settled; how long that took.
    async fn progress(&self, jobs: u64) -> Duration {
        let began = Instant::now();
        let mut settled = self.settled.subscribe();
        let goal = *settled.borrow_and_update() + jobs;
        let wait = settled.wait_for(|count| *count >= goal);
        timeout(BOUND, wait).await.expect("goes on").unwrap();
        began.elapsed()
    }

    fn check(&self) {
        let answers = self.answers.lock().unwrap();
        let is_settled = |number: &&u64| {
            answers.accepted.contains_key(*number) || answers.unsure.contains(*number)
        };
        let lost: Vec<&u64> = answers
            .acknowledged
            .iter()
            .filter(|n| !is_settled(n))
            .collect();
        let twice = answers
            .accepted
            .values()
            .filter(|count| **count > 1)
            .count();
        let is_pushed = |number: &&u64| {
            answers.acknowledged.contains(*number) || answers.uncertain.contains(*number)
        };
        let phantom = answers.accepted.keys().filter(|n| !is_pushed(n)).count();
        println!(
            "acknowledged {} uncertain {} settlements unsure {}: LOST {} TWICE ACCEPTED {twice} \
                PHANTOM {phantom}",
            answers.acknowledged.len(),
            answers.uncertain.len(),
            answers.unsure.len(),
            lost.len()
        );
        assert!(lost.is_empty(), "acknowledged and never settled: {lost:?}");
        assert_eq!((twice, phantom), (0, 0));
    }
}

/// Asserts that this is how a server that is gone, or not back yet, is reported: never as anything
/// that a caller would give up on.
fn assert_passing(error: &Error) {
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) && error.is_retryable(),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing_and_accepts_nothing_twice() {
    let mut random = Random::from_env();
    let mut server = Postgres::start(&["fsync = on"]).unwrap();
    let load = Arc::new(Load::default());
    let done = CancellationToken::new();
    let (producing, consuming) = (
        Broker::connect(&server.url()).await.unwrap(),
        Broker::connect(&server.url()).await.unwrap(),
    );
    let producers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(Arc::clone(&load).produce(producing.clone())))
        .collect();
    let consumers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(Arc::clone(&load).consume(consuming.clone(), done.clone())))
        .collect();
    let mut resumed = Vec::new();
    for _ in 0..KILLS {
        load.progress(20).await;
        sleep(random.time(Duration::ZERO..Duration::from_millis(30))).await;
        server.kill().unwrap();
        sleep(random.time(Duration::ZERO..Duration::from_millis(300))).await;
        server.start_again().unwrap();
        resumed.push(load.progress(1).await.as_millis());
    }
    load.stop.cancel();
    for task in producers {
        task.await.unwrap();
    }
    // Ends leases of which no consumer knows, because the answer was lost.
    consuming.clock().advance(2 * LEASE);
    let empty = async {
        while server
            .sql("select count(*) from brigade.jobs")
            .unwrap()
            .trim()
            != "0"
        {
            sleep(PAUSE).await;
        }
    };
    timeout(2 * BOUND, empty)
        .await
        .expect("everything is settled");
    done.cancel();
    for task in consumers {
        timeout(BOUND, task).await.unwrap().unwrap();
    }
    println!("resumed after so many ms: {resumed:?}");
    load.check();
}

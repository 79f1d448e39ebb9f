//! Connections that end and servers that are killed or replaced, while jobs flow: nothing that was
//! acknowledged is lost, no job is accepted twice, and jobs flow again within two seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brigade::{Broker, Error, ErrorKind, Settled};
use brigade_testkit::postgres::Postgres;
use brigade_testkit::random::Random;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::stage::{BOUND, run, until};

const PUSHERS: u64 = 3;
const CONSUMERS: usize = 3;
/// Shorter than a consumer waits, so that what a fault interrupted comes back soon.
const LEASE: Duration = Duration::from_secs(3);

/// What happened to each job, by its number.
#[derive(Default)]
struct Ledger {
    acknowledged: Vec<u64>,
    uncertain: Vec<u64>,
    /// How often an ack was accepted.
    done: BTreeMap<u64, u32>,
    /// Whether their ack was accepted is not known; if not, they come again.
    maybe_done: BTreeSet<u64>,
}

/// Jobs that flow through one queue.
struct Flow {
    ledger: Arc<Mutex<Ledger>>,
    ends: CancellationToken,
    pushes_end: CancellationToken,
    tasks: JoinSet<()>,
}

fn assert_passing(error: &Error) {
    let kind = error.kind();
    assert!(
        matches!(kind, ErrorKind::Unreachable | ErrorKind::Timeout),
        "{error:?}"
    );
}

impl Flow {
    async fn start(url: &str) -> Self {
        let mut flow = Self {
            ledger: Arc::default(),
            ends: CancellationToken::new(),
            pushes_end: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        for lane in 0..PUSHERS {
            let broker = Broker::connect(url).await.unwrap();
            let (ledger, ends) = (Arc::clone(&flow.ledger), flow.pushes_end.clone());
            flow.tasks.spawn(push(broker, ledger, ends, lane << 32));
        }
        for _ in 0..CONSUMERS {
            let broker = Broker::connect(url).await.unwrap();
            let (ledger, ends) = (Arc::clone(&flow.ledger), flow.ends.clone());
            flow.tasks.spawn(consume(broker, ledger, ends));
        }
        flow
    }

    fn done(&self) -> usize {
        self.ledger.lock().unwrap().done.len()
    }

    /// Waits until some more jobs have been done.
    async fn goes_on(&self) {
        let before = self.done();
        until("jobs flow", async || self.done() > before + 20).await;
    }

    /// No more pushes; then everything that was acknowledged is done, once.
    async fn settle_up(mut self) {
        self.pushes_end.cancel();
        let missing = |ledger: &Ledger| {
            let mut missing = ledger.acknowledged.clone();
            missing.retain(|number| {
                !ledger.done.contains_key(number) && !ledger.maybe_done.contains(number)
            });
            missing
        };
        until("all jobs are done", async || {
            missing(&self.ledger.lock().unwrap()).is_empty()
        })
        .await;
        self.ends.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let ledger = self.ledger.lock().unwrap();
        let twice: Vec<_> = ledger
            .done
            .iter()
            .filter(|(_, times)| **times > 1)
            .collect();
        assert!(twice.is_empty(), "accepted twice: {twice:?}");
        println!(
            "LOST 0, TWICE ACCEPTED 0: {} acknowledged, {} uncertain, {} done",
            ledger.acknowledged.len(),
            ledger.uncertain.len(),
            ledger.done.len()
        );
    }
}

async fn push(broker: Broker, ledger: Arc<Mutex<Ledger>>, ends: CancellationToken, first: u64) {
    for number in first.. {
        if ends.is_cancelled() {
            return;
        }
        let pushed = broker.queue("q").push(&number).await;
        let mut ledger = ledger.lock().unwrap();
        match pushed {
            Ok(_) => ledger.acknowledged.push(number),
            Err(error) => {
                assert_passing(&error);
                if error.is_uncertain() {
                    ledger.uncertain.push(number);
                }
            }
        }
    }
}

async fn consume(broker: Broker, ledger: Arc<Mutex<Ledger>>, ends: CancellationToken) {
    let queue = broker.queue("q");
    while !ends.is_cancelled() {
        let Some(leased) = ends.run_until_cancelled(queue.lease(LEASE, BOUND)).await else {
            return;
        };
        let lease = match leased {
            Ok(Some(lease)) => lease,
            Ok(None) => continue,
            Err(error) => {
                assert_passing(&error);
                continue;
            }
        };
        let number = lease.json().parse().unwrap();
        match lease.ack().await {
            Ok(Settled::Accepted(_)) => {
                let mut ledger = ledger.lock().unwrap();
                *ledger.done.entry(number).or_default() += 1;
            }
            Ok(_) => {}
            Err(error) if error.is_uncertain() => {
                ledger.lock().unwrap().maybe_done.insert(number);
            }
            Err(_) => {}
        }
    }
}

#[test]
fn jobs_flow_on_when_every_connection_is_ended() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let flow = Flow::start(&server.url()).await;
        for _ in 0..brigade_testkit::count(4, 20) {
            flow.goes_on().await;
            assert!(server.terminate_connections().unwrap() > 0);
        }
        flow.goes_on().await;
        flow.settle_up().await;
    });
}

#[test]
fn a_server_that_is_killed_loses_nothing_and_is_used_again_at_once() {
    run(async {
        let mut random = Random::from_env();
        let mut server = Postgres::start(&["fsync = on"]).unwrap();
        let flow = Flow::start(&server.url()).await;
        for _ in 0..brigade_testkit::count(3, 10) {
            flow.goes_on().await;
            tokio::time::sleep(random.time(Duration::ZERO..Duration::from_millis(200))).await;
            server.kill().unwrap();
            server.start_again().unwrap();
            let back = Instant::now();
            flow.goes_on().await;
            println!("jobs flow {:?} after the server is back", back.elapsed());
        }
        flow.settle_up().await;
    });
}

#[test]
fn a_standby_takes_over() {
    run(async {
        let mut primary = Postgres::start(&["synchronous_commit = remote_apply"]).unwrap();
        let standby = primary.start_standby().unwrap();
        // What is acknowledged is on both.
        primary.set("synchronous_standby_names", "standby").unwrap();
        let (one, other) = (primary.port(), standby.port());
        let url = format!("postgres://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres");
        let flow = Flow::start(&url).await;
        flow.goes_on().await;
        primary.kill().unwrap();
        standby.promote().unwrap();
        let promoted = Instant::now();
        flow.goes_on().await;
        println!(
            "jobs flow {:?} after the standby is the primary",
            promoted.elapsed()
        );
        flow.settle_up().await;
    });
}

#[test]
fn a_server_that_is_stopped_for_a_while_is_waited_for() {
    run(async {
        let mut server = Postgres::start(&[]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        server.kill().unwrap();
        let waiting = {
            let queue = broker.queue("q");
            tokio::spawn(async move { queue.push(&2).await })
        };
        let reading = tokio::spawn(async move { broker.queues().await.map(drop) });
        server.start_again().unwrap();
        // The push was not sent while there was no connection, or it is uncertain.
        if let Err(error) = waiting.await.unwrap() {
            assert!(error.is_uncertain(), "{error:?}");
        }
        // What changes nothing is asked again.
        match reading.await.unwrap() {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            answered => answered.unwrap(),
        }
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.json(), "1");
        lease.ack().await.unwrap();
    });
}

#[test]
fn an_idle_consumer_gets_a_job_after_the_connection_that_listened_was_lost() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let consumer = Broker::connect(&server.url()).await.unwrap();
        let pusher = Broker::connect(&server.url()).await.unwrap();
        let of = |what: &str| {
            format!("select count({what}) from pg_stat_activity where query ilike 'listen %'")
        };
        let (listens, ends) = (of("*"), of("pg_terminate_backend(pid)"));
        for number in 0..3 {
            let queue = consumer.queue("q");
            let waiting = tokio::spawn(async move {
                let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
                let payload = lease.json().to_owned();
                lease.ack().await.unwrap();
                payload.parse::<i32>().unwrap()
            });
            until("it listens", async || server.sql(&listens).unwrap() != "0").await;
            assert_ne!(server.sql(&ends).unwrap(), "0");
            until("it listens again", async || {
                server.sql(&listens).unwrap() != "0"
            })
            .await;
            pusher.queue("q").push(&number).await.unwrap();
            assert_eq!(waiting.await.unwrap(), number);
        }
    });
}

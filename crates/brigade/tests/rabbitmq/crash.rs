//! The broker is killed while jobs are pushed and run: what was acknowledged is there, and counts once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Broker, Settled};
use brigade_testkit::ledger::{self, Bounds, Event, Ledger};
use brigade_testkit::rabbitmq::RabbitMq;
use brigade_testkit::random::Random;

use crate::stage::{BOUND, LONG, connect, millis, until};

/// What takes part.
struct Load {
    broker: Broker,
    ledger: Ledger,
    pushed: AtomicU64,
    done: AtomicU64,
    /// Settlements of which nobody knows whether they were heard.
    uncertain: AtomicU64,
    stop_pushing: AtomicBool,
    stop: AtomicBool,
}

impl Load {
    async fn push(self: Arc<Self>, lane: u64) {
        for number in 1.. {
            if self.stop_pushing.load(Ordering::Relaxed) {
                return;
            }
            let job = lane * 1_000_000 + number;
            let queue = self.broker.queue("q");
            let described = queue.job(&job).unwrap().retries(3);
            // Some go by way of a queue of delays.
            let described = if job.is_multiple_of(7) { described.delay(millis(job % 300)) } else { described };
            match self.broker.push(described).await {
                Ok(_) => {
                    self.ledger.job(job, &Event::Enqueued).unwrap();
                    self.pushed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    self.ledger.job(job, &Event::Refused).unwrap();
                }
            }
            tokio::time::sleep(millis(2)).await;
        }
    }

    /// Enough that there is work when the broker is back: the confirms of what was on its way then may take it half a minute, with quorum queues.
    async fn push_stock(&self, lane: u64) {
        let queue = self.broker.queue("q");
        let stock: Vec<u64> = (1..=400).map(|number| lane * 1_000_000 + number).collect();
        self.broker.push_many(stock.iter().map(|job| queue.job(job).unwrap().retries(3)).collect()).await.unwrap();
        stock.iter().for_each(|job| self.ledger.job(*job, &Event::Enqueued).unwrap());
        self.pushed.fetch_add(400, Ordering::Relaxed);
    }

    async fn work(self: Arc<Self>, worker: u32) {
        let queue = self.broker.queue("q");
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(Some(lease)) = queue.lease(LONG, millis(500)).await else { continue };
            let (job, attempt) = (lease.payload::<u64>().unwrap(), lease.attempt());
            let note = |event| self.ledger.attempt(job, attempt, 0, worker, &event).unwrap();
            note(Event::Start);
            tokio::time::sleep(millis(job % 20)).await;
            note(Event::Effect);
            // Every tenth fails at first.
            let fails = job % 10 == 0 && attempt == 1;
            if fails {
                // The next attempt is none that has to be explained.
                self.ledger.fault(std::process::id()).unwrap();
            } else {
                note(Event::End);
            }
            let settled = loop {
                let lease = lease.clone();
                let settled = if fails { lease.nack_later("at first", millis(20)).await } else { lease.ack().await };
                match settled {
                    // It still holds.
                    Err(error) if !error.is_uncertain() => assert!(error.is_retryable(), "{error:?}"),
                    settled => break settled,
                }
                tokio::time::sleep(millis(100)).await;
            };
            match settled {
                Ok(Settled::Accepted(_)) if !fails => self.end(job, "done", &self.done),
                Ok(_) => {}
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    if !fails {
                        self.end(job, "uncertain", &self.uncertain);
                    }
                }
            }
        }
    }

    fn end(&self, job: u64, how: &str, count: &AtomicU64) {
        self.ledger.job(job, &Event::Outcome(how.to_owned())).unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pushed, and without an outcome.
fn missing(lines: &[ledger::Line]) -> Vec<u64> {
    let with = |is: fn(&Event) -> bool| lines.iter().filter(move |line| is(&line.event)).map(|line| line.job);
    let done: BTreeSet<u64> = with(|event| matches!(event, Event::Outcome(_))).collect();
    with(|event| *event == Event::Enqueued).filter(|job| !done.contains(job)).collect()
}

async fn kill_under_load(options: &str) {
    let mut random = Random::from_env();
    let kills = brigade_testkit::count(1, 10);
    let mut server = tokio::task::block_in_place(|| RabbitMq::start(&[])).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let load = Arc::new(Load {
        broker: connect(&server, &format!("ns=f36&response_timeout=40s{options}")).await,
        ledger: Ledger::open(file.path()).unwrap(),
        pushed: AtomicU64::new(0),
        done: AtomicU64::new(0),
        uncertain: AtomicU64::new(0),
        stop_pushing: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    let pushing: Vec<_> = (1..=4).map(|lane| tokio::spawn(Arc::clone(&load).push(lane))).collect();
    let working: Vec<_> = (1..=8).map(|worker| tokio::spawn(Arc::clone(&load).work(worker))).collect();
    let done = || load.done.load(Ordering::Relaxed);
    until("the load has begun", async || done() > 100).await;
    let mut longest = Duration::ZERO;
    for kill in 0..kills as u64 {
        load.push_stock(100 + kill).await;
        tokio::time::sleep(random.time(millis(50)..millis(400))).await;
        tokio::task::block_in_place(|| server.kill()).unwrap();
        load.ledger.fault(std::process::id()).unwrap();
        let before = done();
        tokio::task::block_in_place(|| server.start_again()).unwrap();
        let back = Instant::now();
        until("jobs are run again", async || done() > before).await;
        longest = longest.max(back.elapsed());
    }
    load.stop_pushing.store(true, Ordering::Relaxed);
    for task in pushing {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    load.ledger.job(0, &Event::Healed).unwrap();
    let left = || missing(&ledger::read(file.path()).unwrap());
    let began = Instant::now();
    while !left().is_empty() {
        if began.elapsed() > BOUND {
            let columns = ["list_queues", "name", "messages_ready", "messages_unacknowledged", "consumers", "type"];
            let queues = tokio::task::block_in_place(|| server.ctl(&columns)).unwrap();
            let lines = ledger::read(file.path()).unwrap();
            let of_it: Vec<_> = lines.iter().filter(|line| left().contains(&line.job)).collect();
            panic!("these are not done: {of_it:#?}; the broker has\n{queues}");
        }
        tokio::time::sleep(millis(100)).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    for task in working {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    println!(
        "kills {kills}, longest until the first job after the server was back: {longest:?}, uncertain {}",
        load.uncertain.load(Ordering::Relaxed)
    );
    // In hand when the server died: 8 at a time; and one of each that was pushed twice because its confirm was lost.
    let bounds = Bounds { dup_start: usize::MAX, reorder: usize::MAX, stuck_after: BOUND };
    let counts = ledger::check(file.path(), bounds, random.seed());
    assert!(counts.jobs > 50, "{counts}");
    assert!(longest < BOUND / 2, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_broker_killed_under_load_loses_nothing_and_takes_nothing_twice() {
    kill_under_load("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_the_same_with_quorum_queues() {
    kill_under_load("&queues=quorum").await;
}

//! `redis+sentinel://`: the primary dies, and everything goes on with another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brigade::{Broker, ErrorKind};
use brigade_testkit::places::{Replicated, Sentinels, free_port};
use rustix::process::Signal;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{LONG, refused, run, works};

/// Far beyond what a failover takes.
const BOUND: Duration = Duration::from_secs(60);
const BEFORE: usize = 200;
const AFTER: usize = 200;

/// What two clients know of their jobs.
#[derive(Default)]
struct Books {
    pushed: Mutex<BTreeSet<u64>>,
    /// Pushed or not: that is not known.
    uncertain: AtomicU64,
    done: Mutex<BTreeSet<u64>>,
}

impl Books {
    fn done(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    fn pushed_and_lost(&self) -> (usize, usize) {
        let (pushed, done) = (self.pushed.lock().unwrap(), self.done.lock().unwrap());
        (pushed.len(), pushed.difference(&done).count())
    }
}

async fn push_until(broker: Broker, books: Arc<Books>, stop: CancellationToken) {
    let queue = broker.queue("q");
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        match queue.push(&number).await {
            Ok(_) => drop(books.pushed.lock().unwrap().insert(number)),
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                books
                    .uncertain
                    .fetch_add(u64::from(error.is_uncertain()), Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn work_until(broker: Broker, books: Arc<Books>, stop: CancellationToken) {
    let queue = broker.queue("q");
    while !stop.is_cancelled() {
        match queue.lease(LONG, Duration::from_millis(300)).await {
            Ok(None) => {}
            Ok(Some(lease)) => {
                let number = lease.payload().unwrap();
                // An ack that got no answer: the job was run, whatever becomes of it.
                lease.ack().await.ok();
                books.done.lock().unwrap().insert(number);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < BOUND, "it takes too long until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The primary is killed under load. Returns the acknowledged jobs that no consumer ever got.
async fn lost_in_a_failover(options: &str) -> usize {
    let place = Replicated::start(2, &[]).unwrap();
    let sentinels = Sentinels::start(place.port, 2).unwrap();
    // One of the named sentinels is gone; the others are asked.
    let url = format!(
        "redis+sentinel://127.0.0.1:{},{}/main{options}",
        free_port(),
        sentinels.hosts()
    );
    let (books, stop, stop_pushing) = (
        Arc::new(Books::default()),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let (pusher, worker) = (
        Broker::connect(&url).await.unwrap(),
        Broker::connect(&url).await.unwrap(),
    );
    let pushing = tokio::spawn(push_until(pusher, Arc::clone(&books), stop_pushing.clone()));
    let working = tokio::spawn(work_until(worker.clone(), Arc::clone(&books), stop.clone()));
    until("jobs are done", || books.done() >= BEFORE).await;

    place.servers[0].signal(Signal::KILL);
    let (killed, done) = (Instant::now(), books.done());
    until("jobs are done by another primary", || {
        books.done() >= done + AFTER
    })
    .await;
    let resumed = killed.elapsed();
    stop_pushing.cancel();
    pushing.await.unwrap();
    // A lease that died with the primary runs out, for this test, at once.
    worker.clock().advance(LONG + LONG);
    let began = Instant::now();
    while worker
        .queues()
        .await
        .unwrap()
        .iter()
        .any(|queue| !queue.jobs.is_empty())
    {
        assert!(began.elapsed() < BOUND, "{:?}", worker.queues().await);
        sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    working.await.unwrap();
    let (pushed, lost) = books.pushed_and_lost();
    let uncertain = books.uncertain.load(Ordering::Relaxed);
    eprintln!(
        "{options:?}: {pushed} acknowledged, {uncertain} uncertain, LOST {lost}; resumed after \
            {resumed:?}"
    );
    lost
}

#[test]
fn e33_a_failover_loses_nothing_that_a_replica_had() {
    run(async {
        assert_eq!(lost_in_a_failover("?wait=1&wait_timeout=1s").await, 0);
    });
}

/// What the primary had acknowledged and sent to no replica is gone: counted, and no more than one
/// client had under way.
#[test]
fn e33_a_failover_without_wait_resumes_and_counts_what_it_lost() {
    run(async {
        let lost = lost_in_a_failover("").await;
        assert!(lost <= BEFORE, "{lost}");
    });
}

#[test]
fn sentinels_that_do_not_know_the_name_or_are_none() {
    run(async {
        let place = Replicated::start(1, &[]).unwrap();
        let sentinels = Sentinels::start(place.port, 1).unwrap();
        works(&format!("redis+sentinel://{}/main", sentinels.hosts())).await;
        let (kind, text) = refused(&format!("redis+sentinel://{}/other", sentinels.hosts())).await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("no primary of that name"),
            "{text}"
        );
        let (kind, text) = refused(&format!(
            "redis://{}",
            sentinels.hosts().split(',').next().unwrap()
        ))
        .await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("redis+sentinel://"),
            "{text}"
        );
        let (kind, text) =
            refused(&format!("redis+sentinel://127.0.0.1:{}/main", free_port())).await;
        assert!(kind == ErrorKind::Unreachable, "{text}");
    });
}

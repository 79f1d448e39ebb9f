//! Consumers that share a connection, each of which sees the order of the pushes.
//!
//! Several tasks of the store read what the server sends by one channel. Jobs of different sizes
//! take them different times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brigade::{Broker, Queue, Settled};

use crate::stage::{BOUND, LONG, NOW, shared};

/// All of them take many times as long as a job that is not asked for is kept.
const JOBS: usize = 1_500;
/// The size of each tenth job.
const LARGE: usize = 200 << 10;
const CONSUMERS: usize = 8;

fn text(number: usize) -> String {
    "x".repeat(if number.is_multiple_of(10) { LARGE } else { 0 })
}

async fn filled(options: &str) -> Queue {
    let broker = Broker::connect(&shared(options).0).await.unwrap();
    let queue = broker.queue("q");
    let jobs: Vec<_> = (0..JOBS)
        .map(|n| queue.job(&(n, text(n))).unwrap())
        .collect();
    broker.push_many(jobs).await.unwrap();
    queue
}

/// Takes all jobs by several consumers; each waits so long for the next one.
async fn take_all(queue: Queue, wait: Duration) {
    let taken = Arc::new(AtomicUsize::new(0));
    let consumers = (0..CONSUMERS).map(|_| {
        let (queue, taken) = (queue.clone(), Arc::clone(&taken));
        tokio::spawn(async move {
            let mut mine = Vec::new();
            while taken.load(Ordering::Relaxed) < JOBS {
                let Some(lease) = queue.lease(LONG, wait).await.unwrap() else {
                    continue;
                };
                let (number, _): (usize, String) = lease.payload().unwrap();
                mine.push(number);
                assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
                taken.fetch_add(1, Ordering::Relaxed);
            }
            mine
        })
    });
    let mut all = Vec::new();
    for consumer in consumers.collect::<Vec<_>>() {
        let mine = tokio::time::timeout(BOUND, consumer)
            .await
            .unwrap()
            .unwrap();
        let mut pairs = mine.windows(2);
        assert_eq!(pairs.find(|pair| pair[0] > pair[1]), None, "in its order");
        all.extend(mine);
    }
    all.sort_unstable();
    assert_eq!(all, (0..JOBS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_that_do_not_wait_see_the_order_of_the_pushes() {
    take_all(filled("").await, NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_that_wait_see_the_order_of_the_pushes() {
    take_all(filled("").await, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_of_a_queue_with_priorities_see_the_order_of_the_pushes() {
    take_all(filled("&priorities=9").await, NOW).await;
}

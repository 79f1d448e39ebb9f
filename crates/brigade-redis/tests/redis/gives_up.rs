//! Clients that give up while they wait.

use std::collections::BTreeSet;

use brigade::Settled;
use brigade_testkit::random::Random;
use tokio::time::{Instant, timeout};

use crate::stage::{BOUND, LONG, NOW, millis, start};

#[tokio::test]
async fn e30_who_gives_up_while_waiting_takes_nothing_along() {
    let (_server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    for number in 0..40u32 {
        // Polled until it waits, then dropped; every other one by its own time.
        let gave_up = if number % 2 == 0 {
            timeout(millis(3), queue.take(LONG)).await.is_err()
        } else {
            queue.take(millis(3)).await.unwrap().is_none()
        };
        assert!(gave_up);
        let leasing = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lease(LONG, LONG).await.map(|lease| lease.is_some()) }
        });
        tokio::task::yield_now().await;
        leasing.abort();
    }
    for number in 0..40 {
        queue.push(&number).await.unwrap();
    }
    for number in 0..40 {
        assert_eq!(
            queue
                .take(NOW)
                .await
                .unwrap()
                .unwrap()
                .payload::<u32>()
                .unwrap(),
            number,
            "none is missing, none out of place"
        );
    }
    assert!(queue.take(NOW).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e30_a_lease_on_its_way_to_one_who_gave_up_comes_back_when_it_runs_out() {
    let mut random = Random::from_env();
    let (_server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    let jobs = brigade_testkit::count(100, 2000);
    let pushing = tokio::spawn({
        let queue = queue.clone();
        async move {
            for number in 0..jobs {
                queue.push(&number).await.unwrap();
            }
        }
    });
    let (mut done, mut gave_up, began) = (BTreeSet::new(), 0, Instant::now());
    while done.len() < jobs {
        assert!(
            began.elapsed() < BOUND,
            "{} of {jobs}: the others are stranded",
            done.len()
        );
        match timeout(random.time(NOW..millis(2)), queue.lease(millis(300), LONG)).await {
            Ok(lease) => {
                let lease = lease.unwrap().unwrap();
                let number: usize = lease.payload().unwrap();
                if lease.ack().await.unwrap() != Settled::Stale {
                    assert!(done.insert(number), "{number} was accepted twice");
                }
            }
            Err(_) => gave_up += 1,
        }
    }
    pushing.await.unwrap();
    println!(
        "{jobs} jobs, gave up {gave_up} times, {:?}",
        began.elapsed()
    );
    assert!(gave_up > 0);
    assert!(broker.queues().await.unwrap().is_empty());
}

//! Many that fail: poison among good jobs, poison alone, and all at once.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use brigade::{Broker, JobState, Pool, Retry, ToJob as _};
use brigade_testkit::{count, facts};

use crate::stage::{LONG, Stage, block_on, until};
use crate::tasks::{DEPENDENCY, depends, good, poison};

async fn serve(broker: &Broker, pool: &Pool) -> brigade::Served {
    let worker = broker
        .consumer()
        .queue("good")
        .queue("poison")
        .on(pool)
        .until_empty();
    worker
        .run_until(std::future::pending::<()>())
        .await
        .unwrap()
}

#[test]
fn i51_one_poison_job_among_good_ones_takes_two_workers_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    block_on(async {
        let broker = Stage::new(directory.path()).broker().await;
        let pool = Pool::builder().workers(4).start().await.unwrap();
        let jobs = count(300, 10_000) as u64;
        let middle = usize::try_from(jobs / 2).unwrap();
        let mut all: Vec<_> = (0..jobs)
            .map(|number| good(number).to_job().unwrap())
            .collect();
        // In one line with the good ones.
        all[middle] = broker
            .queue("good")
            .job(&[middle])
            .unwrap()
            .task("poison")
            .retries(9);
        broker.push_many(all).await.unwrap();
        let served = serve(&broker, &pool).await;
        assert_eq!((served.done, served.failed, served.stale), (jobs - 1, 2, 0));
        let left = broker.jobs(None, None, None, 10).await.unwrap();
        assert!(
            matches!(&left[..], [dead] if dead.state == JobState::Dead && dead.crashed == 2 && dead.history.len() == 2),
            "{left:?}"
        );
        assert_eq!(pool.stats().crashed, 2);
        pool.shutdown().await;
    });
}

#[test]
fn i51_many_poison_jobs_end_as_dead_letters_and_the_good_one_after_them_is_done() {
    let directory = tempfile::tempdir().unwrap();
    block_on(async {
        let broker = Stage::new(directory.path()).broker().await;
        let pool = Pool::builder().workers(4).start().await.unwrap();
        let poisons = count(15, 1_000) as u64;
        broker
            .push_many(
                (0..poisons)
                    .map(|number| poison(number).retries(9).to_job().unwrap())
                    .collect(),
            )
            .await
            .unwrap();
        broker.push(good(1)).await.unwrap();
        let served = serve(&broker, &pool).await;
        assert_eq!((served.done, served.failed), (1, 2 * poisons));
        let left = broker.jobs(None, None, None, usize::MAX).await.unwrap();
        assert_eq!(left.len() as u64, poisons);
        assert!(
            left.iter()
                .all(|job| job.state == JobState::Dead && job.crashed == 2 && job.failed == 0)
        );
        assert!(
            left.iter()
                .all(|job| { job.history.iter().all(|record| record.report.is_some()) })
        );
        pool.shutdown().await;
    });
    until("no worker is left behind", || {
        facts::children(std::process::id())
            .iter()
            .all(|child| !child.is_zombie())
    });
}

#[test]
fn i52_what_failed_at_once_comes_back_spread_out_and_all_of_it_is_done() {
    const PAUSE: Duration = Duration::from_secs(1000);
    const BUCKETS: u128 = 20;
    let directory = tempfile::tempdir().unwrap();
    block_on(async {
        let broker = Broker::connect(&format!(
            "{}?synchronous=normal",
            Stage::new(directory.path()).url()
        ))
        .await
        .unwrap();
        let jobs = count(2_000, 50_000) as u64;
        let retry = Retry::exponential(PAUSE, PAUSE);
        let all = (0..jobs).map(|number| depends(number).to_job().unwrap().retries(2).retry(retry));
        broker.push_many(all.collect()).await.unwrap();
        let worker = || {
            broker
                .consumer()
                .queue("depends")
                .in_process()
                .prefetch(256)
        };
        let began = SystemTime::now();
        let waiting = async {
            while count_of(&broker, JobState::Retrying).await < jobs {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let served = worker().run_until(waiting).await.unwrap();
        assert_eq!((served.failed, served.done), (jobs, 0));

        // Each is due within the upper half of the pause after it failed, and no twentieth of that
        // half has more than its share twice.
        let took = began.elapsed().unwrap();
        let mut buckets = BTreeMap::<u128, u64>::new();
        for job in broker.jobs(None, None, None, usize::MAX).await.unwrap() {
            let due = job.due_at.unwrap().duration_since(began).unwrap();
            assert!(
                due + Duration::from_millis(2) >= PAUSE / 2 && due <= PAUSE + took,
                "{due:?}"
            );
            *buckets
                .entry((due.as_millis() - 499_000) * BUCKETS / (PAUSE / 2 + took).as_millis())
                .or_default() += 1;
        }
        let most = buckets.values().max().copied().unwrap();
        println!(
            "{jobs} jobs due in {} parts of the pause, at most {most} in one",
            buckets.len()
        );
        assert!(
            u128::from(most) < 2 * u128::from(jobs) / BUCKETS,
            "they come back together: {buckets:?}"
        );

        broker.clock().advance(PAUSE * 2);
        DEPENDENCY.store(true, Ordering::Relaxed);
        let served = worker()
            .until_empty()
            .run_until(tokio::time::sleep(LONG))
            .await
            .unwrap();
        assert_eq!((served.done, served.failed), (jobs, 0));
        assert!(broker.queues().await.unwrap().is_empty());
    });
}

async fn count_of(broker: &Broker, state: JobState) -> u64 {
    let queues = broker.queues().await.unwrap();
    queues
        .iter()
        .flat_map(|queue| &queue.jobs)
        .filter(|(of, _)| *of == state)
        .map(|(_, count)| count)
        .sum()
}

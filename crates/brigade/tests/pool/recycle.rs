//! Replacing workers that are well.

use std::collections::BTreeSet;
use std::time::Duration;

use brigade::{Event, Pool, WorkerState};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{event, gone, pids, pool_of, soon, until};
use crate::tasks::*;

#[tokio::test]
async fn tp1_a_fresh_process_for_each_call() {
    soon(async {
        for spares in [0, 2] {
            let pool = Pool::builder()
                .workers(2)
                .fresh_per_call()
                .spares(spares)
                .start()
                .await
                .unwrap();
            let ran = join_all((0..10).map(|_| pool.call(pid()))).await;
            let distinct: BTreeSet<u32> = ran.into_iter().map(Result::unwrap).collect();
            assert_eq!(distinct.len(), 10);
            pool.shutdown().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_fresh_process_stands_by_before_the_first_call_and_after_each() {
    soon(async {
        let builder = Pool::builder().workers(0..=2).fresh_per_call().spares(2);
        let pool = builder.start().await.unwrap();
        for _ in 0..3 {
            let stand_by = || {
                let workers = pool.workers();
                let ready = workers.iter().filter(|worker| {
                    matches!(worker.state, WorkerState::Idle | WorkerState::Spare)
                });
                ready.filter_map(|worker| worker.pid).collect::<Vec<_>>()
            };
            until("the spares stand by", || stand_by().len() >= 2).await;
            let before = stand_by();
            let used = pool.call(pid()).await.unwrap();
            assert!(
                before.contains(&used),
                "{used} did not stand by: {before:?}"
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp7_a_worker_is_replaced_after_its_number_of_calls() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .recycle_after(10)
            .start()
            .await
            .unwrap();
        let mut runs: Vec<(u32, usize)> = Vec::new();
        for _ in 0..40 {
            let pid = pool.call(pid()).await.unwrap();
            match runs.last_mut() {
                Some((last, count)) if *last == pid => *count += 1,
                _ => runs.push((pid, 1)),
            }
        }
        runs.pop();
        assert!(
            runs.len() >= 3 && runs.iter().all(|(_, count)| (8..=10).contains(count)),
            "{runs:?}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp7_a_worker_that_holds_much_memory_is_replaced_between_two_calls() {
    soon(async {
        let builder = Pool::builder()
            .workers(1)
            .recycle_memory(128 << 20)
            .check_interval(Duration::from_millis(500));
        let pool = builder.start().await.unwrap();
        let mut events = pool.events();
        let before = pool.call(leak(256 << 20)).await.unwrap();
        let reason = event(&mut events, |event| match event {
            Event::WorkerRetiring { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(reason.await.contains("memory"));
        gone(before).await;
        assert_ne!(pool.call(pid()).await.unwrap(), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp7_a_worker_is_replaced_at_its_age() {
    soon(async {
        let builder = Pool::builder()
            .workers(1)
            .recycle_age(Duration::from_millis(50))
            .check_interval(Duration::from_millis(500));
        let pool = builder.start().await.unwrap();
        let before = pids(&pool)[0];
        gone(before).await;
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp3_tp10_recycling_replaces_every_worker_and_waits_for_what_runs() {
    soon(async {
        let (pool, gate) = (pool_of(2).await, Gate::new());
        let (before, mut events) = (pids(&pool), pool.events());
        let held = pool.call(hold(gate.path(), 7));
        let arrival = gate.arrival().await;
        let release = async {
            event(&mut events, |event| {
                matches!(event, Event::WorkerRetiring { .. }).then_some(())
            })
            .await;
            drop(arrival);
        };
        let (recycled, ()) = tokio::join!(pool.recycle(), release);
        recycled.unwrap();
        assert_eq!(held.await.unwrap(), 7, "it was not cut short");
        let after = pids(&pool);
        assert!(
            after.len() == 2 && !after.iter().any(|pid| before.contains(pid)),
            "{before:?} {after:?}"
        );
        for pid in before {
            gone(pid).await;
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp8_calls_made_while_workers_are_recycled_all_succeed() {
    soon(async {
        let pool = pool_of(2).await;
        let calls = async {
            for n in 0..300 {
                assert_eq!(pool.call(add(n, n)).await.unwrap(), 2 * n);
            }
        };
        let recycles = async {
            for _ in 0..3 {
                pool.recycle().await.unwrap();
            }
        };
        tokio::join!(calls, recycles);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp9_recycling_a_pool_that_closes_hangs_nobody() {
    soon(async {
        for _ in 0..5 {
            let pool = pool_of(2).await;
            let (recycled, end) = tokio::join!(pool.recycle(), pool.shutdown());
            assert!(end.drained);
            assert!(recycled.is_ok() || recycled.unwrap_err().kind() == brigade::ErrorKind::Closed);
            assert!(pool.workers().is_empty());
        }
    })
    .await;
}

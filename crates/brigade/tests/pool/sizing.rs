//! How many workers there are, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use brigade::{ErrorKind, Event, Pool};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{event, kill, pids, pool_of, soon, until};
use crate::tasks::*;

#[tokio::test]
async fn wp6_no_worker_before_the_first_call_and_then_exactly_one_at_once() {
    soon(async {
        let pool = Pool::builder().start().await.unwrap();
        assert_eq!(pool.stats().workers, 0);
        let call = pool.call(add(1, 2));
        assert_eq!(
            (pool.stats().workers, pool.stats().starting),
            (1, 1),
            "before anything was awaited"
        );
        assert_eq!(call.await.unwrap(), 3);
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(
            pool.stats().started,
            1,
            "the second call found the first worker idle"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp7_pi1_it_grows_while_all_are_busy_up_to_its_largest_number() {
    soon(async {
        let (pool, gate) = (
            Pool::builder().workers(1..=3).start().await.unwrap(),
            Gate::new(),
        );
        assert_eq!(
            pool.stats().workers,
            1,
            "the smallest number is there at once"
        );
        let mut held = Vec::new();
        let mut arrivals = Vec::new();
        for id in 0..3 {
            held.push(pool.call(hold(gate.path(), id)));
            arrivals.push(gate.arrival().await);
            assert_eq!(pool.stats().workers, id as usize + 1);
        }
        held.push(pool.call(hold(gate.path(), 3)));
        held.push(pool.call(hold(gate.path(), 4)));
        assert_eq!((pool.stats().workers, pool.stats().waiting), (3, 2));
        arrivals.clear();
        arrivals.extend(gate.arrivals(2).await);
        arrivals.clear();
        for (id, end) in (0..).zip(join_all(held).await) {
            assert_eq!(end.unwrap(), id);
        }
        assert_eq!(pool.stats().started, 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp8_pi2_pi5_the_default_is_one_worker_per_cpu_and_a_large_minimum_raises_it() {
    soon(async {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let pool = Pool::builder().start().await.unwrap();
        let error = pool.ready(cpus + 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption);
        assert!(
            error.to_string().contains(&format!("at most {cpus}")),
            "{error}"
        );
        pool.shutdown().await;

        let pool = Pool::builder().workers(cpus + 1..).start().await.unwrap();
        assert_eq!(pool.stats().idle, cpus + 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi3_idle_workers_leave_down_to_the_smallest_number_and_the_rest_is_used_again() {
    soon(async {
        // A look every half second is often enough here, and leaves a busy machine the time to
        // answer pings.
        let idle = Duration::from_millis(500);
        let builder = Pool::builder()
            .workers(1..=3)
            .idle_timeout(idle)
            .check_interval(idle);
        let (pool, gate) = (builder.start().await.unwrap(), Gate::new());
        let held: Vec<_> = (0..3).map(|id| pool.call(hold(gate.path(), id))).collect();
        drop(gate.arrivals(3).await);
        join_all(held).await;
        let before: BTreeSet<u32> = pids(&pool).into_iter().collect();
        assert_eq!(before.len(), 3);
        until("two have left", || pool.stats().workers == 1).await;
        assert!(before.contains(&pool.call(pid()).await.unwrap()));
        assert_eq!(pool.stats().started, 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l4_lb7_everybody_who_waits_for_workers_is_told() {
    soon(async {
        let pool = pool_of(2).await;
        let all = join_all((0..10).map(|_| pool.ready(2))).await;
        assert!(all.into_iter().all(|ready| ready.is_ok()));
        let calls = join_all((0..10).map(|n| pool.call(add(n, n)))).await;
        assert!(calls.into_iter().all(|end| end.is_ok()));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l4_lb8_waiting_for_workers_works_again_after_one_was_replaced() {
    soon(async {
        let pool = pool_of(2).await;
        let (before, mut events) = (pids(&pool), pool.events());
        kill(before[1]);
        event(&mut events, |event| {
            matches!(event, Event::WorkerGone { .. }).then_some(())
        })
        .await;
        let (one, two) = tokio::join!(pool.ready(2), pool.ready(2));
        assert!(one.is_ok() && two.is_ok());
        let after = pids(&pool);
        assert_eq!(
            (
                after.len(),
                after.contains(&before[0]),
                after.contains(&before[1])
            ),
            (2, true, false)
        );
        assert!(pool.ready(2).now_or_never().is_some(), "at once");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp11_a_replacement_takes_the_number_of_the_one_it_replaces() {
    soon(async {
        let pool = pool_of(3).await;
        for _ in 0..6 {
            assert!(pool.call(abort()).await.is_err());
            assert!((1..=3).contains(&pool.call(worker_number()).await.unwrap()));
        }
        pool.ready(3).await.unwrap();
        assert_eq!(
            pool.workers()
                .iter()
                .map(|worker| worker.id)
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp1_a_spare_takes_the_place_of_one_that_dies() {
    soon(async {
        let pool = Pool::builder().workers(1).spares(1).start().await.unwrap();
        until("a spare stands by", || {
            pool.workers()
                .iter()
                .any(|worker| worker.state == brigade::WorkerState::Spare)
        })
        .await;
        let spare = pool
            .workers()
            .iter()
            .find(|worker| worker.state == brigade::WorkerState::Spare)
            .unwrap()
            .pid
            .unwrap();
        assert!(pool.call(abort()).await.is_err());
        assert_eq!(pool.call(pid()).await.unwrap(), spare);
        pool.shutdown().await;
    })
    .await;
}

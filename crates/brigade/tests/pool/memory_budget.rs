//! The memory budget of a pool: which calls run together, and what becomes of those that take more
//! than was expected.

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, ErrorKind, Event, Events, MemoryLimit, Pool};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{event, soon};
use crate::tasks::*;

const MIB: u64 = 1 << 20;

async fn pool_with_budget(workers: usize, mib: u64) -> Pool {
    let builder = Pool::builder().workers(workers).memory_budget(mib * MIB);
    builder.start().await.unwrap()
}

/// The bytes that a call waits for, and those that are free.
async fn waits(events: &mut Events) -> (u64, u64) {
    event(events, |event| match event {
        Event::CallWaitsForMemory { bytes, free, .. } => Some((bytes, free)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn calls_run_together_while_what_they_declare_fits() {
    soon(async {
        let (pool, gate) = (pool_with_budget(4, 250).await, Gate::new());
        let mut events = pool.events();
        let calls = (0..3).map(|id| pool.call(hold(gate.path(), id).memory(100 * MIB)));
        let calls: Vec<_> = calls.collect();
        let arrivals = gate.arrivals(2).await;
        assert_eq!(waits(&mut events).await, (100 * MIB, 50 * MIB));
        // One that would fit waits behind the one that does not.
        let small = pool.call(hold(gate.path(), 3).memory(10 * MIB));
        let stats = pool.stats();
        let memory = stats.memory.unwrap();
        assert_eq!((stats.running, stats.waiting), (2, 2));
        assert_eq!((memory.budget, memory.reserved), (250 * MIB, 200 * MIB));
        assert!(memory.is_short);
        drop(arrivals);
        let later = gate.arrivals(2).await;
        assert!(!pool.stats().memory.unwrap().is_short);
        drop(later);
        let mut done: Vec<u32> = join_all(calls)
            .await
            .into_iter()
            .map(|id| id.unwrap())
            .collect();
        done.push(small.await.unwrap());
        assert_eq!(done, [0, 1, 2, 3]);
        assert_eq!(pool.stats().memory.unwrap().reserved, 0);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn calls_that_declare_nothing_wait_by_what_their_task_took_before() {
    soon(async {
        let (pool, gate) = (pool_with_budget(4, 250).await, Gate::new());
        let mut events = pool.events();
        let bytes = 100 << 20;
        let first = pool.call(fill(bytes, gate.path(), 0));
        drop(gate.arrival().await);
        assert_eq!(first.await.unwrap(), bytes);
        let calls: Vec<_> = (1..=3)
            .map(|id| pool.call(fill(bytes, gate.path(), id)))
            .collect();
        let arrivals = gate.arrivals(2).await;
        let (needed, _) = waits(&mut events).await;
        assert!((95 * MIB..125 * MIB).contains(&needed), "{needed}");
        assert_eq!(pool.stats().running, 2);
        drop(arrivals);
        drop(gate.arrival().await);
        for call in calls {
            call.await.unwrap();
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_largest_attempt_over_the_budget_runs_again_alone_and_is_not_charged() {
    soon(async {
        let (pool, gate) = (pool_with_budget(2, 200).await, Gate::new());
        let mut events = pool.events();
        let small = pool.call(fill(80 << 20, gate.path(), 1));
        let arrival = gate.arrival().await;
        let large = pool.call(fill(150 << 20, gate.path(), 2));
        let largest = event(&mut events, |event| match event {
            Event::OverMemoryBudget {
                used,
                total,
                budget,
                ..
            } => Some((used, total, budget)),
            _ => None,
        });
        let (used, total, budget) = largest.await;
        assert!(used < total && total > budget && budget == 200 * MIB);
        assert_eq!(waits(&mut events).await.0, 200 * MIB, "it needs all of it");
        assert_eq!(arrival.id, 1);
        drop(arrival);
        assert_eq!(small.await.unwrap(), 80 << 20);
        let stats = pool.stats();
        assert_eq!((stats.interrupted, stats.crashed), (1, 0));
        let mut large = std::pin::pin!(large);
        let done = loop {
            tokio::select! {
                done = &mut large => break done,
                // Its first attempt may have come here, too, before it was stopped.
                arrival = gate.arrival() => assert_eq!(arrival.id, 2),
            }
        };
        assert_eq!(done.unwrap(), 150 << 20);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn an_attempt_that_is_over_the_budget_alone_has_failed_by_its_own_memory() {
    soon(async {
        let (pool, gate) = (pool_with_budget(2, 64).await, Gate::new());
        let call = pool.call(fill(300 << 20, gate.path(), 1));
        let outcome = call.await;
        let Err(CallError::Crashed(report)) = outcome else {
            panic!("it crashed: {outcome:?}")
        };
        assert_eq!(
            report.ended,
            AttemptOutcome::OutOfMemory(MemoryLimit::Budget)
        );
        assert_eq!(report.attempt, 1, "the first time was not charged");
        let stats = pool.stats();
        assert_eq!((stats.interrupted, stats.crashed), (1, 1));
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn memory_of_programs_that_a_task_starts_counts() {
    soon(async {
        let pool = pool_with_budget(2, 64).await;
        let outcome = pool.call(fill_by_child(400 << 20)).await;
        let Err(CallError::Crashed(report)) = outcome else {
            panic!("it crashed: {outcome:?}")
        };
        assert_eq!(
            report.ended,
            AttemptOutcome::OutOfMemory(MemoryLimit::Budget)
        );
        assert_eq!(pool.stats().interrupted, 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_keeps_much_of_the_budget_is_replaced() {
    soon(async {
        let builder = Pool::builder().workers(1).memory_budget(300 * MIB);
        let builder = builder.check_interval(Duration::from_millis(50));
        let pool = builder.start().await.unwrap();
        let mut events = pool.events();
        let before = pool.call(leak(200 << 20)).await.unwrap();
        let reason = event(&mut events, |event| match event {
            Event::WorkerRetiring { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(reason.await.contains("budget"));
        assert_ne!(pool.call(pid()).await.unwrap(), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancel_ends_a_call_that_is_being_interrupted() {
    soon(async {
        let (pool, gate) = (pool_with_budget(2, 64).await, Gate::new());
        let mut events = pool.events();
        let call = pool.call(fill(300 << 20, gate.path(), 1));
        event(&mut events, |event| {
            matches!(event, Event::OverMemoryBudget { .. }).then_some(())
        })
        .await;
        call.cancel("enough").await;
        assert!(matches!(call.await, Err(CallError::Cancelled(_))));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn options_that_contradict_the_budget_are_refused() {
    soon(async {
        let refused = [
            Pool::builder().memory_budget(0),
            Pool::builder().memory_budget(MIB - 1),
            Pool::builder().memory_budget(MIB).slots(2),
        ];
        for builder in refused {
            let error = builder.start().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadOption, "{error}");
        }
        let pool = pool_with_budget(1, 64).await;
        let fits = pool.call(add(1, 2).memory(64 * MIB));
        assert_eq!(fits.await.unwrap(), 3);
        let outcome = pool.call(add(1, 2).memory(64 * MIB + 1)).await;
        let Err(CallError::Rejected(error)) = outcome else {
            panic!("it is rejected: {outcome:?}")
        };
        assert_eq!(error.kind(), ErrorKind::BadOption, "{error}");
        pool.shutdown().await;
    })
    .await;
}

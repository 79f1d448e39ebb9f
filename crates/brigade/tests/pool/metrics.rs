//! Counts, times and events.

use brigade::{CallError, Event, Pool};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn wp10_counts_are_right_at_every_step() {
    soon(async {
        let (pool, gate) = (pool_of(2).await, Gate::new());
        let counts = || {
            let stats = pool.stats();
            (
                stats.workers,
                stats.busy,
                stats.idle,
                stats.waiting,
                stats.running,
            )
        };
        assert_eq!(counts(), (2, 0, 2, 0, 0));
        let held: Vec<_> = (0..3).map(|id| pool.call(hold(gate.path(), id))).collect();
        assert_eq!(counts(), (2, 2, 0, 1, 2));
        let mut arrivals = gate.arrivals(2).await;
        let third = {
            arrivals.remove(0);
            gate.arrival().await
        };
        assert_eq!(counts(), (2, 2, 0, 0, 2));
        drop((third, arrivals));
        join_all(held).await;
        assert_eq!(counts(), (2, 0, 2, 0, 0));
        assert!(matches!(
            pool.call(fail_with_source()).await,
            Err(CallError::Failed(_))
        ));
        assert_eq!(counts(), (2, 0, 2, 0, 0));
        assert_eq!(
            (pool.stats().done, pool.stats().failed, pool.stats().crashed),
            (3, 1, 0)
        );
        pool.shutdown().await;
        assert_eq!(counts(), (0, 0, 0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn pi32_times_of_waiting_and_running_are_kept() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        assert_eq!((pool.stats().wait.count, pool.stats().run.count), (0, 0));
        let held = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let waited = pool.call(add(1, 2));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        drop(arrival);
        held.await.unwrap();
        waited.await.unwrap();
        let (wait, run) = (pool.stats().wait, pool.stats().run);
        assert_eq!((wait.count, run.count), (2, 2));
        for times in [wait, run] {
            assert!(
                times.min <= times.p50 && times.p50 <= times.p90 && times.p90 <= times.p99,
                "{times:?}"
            );
            assert!(
                times.max >= std::time::Duration::from_millis(49)
                    && times.mean > std::time::Duration::ZERO,
                "{times:?}"
            );
            assert!(times.deviation > std::time::Duration::ZERO, "{times:?}");
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi33_completed_calls_and_utilization_are_counted() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        assert!((pool.stats().utilization, pool.stats().done) == (0.0, 0));
        let held = pool.call(hold(gate.path(), 1));
        drop(gate.arrival().await);
        held.await.unwrap();
        let stats = pool.stats();
        assert!(
            stats.utilization > 0.0 && stats.utilization <= 1.0,
            "{}",
            stats.utilization
        );
        assert_eq!(stats.done, 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi42_each_step_of_a_call_is_one_event_with_its_id_and_label() {
    soon(async {
        let pool = pool_of(1).await;
        let mut events = pool.events();
        let handle = pool.call(add(1, 2).label("the sum"));
        let id = handle.id().unwrap();
        handle.await.unwrap();
        pool.shutdown().await;
        drop(pool);
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Event::CallStarted {
                    call,
                    task,
                    label,
                    attempt,
                    ..
                } => {
                    assert_eq!(
                        (call, &*task, label.as_deref(), attempt),
                        (id, "add", Some("the sum"), 1)
                    );
                    told.push("started");
                }
                Event::CallEnded {
                    call,
                    outcome,
                    label,
                    ..
                } => {
                    assert_eq!((call, label.as_deref()), (id, Some("the sum")));
                    told.push(outcome);
                }
                Event::CallQueued { .. } => told.push("queued"),
                _ => {}
            }
        }
        assert_eq!(told, ["started", "done"], "it never waited");
    })
    .await;
}

#[tokio::test]
async fn pi42_an_event_reader_that_is_too_slow_is_told_how_many_it_missed() {
    soon(async {
        let pool = Pool::builder().workers(1).slots(64).start().await.unwrap();
        let mut events = pool.events();
        for _ in 0..25 {
            join_all((0..100).map(|n| pool.call(add(n, n)))).await;
        }
        assert!(matches!(events.next().await, Some(Event::Missed(1..))));
        pool.shutdown().await;
    })
    .await;
}

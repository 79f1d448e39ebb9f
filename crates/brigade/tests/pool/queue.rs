//! Calls that wait: order, limits, leaving the line.

use std::time::Duration;

use brigade::{CallError, CallHandle, ErrorKind, Event, Order, Pool, Step, TimedOut};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use crate::gate::{Arrival, Gate};
use crate::probe::{event, kill, pids, pool_of, soon};
use crate::tasks::*;

/// A pool whose one worker is busy until the arrival is dropped.
async fn busy(builder: brigade::Builder, gate: &Gate) -> (Pool, CallHandle<u32>, Arrival) {
    let pool = builder.workers(1).start().await.unwrap();
    let handle = pool.call(hold(gate.path(), 0));
    let arrival = gate.arrival().await;
    (pool, handle, arrival)
}

/// The order in which the worker runs calls with these priorities that came one after the other.
async fn order_of(builder: brigade::Builder, priorities: &[i32]) -> Vec<usize> {
    let (gate, directory) = (Gate::new(), tempfile::tempdir().unwrap());
    let path = directory.path().join("order").to_str().unwrap().to_owned();
    let (pool, held, arrival) = busy(builder, &gate).await;
    let line = |(index, priority): (usize, &i32)| {
        pool.call(write_line(path.clone(), index.to_string()).priority(*priority))
    };
    let calls: Vec<_> = priorities.iter().enumerate().map(line).collect();
    assert!(!held.is_finished(), "what runs is not interrupted");
    drop(arrival);
    for end in join_all(calls).await {
        end.unwrap();
    }
    held.await.unwrap();
    pool.shutdown().await;
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn wp24_the_default_order_is_first_in_first_out() {
    soon(async {
        assert_eq!(order_of(Pool::builder(), &[0; 4]).await, [0, 1, 2, 3]);
        assert_eq!(
            order_of(Pool::builder().order(Order::Fifo), &[0; 4]).await,
            [0, 1, 2, 3]
        );
    })
    .await;
}

#[tokio::test]
async fn wp24_last_in_first_out_when_asked() {
    soon(async {
        assert_eq!(
            order_of(Pool::builder().order(Order::Lifo), &[0; 4]).await,
            [3, 2, 1, 0]
        );
    })
    .await;
}

#[tokio::test]
async fn wp26_a_higher_priority_leaves_first_and_what_runs_is_left_alone() {
    soon(async {
        let order = order_of(Pool::builder(), &[0, 5, -5, 5, i32::MAX, i32::MIN]).await;
        assert_eq!(order, [4, 1, 3, 0, 2, 5]);
    })
    .await;
}

#[tokio::test]
async fn wp28_pi26_pi27_lb6_a_full_queue_refuses_and_what_it_holds_still_runs() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, arrival) = busy(Pool::builder().queue_max(2), &gate).await;
        let one = pool
            .try_call(add(1, 0))
            .expect("the running one does not count");
        let two = pool.try_call(add(2, 0)).unwrap();
        let error = pool.try_call(add(3, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert!(
            error.is_retryable() && error.to_string().contains("queue_max"),
            "{error}"
        );
        assert_eq!(pool.stats().waiting, 2);
        drop(arrival);
        assert_eq!(
            (held.await.unwrap(), one.await.unwrap(), two.await.unwrap()),
            (0, 1, 2)
        );
        assert_eq!(pool.stats().waiting, 0);
        pool.try_call(add(3, 0))
            .expect("there is room again")
            .await
            .unwrap();
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l3_pi31_callers_wait_for_room_in_order() {
    soon(async {
        let (gate, directory) = (Gate::new(), tempfile::tempdir().unwrap());
        let path = directory.path().join("order").to_str().unwrap().to_owned();
        let (pool, held, arrival) = busy(Pool::builder().queue_max(1), &gate).await;
        let mut calls: Vec<_> = (0..6)
            .map(|n| pool.call(write_line(path.clone(), n.to_string())))
            .collect();
        assert_eq!(calls.iter().filter(|call| call.id().is_some()).count(), 1);
        // Each is polled once, so that it waits for room in this order.
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        drop(arrival);
        for end in join_all(calls).await {
            end.unwrap();
        }
        held.await.unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "0\n1\n2\n3\n4\n5\n"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp30_wp31_pi29_calls_leave_the_line_from_anywhere_and_the_rest_keeps_its_order() {
    soon(async {
        let (gate, directory) = (Gate::new(), tempfile::tempdir().unwrap());
        let path = directory.path().join("order").to_str().unwrap().to_owned();
        let (pool, held, arrival) = busy(Pool::builder(), &gate).await;
        let calls: Vec<_> = (0..9)
            .map(|n| pool.call(write_line(path.clone(), n.to_string())))
            .collect();
        for (left, leaver) in [(8, 8), (7, 4), (6, 0)] {
            let receipt = calls[leaver].cancel("leaves the line").await.unwrap();
            assert_eq!(receipt.step, Step::NotStarted);
            assert_eq!(
                calls[leaver].cancel("again").await.unwrap().step,
                Step::NotStarted,
                "a second time does nothing"
            );
            assert_eq!(pool.stats().waiting, left);
        }
        assert!(!held.is_finished());
        drop(arrival);
        let ends = join_all(calls).await;
        assert_eq!(
            ends.iter()
                .filter(|end| matches!(end, Err(CallError::Cancelled(_))))
                .count(),
            3
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "1\n2\n3\n5\n6\n7\n"
        );
        assert_eq!(held.await.unwrap(), 0);
        assert_eq!(pool.stats().started, 1, "the worker stays");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tp4_cancelling_all_that_waits_leaves_what_runs() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, arrival) = busy(Pool::builder(), &gate).await;
        let waiting: Vec<_> = (0..5).map(|n| pool.call(add(n, n))).collect();
        assert_eq!(pool.cancel_waiting("cleared"), 5);
        for end in join_all(waiting).await {
            let CallError::Cancelled(cancelled) = end.unwrap_err() else {
                panic!("it was cancelled")
            };
            assert_eq!(cancelled.reason, "cleared");
        }
        assert_eq!((pool.stats().waiting, pool.stats().running), (0, 1));
        drop(arrival);
        assert_eq!(held.await.unwrap(), 0);
        assert_eq!(pool.cancel_waiting("nothing there"), 0);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp34_lb6_a_queue_timeout_ends_what_waits_and_not_what_runs() {
    soon(async {
        let gate = Gate::new();
        let pool = pool_of(1).await;
        let held = pool.call(hold(gate.path(), 0).queue_timeout(Duration::from_millis(50)));
        let arrival = gate.arrival().await;
        let error = pool
            .call(add(1, 2).queue_timeout(Duration::from_millis(100)))
            .await
            .unwrap_err();
        assert!(
            matches!(error, CallError::TimedOut(TimedOut::Queue(_))),
            "{error}"
        );
        assert!(!held.is_finished(), "the first one waited for nothing");
        drop(arrival);
        assert_eq!(held.await.unwrap(), 0);
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi6_ten_thousand_waiting_calls_run_one_after_the_other() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, arrival) = busy(Pool::builder(), &gate).await;
        let calls: Vec<_> = (0..10_000).map(|n| pool.call(add(n, 1))).collect();
        assert_eq!(pool.stats().waiting, 10_000);
        drop(arrival);
        for (n, end) in (0..).zip(join_all(calls).await) {
            assert_eq!(end.unwrap(), n + 1);
        }
        held.await.unwrap();
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi30_it_is_told_when_nothing_waits_any_more() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, arrival) = busy(Pool::builder(), &gate).await;
        let mut events = pool.events();
        let waiting = [pool.call(add(1, 2)), pool.call(add(3, 4))];
        drop(arrival);
        event(&mut events, |event| {
            matches!(event, Event::Drained).then_some(())
        })
        .await;
        assert_eq!(pool.stats().waiting, 0);
        for end in join_all(waiting).await {
            end.unwrap();
        }
        held.await.unwrap();
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn lb4_calls_that_wait_for_a_worker_that_dies_run_on_its_replacement() {
    soon(async {
        let gate = Gate::new();
        let (pool, held, _arrival) = busy(Pool::builder(), &gate).await;
        let waiting: Vec<_> = (0..5).map(|n| pool.call(add(n, n))).collect();
        kill(pids(&pool)[0]);
        assert!(matches!(held.await, Err(CallError::Crashed(_))));
        for (n, end) in (0..).zip(join_all(waiting).await) {
            assert_eq!(end.unwrap(), 2 * n);
        }
        pool.shutdown().await;
    })
    .await;
}

/// A call that was handed out and waits again (for its retry, or because it was passed or its
/// worker is gone) counts towards the limit.
#[tokio::test]
async fn retries_that_wait_hold_places_in_the_queue() {
    soon(async {
        const QUEUE_MAX: usize = 3;
        let pool = Pool::builder()
            .workers(1)
            .queue_max(QUEUE_MAX)
            .start()
            .await
            .unwrap();
        let mut handles = Vec::new();
        for _ in 0..20 {
            match pool.try_call(fail_and_wait(3600).retries(1)) {
                Ok(handle) => handles.push(handle),
                Err(error) => assert_eq!(error.kind(), ErrorKind::QueueFull),
            }
            // Until it is in the line, or failed and waits.
            while pool.stats().running > 0 {
                tokio::task::yield_now().await;
            }
        }
        let waiting = pool.stats().waiting;
        assert!(
            (QUEUE_MAX..=QUEUE_MAX + 1).contains(&waiting),
            "{waiting} wait where {QUEUE_MAX} may, and one worker held one more"
        );
        assert_eq!(handles.len(), waiting);
        // What is owed is paid before there is room again.
        pool.cancel_waiting("enough");
        for handle in handles {
            assert!(matches!(handle.await, Err(CallError::Cancelled(_))));
        }
        let more: Vec<_> = (0..QUEUE_MAX)
            .map(|_| {
                pool.try_call(add(1, 2).delay(Duration::from_secs(3600)))
                    .unwrap()
            })
            .collect();
        assert_eq!(
            pool.try_call(add(1, 2).delay(Duration::from_secs(3600)))
                .unwrap_err()
                .kind(),
            ErrorKind::QueueFull
        );
        drop(more);
        pool.shutdown().await;
    })
    .await;
}

/// Names that callers give (of tasks, labels, keys) leave nothing behind in the pool.
#[tokio::test]
async fn a_pool_keeps_nothing_of_names_that_it_was_given_once() {
    soon(async {
        let pool = Pool::builder().workers(1).start().await.unwrap();
        let call = async |number: usize| {
            let name = format!("no_such_task_{number:0>200}");
            let error = pool
                .call(brigade::Call::<i64>::json(name.clone(), &[1]).label(name.clone()))
                .await
                .unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::UnknownTask), "{error}");
        };
        for number in 0..500 {
            call(number).await;
        }
        let before = brigade_testkit::facts::resident_bytes(std::process::id());
        for number in 500..10_500 {
            call(number).await;
        }
        let grown =
            brigade_testkit::facts::resident_bytes(std::process::id()).saturating_sub(before);
        // 10,000 names of 200 bytes, kept twice, would be 4 MB.
        assert!(grown < 3 << 20, "{grown} bytes");
        pool.shutdown().await;
    })
    .await;
}

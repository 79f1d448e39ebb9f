//! What a caller holds: a future that settles once, whose cancel travels to the call, and whose
//! drop cancels it.
//!
//! PM1-PM7 are the promise semantics of the checklist, in its order: settle once, late handlers,
//! errors down the chain, finally, cancel and timeout travel to the root, all, dropping the handle.

use std::time::Duration;

use brigade::{CallError, ErrorKind, Event, Pool, Step};
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;

use crate::gate::Gate;
use crate::probe::{begun, event, pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn pm1_a_call_settles_once_whoever_comes_late() {
    soon(async {
        let pool = pool_of(1).await;
        let mut handle = pool.call(add(3, 4));
        assert_eq!((&mut handle).await.unwrap(), 7);
        assert_eq!(handle.cancel("too late").await, None, "it had ended before");
        assert!(handle.is_finished());
        assert_eq!((pool.stats().done, pool.stats().failed), (1, 0));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm1_two_cancels_are_one() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(Duration::from_millis(50), Duration::from_secs(60))
            .start()
            .await
            .unwrap();
        let handle = pool.call(spin());
        begun(&handle).await;
        let (first, second) = (handle.cancel("first"), handle.cancel("second"));
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first, second);
        assert_eq!(first.unwrap().step, Step::Terminated);
        let CallError::Cancelled(cancelled) = handle.await.unwrap_err() else {
            panic!("it was cancelled")
        };
        assert_eq!(cancelled.reason, "first");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm2_an_outcome_waits_for_whoever_comes_late() {
    soon(async {
        let pool = pool_of(1).await;
        let early = pool.call(add(1, 2));
        for n in 0..50 {
            pool.call(add(n, n)).await.unwrap();
        }
        assert_eq!(early.now_or_never().unwrap().unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm3_pm4_what_is_chained_to_a_call_sees_both_outcomes() {
    soon(async {
        let pool = pool_of(1).await;
        let doubled = pool.call(add(1, 2)).map(|sum| sum.map(|sum| 2 * sum)).await;
        assert_eq!(doubled.unwrap(), 6);
        let failed = pool
            .call(fail_with_source())
            .map(|sum| sum.map(|sum| 2 * sum))
            .await;
        assert!(matches!(failed, Err(CallError::Failed(_))));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm5_dropping_what_was_chained_to_a_call_cancels_the_call() {
    soon(async {
        let pool = pool_of(1).await;
        let mut events = pool.events();
        let handle = pool.call(spin());
        begun(&handle).await;
        let chained = handle.map(|outcome| outcome.is_ok());
        assert!(
            tokio::time::timeout(Duration::from_millis(20), chained)
                .await
                .is_err(),
            "it spins"
        );
        let outcome = event(&mut events, |event| match event {
            Event::CallEnded { outcome, .. } => Some(outcome),
            _ => None,
        });
        assert_eq!(outcome.await, "cancelled");
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm6_all_gives_results_in_order_or_the_first_error_or_nothing_at_once() {
    soon(async {
        let pool = pool_of(2).await;
        let all = try_join_all((0..20).map(|n| pool.call(add(n, 1))))
            .await
            .unwrap();
        assert_eq!(all, (1..=20).collect::<Vec<i64>>());
        let none: Vec<i64> = try_join_all(Vec::<brigade::CallHandle<i64>>::new())
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(none.is_empty());
        let gate = Gate::new();
        let held = pool
            .call(hold(gate.path(), 1))
            .map(|end| end.map(i64::from))
            .boxed();
        let first_error = try_join_all([held, pool.call(fail_with_source()).boxed()]);
        assert!(
            matches!(first_error.await, Err(CallError::Failed(_))),
            "the one behind the gate is not waited for"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm7_dropping_a_handle_cancels_its_call_wherever_it_is() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        let mut events = pool.events();
        let directory = tempfile::tempdir().unwrap();
        let marks = directory.path().join("marks");
        let mark = |text: &str| write_line(marks.to_str().unwrap().to_owned(), text.to_owned());
        let running = pool.call(spin());
        begun(&running).await;
        let waiting = pool.call(mark("waiting"));
        let outside = pool.call(mark("outside"));
        assert_eq!(
            (waiting.id().is_some(), outside.id()),
            (true, None),
            "there is room for one"
        );
        drop((waiting, outside, running));
        let mut outcomes = Vec::new();
        while outcomes.len() < 2 {
            outcomes.push(
                event(&mut events, |event| match event {
                    Event::CallEnded { outcome, .. } => Some(outcome),
                    _ => None,
                })
                .await,
            );
        }
        assert_eq!(outcomes, ["cancelled"; 2], "the third never came in");
        pool.call(mark("last")).await.unwrap();
        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "last\n");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm7_a_detached_call_runs_on_wherever_it_is() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        let (gate, directory) = (Gate::new(), tempfile::tempdir().unwrap());
        let marks = directory.path().join("marks").to_str().unwrap().to_owned();
        pool.call(hold(gate.path(), 1)).detach();
        let arrival = gate.arrival().await;
        pool.call(write_line(marks.clone(), "waiting".to_owned()))
            .detach();
        pool.call(write_line(marks.clone(), "outside".to_owned()))
            .detach();
        drop(arrival);
        crate::probe::until("both ran", || {
            std::fs::read_to_string(&marks).is_ok_and(|text| text == "waiting\noutside\n")
        })
        .await;
        assert!(pool.shutdown().await.drained);
        assert_eq!(pool.stats().done, 3);
    })
    .await;
}

#[tokio::test]
async fn pi11_a_call_that_was_cancelled_while_it_waited_for_room_never_comes_in() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        let gate = Gate::new();
        let first = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let second = pool.call(add(1, 1));
        let third = pool.call(add(2, 2));
        assert_eq!(
            third.cancel("not wanted").await.unwrap().step,
            Step::NotStarted
        );
        let CallError::Cancelled(cancelled) = third.await.unwrap_err() else {
            panic!("it was cancelled")
        };
        assert!(cancelled.report.is_none());
        drop(arrival);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (1, 2));
        assert_eq!(pool.stats().done, 2);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pm5_the_outcome_of_a_refused_call_comes_from_its_handle() {
    soon(async {
        let pool = pool_of(1).await;
        let handle = pool.call(add(1, 2).timeout(Duration::ZERO));
        assert_eq!(handle.id(), None);
        assert_eq!(
            handle.await.unwrap_err().rejected(),
            Some(ErrorKind::BadOption)
        );
        pool.shutdown().await;
    })
    .await;
}

/// A handle is cancelled through a shared reference: while another part of the program awaits it,
/// or by several.
#[expect(clippy::disallowed_methods, reason = "another task holds the handle")]
#[tokio::test]
async fn a_shared_handle_is_cancelled_wherever_its_call_is() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        let handles: Vec<std::sync::Arc<brigade::CallHandle<()>>> = (0..3)
            .map(|_| std::sync::Arc::new(pool.call(spin())))
            .collect();
        // The first runs, the second waits in the queue, the third for room there.
        for handle in handles.into_iter().rev() {
            let other = std::sync::Arc::clone(&handle);
            assert!(
                tokio::spawn(async move { other.cancel("enough").await })
                    .await
                    .unwrap()
                    .is_some()
            );
            assert!(
                handle.cancel("again").await.is_some(),
                "what it was stopped by stays"
            );
            let error = std::sync::Arc::into_inner(handle)
                .unwrap()
                .await
                .unwrap_err();
            assert!(
                matches!(&error, CallError::Cancelled(cancelled) if cancelled.reason == "enough"),
                "{error}"
            );
        }
        pool.shutdown().await;
    })
    .await;
}

/// What an HTTP server may answer.
#[tokio::test]
async fn a_reason_tells_nothing_of_the_program_s_inside() {
    soon(async {
        let pool = Pool::builder().workers(1).kill_after(
            std::time::Duration::from_millis(50),
            std::time::Duration::from_millis(50),
        );
        let pool = pool.start().await.unwrap();
        let timed_out = pool
            .call(spin().timeout(std::time::Duration::from_millis(100)))
            .await
            .unwrap_err();
        let errors = [
            (timed_out, "the task timed out after"),
            (
                pool.call(panic_with("left\n  right".to_owned()))
                    .await
                    .unwrap_err(),
                "the task panicked: left; right",
            ),
            (
                pool.call(segfault()).await.unwrap_err(),
                "the task crashed: killed by SIGSEGV",
            ),
            (
                pool.call(exit_with(3)).await.unwrap_err(),
                "the task crashed: it ended its process with exit code 3",
            ),
            (
                pool.call(fail_with_details()).await.unwrap_err(),
                "the task failed: ",
            ),
            (
                pool.call(brigade::Call::<i64>::json("no_such_task", &[1]))
                    .await
                    .unwrap_err(),
                "the call was rejected: ",
            ),
        ];
        for (error, reason) in errors {
            let text = error.reason();
            assert!(text.starts_with(reason), "{text:?} is not {reason:?}");
            assert!(
                !text.contains("pid")
                    && !text.contains(".rs")
                    && !text.contains("worker 1")
                    && !text.contains('\n'),
                "{text}"
            );
            // The whole says nothing twice.
            let whole = error.to_string();
            println!("{whole}");
            for word in ["timed out", "panicked", "SIGTERM", "SIGKILL", "SIGSEGV"] {
                assert!(whole.matches(word).count() <= 1, "{whole}");
            }
        }
        pool.shutdown().await;
    })
    .await;
}

//! Workers that die: whose fault it is, what is known of it, and that everything goes on.

use std::time::Duration;

use brigade::{AttemptOutcome, Call, CallError, Event, Exit, MemoryLimit, Pool};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{begun, event, gone, is_alive, kill, pids, pool_of, soon, until};
use crate::tasks::*;

#[tokio::test]
async fn wp39_lb5_a_worker_killed_from_outside_takes_its_call_with_it_and_is_replaced() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        pool.call(say(String::new(), "its last words".to_owned()))
            .await
            .unwrap();
        let pid = pids(&pool)[0];
        let handle = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        kill(pid);
        arrival.gone().await;
        let error = handle.await.unwrap_err();
        assert_eq!(error.signal(), Some(libc::SIGKILL));
        let CallError::Crashed(report) = error else {
            panic!("it crashed: {error}")
        };
        assert_eq!(
            (report.pid, report.worker, report.task.as_str()),
            (pid, 1, "hold")
        );
        assert_eq!(
            (&report.ended, report.exit),
            (
                &AttemptOutcome::Signalled,
                Some(Exit::Signal(libc::SIGKILL))
            )
        );
        assert!(
            report.stderr.contains("its last words"),
            "{}",
            report.stderr
        );
        assert_ne!(pool.call(crate::tasks::pid()).await.unwrap(), pid);
        assert!(!pids(&pool).contains(&pid));
        gone(pid).await;
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp40_bad_use_a_worker_that_closes_its_descriptors_is_ended_and_replaced() {
    soon(async {
        let pool = pool_of(1).await;
        for _ in 0..10 {
            pool.ready(1).await.unwrap();
            let pid = pids(&pool)[0];
            let CallError::Crashed(report) = pool.call(close_descriptors()).await.unwrap_err()
            else {
                panic!("it crashed")
            };
            assert!(
                matches!(report.ended, AttemptOutcome::LinkBroken(_)),
                "{report:?}"
            );
            gone(pid).await;
            assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp41_tp8_what_a_dying_worker_was_saying_hurts_nobody() {
    soon(async {
        let pool = pool_of(2).await;
        for _ in 0..5 {
            let handle = pool.call(chatter_for_ever());
            begun(&handle).await;
            let busy = pool
                .workers()
                .into_iter()
                .find(|worker| worker.running > 0)
                .unwrap();
            kill(busy.pid.unwrap());
            assert!(matches!(handle.await, Err(CallError::Crashed(_))));
            assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wx1_lb2_an_idle_worker_that_dies_is_replaced_and_costs_no_call() {
    soon(async {
        let pool = pool_of(2).await;
        for _ in 0..5 {
            let (before, mut events) = (pids(&pool), pool.events());
            kill(before[0]);
            event(&mut events, |event| {
                matches!(event, Event::WorkerGone { .. }).then_some(())
            })
            .await;
            assert!(!pids(&pool).contains(&before[0]), "it is not shown as idle");
            for end in join_all((0..20).map(|n| pool.call(add(n, n)))).await {
                end.unwrap();
            }
            pool.ready(2).await.unwrap();
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wx1_pi23_a_call_given_to_a_worker_that_had_just_died_runs_on_another() {
    soon(async {
        let pool = pool_of(1).await;
        for n in 0..10 {
            let pid = pids(&pool)[0];
            kill(pid);
            // Blocks this thread, which is the pool's only one: the pool cannot have noticed when
            // the call is made.
            while is_alive(pid) {
                std::hint::spin_loop();
            }
            assert_eq!(pool.call(add(n, n)).await.unwrap(), 2 * n);
            pool.ready(1).await.unwrap();
        }
        assert_eq!(pool.stats().crashed, 0);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi23_a_worker_that_exits_after_its_call_has_ended_does_not_fail_the_next() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        for n in 0..10 {
            let before = pool.call(exit_later(gate.path())).await.unwrap();
            drop(gate.arrival().await);
            gone(before).await;
            assert_eq!(pool.call(add(n, n)).await.unwrap(), 2 * n);
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp18_a_stack_overflow_is_told_apart_and_its_worker_replaced() {
    soon(async {
        let pool = pool_of(1).await;
        let pid = pids(&pool)[0];
        let CallError::Crashed(report) = pool.call(overflow_stack(1)).await.unwrap_err() else {
            panic!("it crashed")
        };
        assert_eq!(report.ended, AttemptOutcome::StackOverflow);
        assert_ne!(pool.call(crate::tasks::pid()).await.unwrap(), pid);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_stack_overflow_in_a_thread_of_a_task_is_reported_with_its_name_under_a_test_harness_too()
{
    soon(async {
        let pool = pool_of(1).await;
        for _ in 0..2 {
            let error = pool.call(overflow_a_thread()).await.unwrap_err();
            let CallError::Crashed(report) = &error else {
                panic!("{error}")
            };
            assert_eq!(
                (&report.ended, report.thread.as_deref()),
                (&AttemptOutcome::StackOverflow, Some("parser")),
                "{error}"
            );
            assert!(
                report
                    .stderr
                    .contains("thread 'parser' has overflowed its stack"),
                "{}",
                report.stderr
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi24_tp7_memory_over_its_limit_is_told_apart_and_the_pool_goes_on() {
    soon(async {
        let pool = pool_of(1).await;
        for _ in 0..3 {
            let CallError::Crashed(report) = pool.call(hog().memory(64 << 20)).await.unwrap_err()
            else {
                panic!("it crashed")
            };
            let limit =
                [MemoryLimit::Cgroup, MemoryLimit::Resident].map(AttemptOutcome::OutOfMemory);
            assert!(limit.contains(&report.ended), "{report:?}");
            assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        }
        pool.shutdown().await;
    })
    .await;
}

/// The report of a call that crashes, and that its worker was replaced.
async fn crash<T: serde::de::DeserializeOwned + std::fmt::Debug>(
    call: Call<T>,
) -> brigade::AttemptReport {
    let pool = pool_of(1).await;
    let pid = pids(&pool)[0];
    let CallError::Crashed(report) = pool.call(call).await.unwrap_err() else {
        panic!("it crashed")
    };
    assert_eq!(report.pid, pid);
    assert_ne!(pool.call(crate::tasks::pid()).await.unwrap(), pid);
    pool.ready(1).await.unwrap();
    assert_eq!((pool.stats().crashed, pool.stats().workers), (1, 1));
    pool.shutdown().await;
    *report
}

#[tokio::test]
async fn pi22_bad_use_exit_in_a_task_tells_the_code() {
    soon(async {
        for code in [0, 1, 3] {
            let report = crash(exit_with(code)).await;
            assert_eq!(
                (report.ended, report.exit),
                (AttemptOutcome::Exited, Some(Exit::Code(code)))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn bad_use_abort_and_a_segmentation_fault_tell_the_signal() {
    soon(async {
        for (call, signal) in [(abort(), libc::SIGABRT), (segfault(), libc::SIGSEGV)] {
            let report = crash(call).await;
            assert_eq!(
                (report.ended, report.exit),
                (AttemptOutcome::Signalled, Some(Exit::Signal(signal)))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn pi20_pi21_wp43_a_panic_in_a_stray_thread_is_told_and_blames_no_call() {
    soon(async {
        let pool = pool_of(1).await;
        let (mut events, before) = (pool.events(), pids(&pool));
        assert_eq!(pool.call(panic_in_a_thread()).await.unwrap(), before[0]);
        let message = event(&mut events, |event| match event {
            Event::StrayPanic {
                message, location, ..
            } => Some(format!("{message} at {location}")),
            _ => None,
        });
        let message = message.await;
        assert!(
            message.starts_with("a stray thread at ") && message.contains("tasks.rs:"),
            "{message}"
        );
        assert_eq!(pool.stats().failed, 0);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_children_that_a_task_leaves_behind_end_with_their_worker() {
    soon(async {
        let pool = pool_of(1).await;
        let children = pool.call(fork_children(3, false)).await.unwrap();
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
        until("no child is alive", || {
            !children.iter().any(|child| is_alive(*child))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn pi22_a_call_that_crashes_runs_again_when_asked_and_its_second_crash_is_its_last() {
    soon(async {
        let retry = brigade::Retry::exponential(Duration::from_millis(1), Duration::from_millis(1));
        let pool = Pool::builder()
            .workers(1)
            .retry(retry)
            .start()
            .await
            .unwrap();
        let error = pool.call(abort().retries(5)).await.unwrap_err();
        assert_eq!(error.report().unwrap().attempt, 2);
        assert_eq!(pool.stats().crashed, 2);
        pool.shutdown().await;
    })
    .await;
}

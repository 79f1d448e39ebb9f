//! The end of a pool: what finishes, what it reports, and that no process is left.

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, ErrorKind, Event, Pool};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{begun, event, exists, gone, pids, pool_of, soon};
use crate::tasks::*;

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn wp44_pi15_l12_shutdown_lets_running_and_waiting_calls_finish_and_leaves_no_process() {
    soon(async {
        let (pool, gate) = (pool_of(2).await, Gate::new());
        let held: Vec<_> = (0..2).map(|id| pool.call(hold(gate.path(), id))).collect();
        let arrivals = gate.arrivals(2).await;
        let waiting: Vec<_> = (0..5).map(|n| pool.call(add(n, n))).collect();
        let (processes, open) = (pids(&pool), pool.clone());
        let (end, ()) = tokio::join!(pool.shutdown(), async move {
            crate::probe::until("it is closing", || open.is_closed()).await;
            drop(arrivals);
        });
        assert!(end.drained);
        assert!(
            !processes.iter().any(|pid| exists(*pid)),
            "the processes are gone when it returns"
        );
        assert!(pool.workers().is_empty());
        for (id, end) in (0..).zip(join_all(held).await) {
            assert_eq!(end.unwrap(), id);
        }
        for (n, end) in (0..).zip(join_all(waiting).await) {
            assert_eq!(end.unwrap(), 2 * n);
        }
    })
    .await;
}

#[tokio::test]
async fn wp45_shutdown_waits_for_all_also_when_one_fails() {
    soon(async {
        let (pool, gate) = (pool_of(3).await, Gate::new());
        let held: Vec<_> = (0..2).map(|id| pool.call(hold(gate.path(), id))).collect();
        let arrivals = gate.arrivals(2).await;
        let fails = pool.call(fail_with_source());
        let crashes = pool.call(abort());
        let (end, ()) = tokio::join!(pool.shutdown(), async move {
            assert!(matches!(fails.await, Err(CallError::Failed(_))));
            assert!(matches!(crashes.await, Err(CallError::Crashed(_))));
            drop(arrivals);
        });
        assert!(end.drained);
        for (id, end) in (0..).zip(join_all(held).await) {
            assert_eq!(end.unwrap(), id);
        }
    })
    .await;
}

#[tokio::test]
async fn wp46_pi17_pi19_kill_stops_what_runs_and_refuses_what_waits() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .slots(2)
            .kill_after(SHORT, SHORT)
            .start()
            .await
            .unwrap();
        let running = [pool.call(spin()), pool.call(spin())];
        join_all(running.iter().map(begun)).await;
        let waiting = [pool.call(add(1, 2)), pool.call(add(3, 4))];
        let processes = pids(&pool);
        assert!(!pool.kill().await.drained);
        assert!(!processes.iter().any(|pid| exists(*pid)));
        for end in join_all(running).await {
            let CallError::Cancelled(cancelled) = end.unwrap_err() else {
                panic!("it was stopped")
            };
            assert_eq!(cancelled.reason, "the pool was shut down");
            assert_eq!(cancelled.report.unwrap().ended, AttemptOutcome::Shutdown);
        }
        for end in join_all(waiting).await {
            assert_eq!(end.unwrap_err().rejected(), Some(ErrorKind::Closed));
        }
    })
    .await;
}

#[tokio::test]
async fn wp47_pi18_tp5_a_shutdown_that_takes_too_long_stops_the_rest_and_says_so() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(SHORT, SHORT)
            .start()
            .await
            .unwrap();
        let running = pool.call(spin_without_sigterm());
        begun(&running).await;
        let waiting = pool.call(add(1, 2));
        let processes = pids(&pool);
        let end = pool.shutdown_within(SHORT).await;
        assert!(!end.drained && end.took >= SHORT);
        assert!(!exists(processes[0]));
        assert!(matches!(running.await, Err(CallError::Cancelled(_))));
        assert_eq!(
            waiting.await.unwrap_err().rejected(),
            Some(ErrorKind::Closed)
        );
    })
    .await;
}

#[tokio::test]
async fn wp48_a_pool_that_is_shut_down_before_its_worker_is_ready_still_runs_what_it_took() {
    soon(async {
        for _ in 0..5 {
            let pool = Pool::builder().workers(0..=1).start().await.unwrap();
            let call = pool.call(add(1, 2));
            assert!(pool.shutdown().await.drained);
            assert_eq!(call.await.unwrap(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn wp48_a_pool_that_is_killed_before_its_worker_is_ready_leaves_nothing() {
    soon(async {
        for _ in 0..5 {
            let pool = Pool::builder().workers(0..=2).start().await.unwrap();
            let call = pool.call(add(1, 2));
            pool.kill().await;
            assert_eq!(call.await.unwrap_err().rejected(), Some(ErrorKind::Closed));
            assert!(pool.workers().is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn wx6_pi16_bad_use_a_call_after_shutdown_is_refused_and_starts_no_worker() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let held = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let closing = pool.clone();
        let refused = async {
            crate::probe::until("it is closing", || closing.is_closed()).await;
            assert_eq!(
                closing.call(add(1, 2)).await.unwrap_err().rejected(),
                Some(ErrorKind::Closed),
                "while it drains"
            );
            drop(arrival);
        };
        tokio::join!(pool.shutdown(), refused);
        assert_eq!(held.await.unwrap(), 1);
        assert_eq!(
            pool.call(add(1, 2)).await.unwrap_err().rejected(),
            Some(ErrorKind::Closed)
        );
        assert_eq!(
            pool.try_call(add(1, 2)).unwrap_err().kind(),
            ErrorKind::Closed
        );
        assert_eq!(pool.ready(1).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!((pool.stats().workers, pool.stats().started), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn pi14_closing_a_pool_without_calls_or_workers_and_closing_it_twice() {
    soon(async {
        let idle = pool_of(2).await;
        assert!(idle.shutdown().await.drained);
        assert!(idle.shutdown().await.drained);
        let empty = Pool::builder().workers(0..=2).start().await.unwrap();
        let (one, two) = tokio::join!(empty.shutdown(), empty.kill());
        assert!(one.drained && two.drained);
    })
    .await;
}

#[tokio::test]
async fn pi4_no_worker_is_started_again_while_the_pool_is_killed() {
    soon(async {
        let pool = Pool::builder()
            .workers(3)
            .kill_after(SHORT, SHORT)
            .start()
            .await
            .unwrap();
        let running: Vec<_> = (0..3).map(|_| pool.call(spin())).collect();
        join_all(running.iter().map(begun)).await;
        pool.kill().await;
        assert_eq!((pool.stats().workers, pool.stats().started), (0, 3));
    })
    .await;
}

#[tokio::test]
async fn wp50_a_worker_says_what_it_is_doing_until_it_is_gone() {
    soon(async {
        use brigade::WorkerState::{Busy, Idle, Retiring};
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let state = || pool.workers()[0].state;
        assert_eq!(state(), Idle);
        let mut events = pool.events();
        let held = pool.call(hold(gate.path(), 1));
        assert_eq!(state(), Busy);
        let arrival = gate.arrival().await;
        let old = pids(&pool)[0];
        let recycle = async {
            pool.recycle().await.unwrap();
        };
        let watch = async {
            event(&mut events, |event| {
                matches!(event, Event::WorkerRetiring { .. }).then_some(())
            })
            .await;
            assert_eq!(
                pool.workers()
                    .iter()
                    .find(|worker| worker.pid == Some(old))
                    .unwrap()
                    .state,
                Retiring
            );
            drop(arrival);
        };
        tokio::join!(recycle, watch);
        assert_eq!((held.await.unwrap(), state()), (1, Idle));
        pool.shutdown().await;
        assert!(pool.is_closed() && pool.workers().is_empty());
    })
    .await;
}

#[tokio::test]
async fn pm7_dropping_the_last_pool_kills_its_workers_and_tells_the_callers() {
    soon(async {
        let pool = pool_of(1).await;
        let running = pool.call(spin());
        begun(&running).await;
        let (waiting, processes) = (pool.call(add(1, 2)), pids(&pool));
        drop(pool);
        assert!(matches!(running.await, Err(CallError::Cancelled(_))));
        assert_eq!(
            waiting.await.unwrap_err().rejected(),
            Some(ErrorKind::Closed)
        );
        gone(processes[0]).await;
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_for_room_ends_with_its_pool() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        let running = pool.call(spin());
        begun(&running).await;
        let (queued, process) = (pool.call(add(1, 2)), pids(&pool)[0]);
        let (awaited, detached) = (pool.call(add(3, 4)), pool.call(add(5, 6)));
        let mut progress = detached.progress();
        drop(pool);
        assert!(matches!(running.await, Err(CallError::Cancelled(_))));
        gone(process).await;
        for call in [queued, awaited] {
            assert_eq!(call.await.unwrap_err().rejected(), Some(ErrorKind::Closed));
        }
        detached.detach();
        assert!(progress.next().await.is_none());
    })
    .await;
}

//! Run timeouts: when their clock runs and what they stop.

use std::time::Duration;

use brigade::{CallError, Pool, Step, TimedOut};

use crate::gate::Gate;
use crate::probe::{gone, pids, pool_of, soon};
use crate::tasks::*;

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn wp33_wx2_an_endless_loop_ends_at_its_timeout_and_so_does_its_worker() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(SHORT, Duration::from_secs(30))
            .start()
            .await
            .unwrap();
        let pid = pids(&pool)[0];
        let error = pool.call(spin().timeout(SHORT)).await.unwrap_err();
        let CallError::TimedOut(TimedOut::Run(report)) = error else {
            panic!("it timed out: {error}")
        };
        assert_eq!((report.pid, report.step), (pid, Some(Step::Terminated)));
        assert!(report.cost.wall >= SHORT);
        gone(pid).await;
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp33_wx2_a_loop_that_ignores_sigterm_ends_at_its_timeout_too() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(SHORT, SHORT)
            .start()
            .await
            .unwrap();
        let pid = pids(&pool)[0];
        let error = pool
            .call(spin_without_sigterm().timeout(Duration::from_millis(400)))
            .await
            .unwrap_err();
        assert_eq!(error.report().unwrap().step, Some(Step::Killed));
        gone(pid).await;
        assert_eq!(
            (pool.stats().running, pool.call(add(1, 2)).await.unwrap()),
            (0, 3)
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp34_issue869_the_clock_starts_when_the_call_leaves_the_queue() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let held = pool.call(hold(gate.path(), 0));
        let arrival = gate.arrival().await;
        let waiting = pool.call(add(1, 2).timeout(SHORT));
        // Long enough for the clock to run out, if it ran.
        tokio::time::sleep(3 * SHORT).await;
        assert!(!waiting.is_finished());
        drop(arrival);
        assert_eq!((held.await.unwrap(), waiting.await.unwrap()), (0, 3));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp34_issue869_the_clock_of_a_call_that_waited_runs_once_it_runs() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let held = pool.call(hold(gate.path(), 0));
        let arrival = gate.arrival().await;
        let waiting = pool.call(spin().timeout(SHORT));
        drop(arrival);
        held.await.unwrap();
        assert!(matches!(
            waiting.await,
            Err(CallError::TimedOut(TimedOut::Run(_)))
        ));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp35_a_timeout_ends_with_its_call() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        let before = pids(&pool);
        pool.call(add(1, 2).timeout(Duration::from_millis(500)))
            .await
            .unwrap();
        let held = pool.call(hold(gate.path(), 7));
        let arrival = gate.arrival().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(
            !held.is_finished(),
            "the timeout of the first call does not stop the second"
        );
        drop(arrival);
        assert_eq!(held.await.unwrap(), 7);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

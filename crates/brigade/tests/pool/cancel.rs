//! Stopping calls: what was asked, what was forced, what the worker and the others see of it.

use std::time::Duration;

use brigade::{Call, CallError, CallHandle, Cancelled, Event, Pool, Step, StopReceipt};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{begun, event, gone, is_alive, pids, pool_of, soon};
use crate::tasks::*;

/// Cancels a call and returns the receipt and what its handle gives.
async fn cancelled<T: serde::de::DeserializeOwned + std::fmt::Debug>(
    handle: CallHandle<T>,
) -> (StopReceipt, Cancelled) {
    let receipt = handle.cancel("not wanted").await.expect("it had not ended");
    let CallError::Cancelled(cancelled) = handle.await.unwrap_err() else {
        panic!("it was cancelled")
    };
    assert_eq!(cancelled.reason, "not wanted");
    (receipt, cancelled)
}

#[tokio::test]
async fn wp29_pi9_pi12_lb6_cancelling_an_endless_loop_ends_its_worker_and_says_why() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(Duration::from_millis(50), Duration::from_secs(30))
            .start()
            .await
            .unwrap();
        let handle = pool.call(spin());
        begun(&handle).await;
        let pid = pids(&pool)[0];
        let (receipt, cancelled) = cancelled(handle).await;
        assert_eq!(receipt.step, Step::Terminated);
        let report = cancelled.report.unwrap();
        assert_eq!((report.pid, report.step), (pid, Some(Step::Terminated)));
        gone(pid).await;
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wx2_tp6_a_loop_that_ignores_sigterm_is_killed_and_its_slot_is_free_again() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(Duration::from_millis(50), Duration::from_millis(100))
            .start()
            .await
            .unwrap();
        let handle = pool.call(spin_without_sigterm());
        begun(&handle).await;
        let pid = pids(&pool)[0];
        let (receipt, cancelled) = cancelled(handle).await;
        assert_eq!(receipt.step, Step::Killed);
        assert_eq!(
            cancelled.report.unwrap().exit,
            Some(brigade::Exit::Signal(libc::SIGKILL))
        );
        gone(pid).await;
        assert_ne!(pool.call(crate::tasks::pid()).await.unwrap(), pid);
        assert_eq!(pool.stats().running, 0);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi10_a_waiting_call_is_cancelled_before_it_runs_and_hurts_nobody() {
    soon(async {
        let (gate, directory) = (Gate::new(), tempfile::tempdir().unwrap());
        let path = directory.path().join("ran").to_str().unwrap().to_owned();
        let pool = pool_of(1).await;
        let running = pool.call(hold(gate.path(), 1));
        let arrival = gate.arrival().await;
        let waiting = pool.call(write_line(path.clone(), "it ran".to_owned()));
        let behind = pool.call(add(1, 2));
        let (receipt, cancelled) = cancelled(waiting).await;
        assert_eq!(
            (receipt.step, cancelled.report.is_none()),
            (Step::NotStarted, true)
        );
        drop(arrival);
        assert_eq!((running.await.unwrap(), behind.await.unwrap()), (1, 3));
        assert!(!std::path::Path::new(&path).exists());
        assert_eq!(pool.stats().started, 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn issue805_cancel_a_waiting_call_then_the_running_one_and_the_third_runs() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(Duration::from_millis(20), Duration::from_secs(30))
            .start()
            .await
            .unwrap();
        let running = pool.call(spin());
        begun(&running).await;
        let waiting = pool.call(add(1, 1));
        let third = pool.call(add(1, 2));
        let (second, first) = (waiting.cancel("no"), running.cancel("no"));
        let (second, first) = tokio::join!(second, first);
        assert_eq!(
            (second.unwrap().step, first.unwrap().step),
            (Step::NotStarted, Step::Terminated)
        );
        assert_eq!(third.await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp32_a_worker_that_is_being_stopped_gets_no_new_call() {
    soon(async {
        let pool = Pool::builder()
            .workers(0..=2)
            .kill_after(Duration::from_millis(200), Duration::from_secs(30))
            .start()
            .await
            .unwrap();
        let handle = pool.call(spin());
        begun(&handle).await;
        let pid = pids(&pool)[0];
        let stopping = handle.cancel("no");
        let others = join_all((0..20).map(|_| pool.call(crate::tasks::pid()))).await;
        assert!(others.into_iter().all(|other| other.unwrap() != pid));
        assert_eq!(stopping.await.unwrap().step, Step::Terminated);
        gone(pid).await;
        pool.shutdown().await;
    })
    .await;
}

/// A cooperating call that is stopped: its caller gets the outcome; its worker is busy until it is
/// clean, is kept and takes the next call.
async fn is_kept(
    pool: Pool,
    call: Call<()>,
    gate: Gate,
    how: impl AsyncFnOnce(&mut CallHandle<()>),
) -> CallError {
    let before = pids(&pool);
    let mut handle = pool.call(call);
    begun(&handle).await;
    how(&mut handle).await;
    let cleaning = gate.arrival().await;
    let next = pool.call(pid());
    let stats = pool.stats();
    assert_eq!(
        (stats.busy, stats.running, stats.waiting),
        (1, 1, 1),
        "it is busy while it cleans up"
    );
    drop(cleaning);
    let error = handle.await.unwrap_err();
    assert_eq!(next.await.unwrap(), before[0]);
    assert_eq!(pool.stats().started, 1);
    pool.shutdown().await;
    error
}

/// So patient that only a call that never ends would be forced.
async fn patient_pool() -> Pool {
    let long = Duration::from_secs(80);
    Pool::builder()
        .workers(1)
        .kill_after(long, long)
        .start()
        .await
        .unwrap()
}

async fn cancel_it(handle: &mut CallHandle<()>) {
    drop(handle.cancel("stop"));
}

async fn let_time_run_out(_: &mut CallHandle<()>) {}

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn wp36_a_sync_task_that_stops_when_cancelled_keeps_its_worker() {
    soon(async {
        let gate = Gate::new();
        let error = is_kept(patient_pool().await, polite(gate.path()), gate, cancel_it).await;
        let CallError::Cancelled(cancelled) = error else {
            panic!("it was cancelled: {error}")
        };
        assert_eq!(cancelled.report.unwrap().step, Some(Step::Asked));
    })
    .await;
}

#[tokio::test]
async fn wp36_an_async_task_that_stops_when_cancelled_keeps_its_worker() {
    soon(async {
        let gate = Gate::new();
        let error = is_kept(
            patient_pool().await,
            polite_async(gate.path()),
            gate,
            cancel_it,
        )
        .await;
        let CallError::Cancelled(cancelled) = error else {
            panic!("it was cancelled: {error}")
        };
        assert_eq!(cancelled.report.unwrap().step, Some(Step::Asked));
    })
    .await;
}

#[tokio::test]
async fn wp36_a_sync_task_that_stops_when_its_time_is_over_keeps_its_worker() {
    soon(async {
        let gate = Gate::new();
        let error = is_kept(
            patient_pool().await,
            polite(gate.path()).timeout(SHORT),
            gate,
            let_time_run_out,
        )
        .await;
        assert_eq!(error.report().unwrap().step, Some(Step::Asked));
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn wp36_an_async_task_that_stops_when_its_time_is_over_keeps_its_worker() {
    soon(async {
        let gate = Gate::new();
        let error = is_kept(
            patient_pool().await,
            polite_async(gate.path()).timeout(SHORT),
            gate,
            let_time_run_out,
        )
        .await;
        assert_eq!(error.report().unwrap().step, Some(Step::Asked));
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
    })
    .await;
}

/// A call whose abort listener never returns: its worker is ended, the outcome says so, and a later
/// call works on another worker.
async fn is_replaced(call: Call<()>, cancels: bool) -> CallError {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(SHORT, Duration::from_secs(30))
        .start()
        .await
        .unwrap();
    let (mut events, before) = (pool.events(), pids(&pool)[0]);
    let handle = pool.call(call);
    begun(&handle).await;
    if cancels {
        drop(handle.cancel("stop"));
    }
    let error = handle.await.unwrap_err();
    event(&mut events, |event| {
        matches!(event, Event::WorkerGone { pid, .. } if pid == before).then_some(())
    })
    .await;
    assert_ne!(pool.call(pid()).await.unwrap(), before);
    assert!(!is_alive(before));
    pool.shutdown().await;
    error
}

#[tokio::test]
async fn wp37_an_abort_listener_that_never_returns_ends_its_worker_when_cancelled() {
    soon(async {
        assert!(matches!(
            is_replaced(deaf(), true).await,
            CallError::Cancelled(_)
        ));
    })
    .await;
}

#[tokio::test]
async fn wp37_an_abort_listener_that_never_returns_ends_its_worker_when_its_time_is_over() {
    soon(async {
        assert!(matches!(
            is_replaced(deaf().timeout(Duration::from_millis(400)), false).await,
            CallError::TimedOut(_)
        ));
    })
    .await;
}

#[tokio::test]
async fn wp38_what_an_abort_listener_tells_and_prints_still_arrives() {
    soon(async {
        let pool = patient_pool().await;
        let handle = pool.call(last_report().capture(1024));
        let mut progress = handle.progress();
        assert_eq!(
            progress.next().await.unwrap().payload::<String>().unwrap(),
            "begun"
        );
        assert_eq!(handle.cancel("enough").await.unwrap().step, Step::Asked);
        assert_eq!(
            progress.next().await.unwrap().payload::<String>().unwrap(),
            "stopped: enough"
        );
        assert!(progress.next().await.is_none());
        assert_eq!(handle.output().unwrap().stdout.text, b"stopped: enough\n");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi13_a_listener_is_gone_when_its_attempt_has_ended() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("called").to_str().unwrap().to_owned();
        let (pool, gate) = (patient_pool().await, Gate::new());
        for _ in 0..50 {
            pool.call(leaves_a_listener(path.clone())).await.unwrap();
        }
        let handle = pool.call(polite(gate.path()));
        begun(&handle).await;
        let stopping = handle.cancel("stop");
        drop(gate.arrival().await);
        assert_eq!(stopping.await.unwrap().step, Step::Asked);
        assert!(
            !std::path::Path::new(&path).exists(),
            "only the listeners of this attempt were called"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp29_cancelling_a_task_ends_the_programs_that_it_started() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .kill_after(SHORT, SHORT)
            .start()
            .await
            .unwrap();
        let handle = pool.call(fork_children(3, true));
        let children: Vec<u32> = handle.progress().next().await.unwrap().payload().unwrap();
        assert!(children.iter().all(|child| is_alive(*child)));
        cancelled(handle).await;
        assert!(
            !children.iter().any(|child| is_alive(*child)),
            "the receipt says that nothing is left"
        );
        pool.shutdown().await;
    })
    .await;
}

//! A job that crashed runs next alone in a fresh worker.

use brigade::{JobState, Retry};

use crate::*;

#[tokio::test]
async fn a_job_that_crashed_runs_next_in_a_worker_that_has_run_nothing() {
    let setting = Setting::new(1).await;
    let id = setting
        .push(crashes_once(setting.path("started"), setting.path("go")).keep(LONG))
        .await;
    let (handle, serving) = start(setting.consumer());
    setting.made("started").await;
    setting.broker.queue("crashes_once").pause().await.unwrap();
    fs::write(setting.path("go"), "").unwrap();
    while setting.broker.job(&id).await.unwrap().unwrap().crashed == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let used = setting.pool.call(own_pid()).await.unwrap();
    setting.broker.queue("crashes_once").resume().await.unwrap();
    let job = soon(setting.broker.wait(&id)).await.unwrap().unwrap();
    assert_eq!((job.state, job.crashed), (JobState::Done, 1));
    let second: u32 = job.result.unwrap().parse().unwrap();
    assert_ne!(
        second, used,
        "its second attempt was in a worker that another call had used"
    );
    handle.drain();
    soon(serving).await.unwrap();
    assert_eq!(setting.pool.workers().len(), 1);
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn the_calls_behind_one_that_waits_for_a_fresh_worker_go_on() {
    let setting = Setting::new(2).await;
    let (started, go) = (setting.path("started"), setting.path("go"));
    fs::write(&go, "").unwrap();
    let pool = Pool::builder()
        .workers(2)
        .retry(Retry::exponential(Duration::ZERO, Duration::ZERO))
        .start()
        .await
        .unwrap();
    let before: Vec<u32> = pool
        .workers()
        .iter()
        .filter_map(|worker| worker.pid)
        .collect();
    // Both have run something.
    while pool.workers().iter().any(|worker| worker.done == 0) {
        futures_util::future::join_all((0..4).map(|_| pool.call(own_pid()))).await;
    }
    let crashing = pool.call(crashes_once(started, go).retries(1));
    let others = futures_util::future::join_all((0..20).map(|_| pool.call(own_pid()))).await;
    assert!(others.into_iter().all(|pid| pid.is_ok()));
    let second = soon(crashing).await.unwrap();
    assert!(
        !before.contains(&second),
        "{second} is one of {before:?}, which had run something"
    );
    pool.shutdown().await;
    setting.pool.shutdown().await;
}

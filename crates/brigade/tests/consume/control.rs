//! Controls of a running consumer: pause and resume here, drain, kill.

use std::time::Instant;

use brigade::JobState;

use crate::*;

#[tokio::test]
async fn a_queue_is_paused_in_one_worker_alone() {
    let setting = Setting::new(1).await;
    let (handle, serving) = start(setting.consumer().queue("add").queue("own_pid"));
    handle.pause("add");
    assert_eq!(handle.stats().paused, ["add"]);
    let held_back = setting.push(add(1, 2).keep(LONG)).await;
    // What is pushed later to another queue is served.
    setting.broker.call(own_pid()).await.unwrap();
    assert_eq!(
        setting.broker.job(&held_back).await.unwrap().unwrap().state,
        JobState::Ready
    );
    assert!(
        !setting
            .broker
            .queues()
            .await
            .unwrap()
            .iter()
            .any(|queue| queue.paused)
    );
    // Another worker serves it.
    let pool = setting.pool.clone();
    assert_eq!(
        setting
            .elsewhere()
            .await
            .consumer()
            .on(&pool)
            .queue("add")
            .run_until_empty()
            .await
            .unwrap()
            .done,
        1
    );

    let held_back = setting.push(add(3, 4).keep(LONG)).await;
    handle.pause("own_pid");
    setting.push(own_pid()).await;
    handle.resume("add");
    assert_eq!(
        soon(setting.broker.wait(&held_back))
            .await
            .unwrap()
            .unwrap()
            .result
            .as_deref(),
        Some("7")
    );
    handle.drain();
    let served = soon(serving).await.unwrap();
    assert_eq!(
        (
            served.done,
            handle.stats().served,
            handle.stats().held,
            handle.stats().draining
        ),
        (2, served, 0, true)
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_stopping_worker_gives_back_what_does_not_finish() {
    let setting = Setting::new(1).await;
    let id = setting
        .push(waits_for_cancel(setting.path("started")))
        .await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = setting.consumer().drain_timeout(Duration::from_millis(50));
    let serving = tokio::spawn(async move { worker.run_until(stopped).await.unwrap() });
    setting.made("started").await;
    stop.send(()).unwrap();
    assert_eq!(soon(serving).await.unwrap().given_back, 1);
    let job = setting.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.interrupted, job.failed, job.crashed),
        (JobState::Ready, 1, 0, 0)
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_draining_worker_lets_what_runs_finish_and_takes_nothing_new() {
    let setting = Setting::new(1).await;
    let running = setting
        .push(crashes_once(setting.path("started"), setting.path("go")))
        .await;
    fs::write(setting.path("waits"), "").unwrap();
    let (handle, serving) = start(setting.consumer().prefetch(1));
    setting.made("started").await;
    let next = setting.push(add(1, 2)).await;
    handle.drain();
    fs::write(setting.path("go"), "").unwrap();
    let served = soon(serving).await.unwrap();
    assert_eq!((served.failed, served.given_back), (1, 0));
    for (id, crashed) in [(running, 1), (next, 0)] {
        let job = setting.broker.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.crashed, job.interrupted),
            (JobState::Ready, crashed, 0)
        );
    }
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_kill_while_draining_is_faster_than_the_ladder() {
    let setting = {
        let mut setting = Setting::new(1).await;
        setting.pool.shutdown().await;
        // Steps that would take too long.
        setting.pool = Pool::builder()
            .workers(1)
            .kill_after(20 * LONG, 20 * LONG)
            .start()
            .await
            .unwrap();
        setting
    };
    let id = setting.push(never_ends(setting.path("started"))).await;
    let (handle, serving) = start(setting.consumer().drain_timeout(20 * LONG));
    setting.made("started").await;
    let began = Instant::now();
    handle.drain();
    handle.kill();
    assert_eq!(soon(serving).await.unwrap().given_back, 1);
    assert!(began.elapsed() < LONG);
    let job = setting.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.interrupted, job.failed, job.crashed),
        (JobState::Ready, 1, 0, 0)
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_consumer_that_is_drained_before_it_begins_takes_nothing() {
    let setting = Setting::new(1).await;
    let id = setting.push(add(1, 2)).await;
    let worker = setting.consumer();
    worker.handle().drain();
    assert_eq!(
        worker
            .run_until(std::future::pending::<()>())
            .await
            .unwrap(),
        Served::default()
    );
    assert_eq!(
        setting.broker.job(&id).await.unwrap().unwrap().state,
        JobState::Ready
    );
    setting.pool.shutdown().await;
}

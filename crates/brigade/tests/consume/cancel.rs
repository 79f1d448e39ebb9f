//! Cancels from elsewhere: prompt, by the kill ladder, with a receipt.

use std::time::Instant;

use brigade::{AttemptKind, AttemptOutcome, CancelOutcome, JobState, Step};

use crate::*;

/// Long enough that no renewal of a lease comes into it.
const LEASE: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_running_job_is_stopped_from_elsewhere_at_once_and_with_a_receipt() {
    let setting = Setting::new(1).await;
    let id = setting
        .push(waits_for_cancel(setting.path("started")))
        .await;
    let (handle, serving) = start(setting.consumer().lease(LEASE));
    setting.made("started").await;
    let began = Instant::now();
    let stopped = soon(setting.elsewhere().await.stop(&id, "not needed"))
        .await
        .unwrap()
        .unwrap();
    assert!(
        began.elapsed() < LONG,
        "it was heard of long before the lease was renewed"
    );
    assert_eq!(stopped.state, Some(JobState::Cancelled));
    assert_eq!(
        stopped.receipt.as_ref().map(|receipt| receipt.step),
        Some(Step::Asked)
    );
    assert_eq!(stopped.report.unwrap().ended, AttemptOutcome::Cancelled);

    let job = setting.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(
        (
            job.reason.as_deref(),
            job.failed,
            job.interrupted,
            job.cancel
        ),
        (Some("not needed"), 0, 0, None)
    );
    let record = &job.history[0];
    assert_eq!(
        (record.kind, record.reason.as_str(), &record.stop),
        (AttemptKind::Cancelled, "not needed", &stopped.receipt)
    );
    assert!(record.report.is_some());
    assert!(setting.broker.stop(&id, "again").await.unwrap().is_none());
    handle.drain();
    let served = soon(serving).await.unwrap();
    assert_eq!((served.cancelled, served.failed), (1, 0));
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn what_does_not_listen_is_killed() {
    let setting = Setting::new(1).await;
    let id = setting.push(never_ends(setting.path("started"))).await;
    let (handle, serving) = start(setting.consumer().lease(LEASE));
    setting.made("started").await;
    let elsewhere = setting.elsewhere().await;
    let (stopped, asked) = soon(async {
        tokio::join!(elsewhere.stop(&id, "enough"), async {
            until_asked(&setting, &id).await;
            setting.broker.job(&id).await.unwrap().unwrap()
        })
    })
    .await;
    assert!(
        asked.cancel.as_deref() == Some("enough") || asked.state == JobState::Cancelled,
        "a job says that it is being cancelled"
    );
    let receipt = stopped.unwrap().unwrap().receipt.unwrap();
    assert!(
        receipt.step >= Step::Terminated && receipt.took < LONG,
        "{receipt}"
    );
    handle.drain();
    soon(serving).await.unwrap();
    setting.pool.shutdown().await;
}

/// Waits until a cancel of the job has been asked for.
async fn until_asked(setting: &Setting, id: &JobId) {
    loop {
        let job = setting.broker.job(id).await.unwrap().unwrap();
        if job.cancel.is_some() || job.state != JobState::Leased {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_job_that_waits_for_a_worker_process_is_cancelled_without_having_run() {
    let setting = Setting::new(1).await;
    let first = setting.push(waits_for_cancel(setting.path("first"))).await;
    let second = setting.push(waits_for_cancel(setting.path("second"))).await;
    let (handle, serving) = start(setting.consumer().prefetch(2).lease(LEASE));
    setting.made("first").await;
    until("both are held", || handle.stats().held == 2).await;
    let stopped = soon(setting.broker.stop(&second, "not needed"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stopped.receipt.unwrap().step, Step::NotStarted);
    assert!(!fs::exists(setting.path("second")).unwrap());
    assert_eq!(
        setting.broker.cancel(&first, "that neither").await.unwrap(),
        CancelOutcome::Asked
    );
    soon(setting.broker.wait(&first)).await.unwrap();
    handle.drain();
    assert_eq!(soon(serving).await.unwrap().cancelled, 2);
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn many_are_cancelled_at_once() {
    let setting = Setting::new(4).await;
    let ids: Vec<JobId> = {
        let jobs = (0..8)
            .map(|n| {
                waits_for_cancel(setting.path(&n.to_string()))
                    .to_job()
                    .unwrap()
            })
            .collect();
        setting
            .broker
            .push_many(jobs)
            .await
            .unwrap()
            .iter()
            .map(|pushed| pushed.id().clone())
            .collect()
    };
    let (handle, serving) = start(setting.consumer().lease(LEASE));
    for n in 0..4 {
        setting.made(&n.to_string()).await;
    }
    let elsewhere = setting.elsewhere().await;
    let stopped = soon(futures_util::future::join_all(
        ids.iter().map(|id| elsewhere.stop(id, "all of them")),
    ))
    .await;
    for stopped in stopped {
        assert_eq!(stopped.unwrap().unwrap().state, Some(JobState::Cancelled));
    }
    handle.drain();
    assert_eq!(soon(serving).await.unwrap().done, 0);
    setting.pool.shutdown().await;
}

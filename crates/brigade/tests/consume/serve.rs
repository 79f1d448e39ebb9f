//! Jobs that are served: values, failures, crashes, passes.

use brigade::{AttemptOutcome, Broker, CallError, JobState, TimedOut, ToJob as _};
use serde_json::json;

use crate::*;

#[tokio::test]
async fn a_call_through_the_broker_gives_its_value() {
    let setting = Setting::new(2).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = {
        let (broker, pool) = (setting.broker.clone(), setting.pool.clone());
        tokio::spawn(async move {
            broker
                .consumer()
                .on(&pool)
                .run_until(stopped)
                .await
                .unwrap()
        })
    };
    let mut call = setting.broker.call(add(1, 2));
    assert_eq!((&mut call).await.unwrap(), 3);
    let report = call.report().unwrap();
    assert_eq!(
        (report.task.as_str(), &report.ended),
        ("add", &AttemptOutcome::Returned)
    );
    let mut call = setting.broker.call(fails("no".to_owned()));
    let failed = (&mut call).await.unwrap_err();
    assert!(
        matches!(&failed, CallError::Failed(failure) if failure.message == "no"),
        "{failed}"
    );
    assert_eq!(call.report().unwrap().ended, AttemptOutcome::Failed);
    stop.send(()).unwrap();
    let served = serving.await.unwrap();
    assert_eq!((served.done, served.failed), (1, 1));
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_call_whose_job_is_a_dead_letter_ends_as_the_last_attempt_did() {
    let setting = Setting::new(1).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let consumer = setting.consumer();
    let serving = tokio::spawn(async move { consumer.run_until(stopped).await.unwrap() });
    let crashed = setting.broker.call(poison()).await.unwrap_err();
    let CallError::Crashed(report) = &crashed else {
        panic!("{crashed}");
    };
    assert_eq!((report.task.as_str(), report.attempt), ("poison", 2));
    assert_eq!(crashed.signal(), Some(6), "{crashed}");
    let late = never_ends(setting.path("started")).timeout(Duration::from_millis(50));
    let late = setting.broker.call(late).await.unwrap_err();
    assert!(
        matches!(&late, CallError::TimedOut(TimedOut::Run(report)) if report.task == "never_ends"),
        "{late}"
    );
    let panicked = setting.broker.call(panics("no paper".to_owned())).await;
    let panicked = panicked.unwrap_err();
    assert_eq!(panicked.reason(), "the task panicked: no paper");
    assert_eq!(panicked.outcome(), "panicked");
    stop.send(()).unwrap();
    serving.await.unwrap();
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn plain_json_runs_the_task_of_its_queue() {
    let setting = Setting::new(1).await;
    let emails = setting.broker.queue("emails");
    let job = emails
        .job(&json!({"email": "test1@mail.org"}))
        .unwrap()
        .keep(LONG);
    let id = setting.broker.push(job).await.unwrap().id().clone();
    assert_eq!(setting.serve().await.done, 1);
    let job = setting.broker.job(&id).await.unwrap().unwrap();
    assert_eq!(job.result.as_deref(), Some(r#""sent to test1@mail.org""#));
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn jobs_and_calls_by_a_task_s_former_names_run_it_from_the_queues_of_these_names() {
    let setting = Setting::new(1).await;
    let before = brigade::Task::<(String,), String>::new("hail");
    let plain = setting
        .broker
        .queue("salute")
        .job(&"Ada")
        .unwrap()
        .keep(LONG);
    let ids = [
        setting
            .push(before.call(("Bob".to_owned(),)).keep(LONG))
            .await,
        setting.push(plain).await,
    ];
    // Its own queue and those of its former names.
    assert_eq!(
        setting
            .consumer()
            .task(greet)
            .run_until_empty()
            .await
            .unwrap()
            .done,
        2
    );
    for (id, result) in ids.iter().zip([r#""hello Bob""#, r#""hello Ada""#]) {
        let job = setting.broker.job(id).await.unwrap().unwrap();
        assert_eq!(job.result.as_deref(), Some(result), "{:?}", job.reason);
    }
    assert_eq!(
        setting
            .pool
            .call(before.call(("Eve".to_owned(),)))
            .await
            .unwrap(),
        "hello Eve"
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn one_poison_job_among_innocents_ends_with_both_certificates() {
    let setting = Setting::new(4).await;
    let mut jobs: Vec<_> = (0..50)
        .map(|n| add(n, 1).retries(3).to_job().unwrap())
        .collect();
    jobs.insert(25, poison().retries(9).to_job().unwrap());
    let pushed = setting.broker.push_many(jobs).await.unwrap();
    let served = setting.serve().await;
    assert_eq!((served.done, served.failed), (50, 2));
    let dead = setting.broker.job(pushed[25].id()).await.unwrap().unwrap();
    assert_eq!(
        (dead.state, dead.crashed, dead.failed),
        (JobState::Dead, 2, 0)
    );
    assert_eq!(
        dead.history
            .iter()
            .filter(|record| record.report.is_some())
            .count(),
        2
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn failures_passes_and_unknown_tasks_end_as_they_should() {
    let setting = Setting::new(1).await;
    let permanent = setting
        .broker
        .push(fails_for_good().retries(5))
        .await
        .unwrap()
        .id()
        .clone();
    let passed = setting
        .broker
        .push(passes_once(setting.path("marker")).keep(LONG))
        .await
        .unwrap()
        .id()
        .clone();
    let unknown = setting
        .broker
        .push(brigade::Task::<(), ()>::new("unknown").call(()))
        .await
        .unwrap()
        .id()
        .clone();
    let wrong = setting
        .broker
        .push(brigade::Call::<i64>::json("add", &json!(["x"])))
        .await
        .unwrap()
        .id()
        .clone();
    let worker = setting.consumer().unserved_timeout(Duration::ZERO);
    let worker = ["fails_for_good", "passes_once", "unknown", "add"]
        .into_iter()
        .fold(worker, brigade::Consumer::queue);
    worker.run_until_empty().await.unwrap();

    let permanent = setting.broker.job(&permanent).await.unwrap().unwrap();
    assert_eq!((permanent.state, permanent.failed), (JobState::Dead, 1));
    let passed = setting.broker.job(&passed).await.unwrap().unwrap();
    assert_eq!(
        (passed.state, passed.result.as_deref(), passed.failed),
        (JobState::Done, Some("7"), 0)
    );
    for (id, word) in [
        (unknown, "knows task \"unknown\""),
        (wrong, "pass arguments"),
    ] {
        let dead = setting.broker.job(&id).await.unwrap().unwrap();
        assert_eq!(dead.state, JobState::Dead);
        assert!(
            dead.reason.as_deref().unwrap().contains(word),
            "{:?}",
            dead.reason
        );
    }
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn functions_without_a_name_and_pool_options_are_refused() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let nameless = brigade::Call::of(|| 1, &());
    assert_eq!(
        broker.push(nameless).await.unwrap_err().kind(),
        brigade::ErrorKind::Unsupported
    );
    assert_eq!(
        broker.push(add(1, 1).capture(10)).await.unwrap_err().kind(),
        brigade::ErrorKind::Unsupported
    );
}

#[tokio::test]
async fn in_process_serves_without_a_pool() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let id = broker
        .push(add(20, 22).keep(LONG))
        .await
        .unwrap()
        .id()
        .clone();
    let served = broker
        .consumer()
        .in_process()
        .run_until_empty()
        .await
        .unwrap();
    assert_eq!(served.done, 1);
    assert_eq!(
        broker.job(&id).await.unwrap().unwrap().result.as_deref(),
        Some("42")
    );
}

#[tokio::test]
async fn a_job_that_cannot_be_run_has_the_reason_in_its_history() {
    let setting = Setting::new(1).await;
    let id = setting
        .push(brigade::Call::<i64>::json("add", &json!(["x"])))
        .await;
    setting
        .consumer()
        .unserved_timeout(Duration::ZERO)
        .run_until_empty()
        .await
        .unwrap();
    let history = setting.broker.job(&id).await.unwrap().unwrap().history;
    assert!(
        history.len() == 1
            && history[0].kind == brigade::AttemptKind::SetAside
            && history[0].reason.contains("pass arguments")
    );
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_cancelled_when_it_returns() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let late = broker
        .call(add(1, 2).queue_timeout(Duration::from_millis(20)))
        .await
        .unwrap_err();
    assert!(matches!(late, CallError::TimedOut(_)), "{late}");
    let jobs = broker.jobs(None, None, None, 10).await.unwrap();
    assert_eq!(
        jobs.iter().map(|job| job.state).collect::<Vec<_>>(),
        [JobState::Cancelled]
    );
}

#[tokio::test]
async fn a_task_knows_the_tick_it_runs_for_in_a_pool_and_in_process() {
    let setting = Setting::new(1).await;
    let schedule = || {
        brigade::Schedule::every(
            "s",
            Duration::from_secs(3600),
            reports_its_tick().keep(LONG),
        )
        .unwrap()
    };
    for in_pool in [true, false] {
        let tick = setting.broker.schedule(schedule()).await.unwrap().next;
        setting.broker.clock().advance(Duration::from_secs(3600));
        let worker = setting.broker.consumer().queue("reports_its_tick");
        let worker = if in_pool {
            worker.on(&setting.pool)
        } else {
            worker.in_process()
        };
        assert_eq!(worker.run_until_empty().await.unwrap().done, 1);
        let done = setting
            .broker
            .jobs(None, Some(JobState::Done), None, 10)
            .await
            .unwrap()
            .pop()
            .unwrap();
        assert_eq!(done.result, Some(serde_json::to_string(&tick).unwrap()));
    }
    assert_eq!(reports_its_tick().run_here().await.unwrap(), None);
    setting.pool.shutdown().await;
}

/// Fills so much memory.
#[brigade::task]
fn fill(mib: u64) -> u64 {
    let bytes = vec![1_u8; usize::try_from(mib << 20).unwrap()];
    bytes
        .iter()
        .step_by(4096)
        .map(|byte| u64::from(*byte))
        .sum()
}

#[tokio::test]
async fn the_limits_of_a_queue_hold_for_jobs_that_have_none() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let limits = brigade::AttemptLimits::new().memory(32 << 20);
    let refused = broker.consumer().task(fill).in_process();
    let refused = refused.limits("fill", limits).run_until_empty().await;
    assert_eq!(refused.unwrap_err().kind(), brigade::ErrorKind::Unsupported);
    let over = broker.push(fill(64)).await.unwrap().id().clone();
    let own = fill(64).memory(256 << 20).keep(LONG);
    let own = broker.push(own).await.unwrap().id().clone();
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let consumer = broker.consumer().task(fill).on(&pool);
    consumer
        .limits("fill", limits)
        .run_until_empty()
        .await
        .unwrap();
    let dead = broker.job(&over).await.unwrap().unwrap();
    assert_eq!(dead.state, brigade::JobState::Dead);
    let reason = dead.reason.unwrap();
    assert!(reason.contains("memory limit 32 MiB"), "{reason}");
    let done = broker.job(&own).await.unwrap().unwrap();
    assert_eq!(done.state, brigade::JobState::Done, "its own limit wins");
    pool.shutdown().await;
}

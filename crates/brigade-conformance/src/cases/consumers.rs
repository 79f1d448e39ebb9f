//! Consumers on every store: jobs that a program cannot run, code that computes, times that are
//! too long.
//!
//! A consumer gives back a job whose task it does not know or whose arguments do not fit, without
//! charge; after a day that job is a dead letter with the reason. One helper runs a consumer
//! during the rest of a case, and [`elsewhere`] is a second connection where a store has those.

use std::time::{Duration, Instant};

use brigade::{Broker, Consumer, JobState, LiveConsumer, ToJob as _, task};

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_task_that_a_consumer_does_not_know_is_given_back_for_others),
    case!(
        a_job_that_no_consumer_can_run_is_a_dead_letter_when_its_time_for_that_is_over:
        clock, listing
    ),
    case!(a_task_that_computes_in_process_for_longer_than_a_lease_keeps_it).on_one_thread(),
    case!(the_longest_times_are_stored_and_served: scheduling),
    case!(a_live_consumer_is_listed_until_it_stops_or_falls_silent: consumers, clock),
    case!(a_live_consumer_shows_what_it_runs_and_how_far_that_is: consumers),
];

const LONG: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Computes for so many milliseconds and awaits nothing.
#[task]
fn computes(millis: u64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(millis) {
        std::hint::spin_loop();
    }
}

#[task]
fn doubles(number: i64) -> i64 {
    2 * number
}

/// Runs the consumer until the test is done.
pub(super) async fn beside<F: Future>(worker: Consumer, test: F) -> (F::Output, brigade::Served) {
    let handle = worker.handle();
    let served = tokio::spawn(worker.run_until(std::future::pending::<()>()));
    let output = tokio::time::timeout(4 * LONG, test)
        .await
        .expect("it comes");
    handle.drain();
    (output, served.await.unwrap().unwrap())
}

pub(super) async fn elsewhere(subject: &Subject) -> Broker {
    if subject.broker.capabilities().durable {
        subject.place.connect().await
    } else {
        subject.broker.clone()
    }
}

/// A deploy: the old program meets a task of the new one.
async fn a_task_that_a_consumer_does_not_know_is_given_back_for_others(subject: Subject) {
    let other = elsewhere(&subject).await;
    let queue = subject.broker.queue("shared");
    let job = queue
        .job(&[7])
        .unwrap()
        .task("of_the_new_program")
        .retries(1);
    let id = subject.broker.push(job).await.unwrap().id().clone();
    let old = subject.broker.consumer().queue("shared").in_process();
    let handle = old.handle();
    let ((), served) = beside(old, async {
        while handle.stats().served.given_back == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if subject.broker.capabilities().listing {
            let job = subject.broker.job(&id).await.unwrap().unwrap();
            assert_eq!(
                (job.failed, job.crashed, job.interrupted),
                (0, 0, 0),
                "nobody is charged"
            );
            assert!(
                job.unserved.is_some_and(|unserved| unserved.times >= 1),
                "{job:?}"
            );
            assert_eq!(job.history.len(), 1, "{job:?}");
            if job.state == JobState::Scheduled {
                let why = subject.broker.why(&id).await.unwrap().unwrap().to_string();
                assert!(
                    why.contains("no consumer that asked knows task \"of_the_new_program\""),
                    "{why}"
                );
            }
        }
    })
    .await;
    assert_eq!((served.failed, served.done), (0, 0), "{served:?}");
    // The new program has it, as if nothing had been.
    let lease = other
        .queue("shared")
        .lease(LONG, 2 * LONG)
        .await
        .unwrap()
        .expect("it comes again");
    assert_eq!((lease.id(), lease.attempt(), lease.json()), (&id, 1, "[7]"));
    lease.ack().await.unwrap();
}

async fn a_job_that_no_consumer_can_run_is_a_dead_letter_when_its_time_for_that_is_over(
    subject: Subject,
) {
    let broker = &subject.broker;
    let unknown = broker.queue("doubles").job(&[1]).unwrap().task("gone");
    let unfit = broker.queue("doubles").job(&["no number"]).unwrap();
    let ids: Vec<_> = broker
        .push_many(vec![unknown, unfit])
        .await
        .unwrap()
        .iter()
        .map(|pushed| pushed.id().clone())
        .collect();
    let worker = broker.consumer().queue("doubles").in_process();
    let handle = worker.handle();
    let ended = async {
        while handle.stats().served.given_back < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for id in &ids {
            assert!(!broker.job(id).await.unwrap().unwrap().state.is_terminal());
        }
        broker.clock().advance(2 * DAY);
        let (one, other) = tokio::join!(broker.wait(&ids[0]), broker.wait(&ids[1]));
        [one, other].map(|job| job.unwrap().unwrap())
    };
    let (ended, _) = beside(worker, ended).await;
    for (job, word) in ended
        .iter()
        .zip(["knows task \"gone\"", "takes its arguments"])
    {
        let reason = job.reason.as_deref().unwrap_or_default();
        assert_eq!(job.state, JobState::Dead);
        assert!(
            reason.contains(word) && reason.contains("given back") && reason.contains("since 20"),
            "{reason}"
        );
        assert_eq!((job.failed, job.crashed), (0, 0));
    }
    // A person retries it: its counters begin at zero.
    assert!(broker.retry(&ids[0]).await.unwrap());
    let job = broker.job(&ids[0]).await.unwrap().unwrap();
    assert_eq!((job.unserved, job.lost), (None, 0));
}

/// On a runtime of one thread, which the task would keep from renewing anything.
async fn a_task_that_computes_in_process_for_longer_than_a_lease_keeps_it(subject: Subject) {
    let broker = &subject.broker;
    broker.push(computes(2500)).await.unwrap();
    // A server that answers no renewal for a second is no fault of the consumer, and may happen
    // once. A consumer that cannot renew while the task computes loses the lease each time.
    let mut all = Vec::new();
    for _ in 0..3 {
        let worker = broker
            .consumer()
            .task(computes)
            .in_process()
            .lease(Duration::from_secs(1));
        let handle = worker.handle();
        let done = async {
            while handle.stats().served == brigade::Served::default() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ((), served) = beside(worker, done).await;
        if (served.done, served.stale) == (1, 0) {
            return;
        }
        all.push(served);
    }
    panic!("each attempt lost its lease: {all:?}");
}

/// Times that no clock can add are the longest that there are.
async fn the_longest_times_are_stored_and_served(subject: Subject) {
    let (broker, can) = (&subject.broker, subject.broker.capabilities());
    let queue = broker.queue("doubles");
    let long = brigade::Retry::exponential(Duration::MAX, Duration::MAX).within(Duration::MAX);
    let job = queue
        .job(&[1])
        .unwrap()
        .timeout(Duration::MAX)
        .retries(3)
        .retry(long);
    broker
        .push(if can.results {
            job.keep(Duration::MAX)
        } else {
            job
        })
        .await
        .unwrap();
    let lease = queue
        .lease(Duration::MAX, Duration::MAX)
        .await
        .unwrap()
        .unwrap();
    assert!(lease.timeout().unwrap() > 1000 * DAY);
    lease.extend(Duration::MAX).await.unwrap();
    lease.pass("not here").await.unwrap();
    let worker = broker
        .consumer()
        .task(doubles)
        .in_process()
        .lease(Duration::MAX)
        .drain_timeout(Duration::MAX);
    let worker = worker.unserved_timeout(Duration::MAX);
    let handle = worker.handle();
    let done = async {
        while handle.stats().served == brigade::Served::default() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ((), served) = beside(worker, done).await;
    assert_eq!((served.done, served.stale), (1, 0), "{served:?}");
    dates_that_cannot_be_written_are_refused(broker).await;
    for far in ["delay", "at", "nack", "pass"] {
        is_due_in_the_far_future(broker, far).await;
    }
    if can.unique {
        broker
            .push(queue.job(&3).unwrap().unique_for("m", Duration::MAX))
            .await
            .unwrap();
    }
    if can.schedules {
        let schedule = brigade::Schedule::every("rarely", Duration::MAX, doubles(1)).unwrap();
        assert_eq!(
            broker.schedule(schedule).await.unwrap_err().kind(),
            brigade::ErrorKind::BadOption
        );
    }
}

async fn dates_that_cannot_be_written_are_refused(broker: &Broker) {
    let queue = broker.queue("doubles");
    let never = [
        queue.job(&[2]).unwrap().delay(Duration::MAX),
        queue
            .job(&[2])
            .unwrap()
            .at(std::time::SystemTime::now() + 1_000_000_000 * DAY),
    ];
    for job in never {
        assert_eq!(
            broker.push(job).await.unwrap_err().kind(),
            brigade::ErrorKind::BadOption,
            "no date can be written for it"
        );
    }
}

/// A job that is due in the far future by this way of saying it waits, and can be looked at.
async fn is_due_in_the_far_future(broker: &brigade::Broker, far: &str) {
    let (queue, can) = (broker.queue("doubles"), broker.capabilities());
    let job = queue.job(&[2]).unwrap().retries(9);
    let job = match far {
        "delay" => job.delay(1_000_000 * DAY),
        "at" => job.at(std::time::SystemTime::now() + 1_000_000 * DAY),
        _ => job,
    };
    let id = broker
        .push(job.to_job().unwrap())
        .await
        .unwrap()
        .id()
        .clone();
    if far == "nack" || far == "pass" {
        let lease = queue.lease(LONG, LONG).await.unwrap().unwrap();
        let settled = if far == "nack" {
            lease.nack_later("no", Duration::MAX).await
        } else {
            lease.pass_later("no", Duration::MAX).await
        };
        settled.unwrap();
    }
    assert!(queue.take(Duration::ZERO).await.unwrap().is_none(), "{far}");
    if can.listing {
        let job = broker.job(&id).await.unwrap().unwrap();
        assert!(job.due_at.is_some(), "{far}: {job:?}");
        assert!(
            serde_json::to_string(&job).is_ok()
                && !broker
                    .why(&id)
                    .await
                    .unwrap()
                    .unwrap()
                    .to_string()
                    .is_empty()
        );
    }
}

/// Waits until one consumer is listed.
async fn listed(broker: &Broker) -> LiveConsumer {
    let listed = async {
        loop {
            match broker.consumers().await.unwrap().pop() {
                Some(consumer) => break consumer,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(4 * LONG, listed)
        .await
        .expect("it is listed")
}

async fn a_live_consumer_is_listed_until_it_stops_or_falls_silent(subject: Subject) {
    let watcher = elsewhere(&subject).await;
    assert_eq!(watcher.consumers().await.unwrap(), []);
    let broker = &subject.broker;
    let consumer = broker.consumer().queue("one").weighted("two", 1);
    let consumer = consumer.version("1.2.3").in_process();
    let (found, _) = beside(consumer, listed(&watcher)).await;
    assert_eq!(found.queues, ["one", "two"]);
    assert_eq!(
        (found.pid, found.version.as_deref(), found.queues_served),
        (Some(std::process::id()), Some("1.2.3"), 2)
    );
    assert!(!found.host.is_empty() && !found.id.is_empty());
    let left = watcher.consumers().await.unwrap();
    assert_eq!(left, [], "a clean stop takes it off at once");

    // One whose runtime ends says no word.
    let silent = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (own, place) = (subject.broker.clone(), subject.place.clone());
    silent.spawn(async move {
        let is_shared = own.capabilities().durable;
        let broker = match is_shared {
            true => place.connect().await,
            false => own,
        };
        let consumer = broker.consumer().queue("silent").in_process();
        consumer.run_until(std::future::pending::<()>()).await
    });
    assert_eq!(listed(&watcher).await.queues, ["silent"]);
    silent.shutdown_background();
    watcher.clock().advance(Duration::from_secs(61));
    assert_eq!(watcher.consumers().await.unwrap(), []);
}

/// Reports half of its way and waits until the file is there.
#[task]
async fn reports_half(cx: &brigade::Context, until: std::path::PathBuf) {
    cx.progress(0.5, "half of it");
    while !until.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_live_consumer_shows_what_it_runs_and_how_far_that_is(subject: Subject) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("end");
    let watcher = elsewhere(&subject).await;
    let broker = &subject.broker;
    let pushed = broker.push(reports_half(file.clone())).await.unwrap();
    let consumer = broker.consumer().task(reports_half).prefetch(3);
    let watch = async {
        let shown = until_it_runs(&watcher, 1).await;
        assert_eq!((shown.prefetch, shown.held), (3, 1));
        let running = &shown.running[0];
        assert_eq!(&running.job, pushed.id());
        assert_eq!((&*running.queue, running.attempt), ("reports_half", 1));
        assert_eq!(running.task.as_deref(), Some("reports_half"));
        assert_eq!(running.progress, Some((0.5, "half of it".to_owned())));
        std::fs::write(&file, "").unwrap();
        let shown = until_it_runs(&watcher, 0).await;
        assert_eq!((shown.held, shown.running), (0, vec![]));
    };
    beside(consumer.in_process(), watch).await;
}

/// Waits until the one consumer shows so many jobs, each with a progress.
async fn until_it_runs(broker: &Broker, jobs: usize) -> LiveConsumer {
    loop {
        let shown = listed(broker).await;
        let running = &shown.running;
        if running.len() == jobs && running.iter().all(|running| running.progress.is_some()) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! Handlers on every store: what they return decides what becomes of the job.
//!
//! A value is the result, an error is retried by the job's options, `Pass` gives the job back, a
//! panic fails that job alone. A cancel and a timeout reach the handler. A job outlives a consumer
//! that is killed: that case runs the consumer in a process of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{
    Broker, CancelOutcome, Consumer, Failure, HandlerStop, Job, JobId, JobState, LeasedJob, Pass,
    Retry,
};
use tokio::sync::Notify;

use super::consumers::{beside, elsewhere};
use crate::case::{Case, case};
use crate::child_process::ChildProcess;
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(what_a_handler_returns_is_the_result_of_its_job),
    case!(an_error_of_a_handler_is_retried_and_a_permanent_one_is_not),
    case!(a_handler_that_passes_gives_its_job_back_uncharged),
    case!(a_panic_of_a_handler_fails_its_job_and_no_other),
    case!(a_cancel_reaches_the_handler_of_its_job: cancels),
    case!(a_handler_that_runs_for_longer_than_its_timeout_is_stopped),
    case!(the_job_of_a_handler_that_was_killed_is_handled_again: durable),
];

const LONG: Duration = Duration::from_secs(30);
/// What the process that hangs prints when it has a job.
pub(super) const HANDLING: &str = "handling";
const SHORT: Duration = Duration::from_millis(1);

/// What a handler saw, and a wake-up for each.
#[derive(Default)]
struct Seen {
    attempts: Mutex<Vec<(String, u32)>>,
    news: Notify,
}

impl Seen {
    fn note(&self, job: &LeasedJob) {
        let seen = (job.json().to_owned(), job.attempt());
        self.attempts.lock().unwrap().push(seen);
        self.news.notify_one();
    }

    /// All of them, once there are so many.
    async fn wait_for(&self, count: usize) -> Vec<(String, u32)> {
        loop {
            let seen = self.attempts.lock().unwrap().clone();
            if seen.len() >= count {
                return seen;
            }
            self.news.notified().await;
        }
    }
}

async fn pushed(subject: &Subject, change: impl FnOnce(Job) -> Job) -> JobId {
    let broker = elsewhere(subject).await;
    let job = broker.queue("handled").job(&7).unwrap();
    broker.push(change(job)).await.unwrap().id().clone()
}

fn consumer(subject: &Subject) -> Consumer {
    subject.broker.consumer().queue("handled")
}

async fn what_a_handler_returns_is_the_result_of_its_job(subject: Subject) {
    let keeps = subject.broker.capabilities().results;
    let id = pushed(&subject, |job| if keeps { job.keep(LONG) } else { job }).await;
    let seen = Arc::<Seen>::default();
    let noting = Arc::clone(&seen);
    let doubling = consumer(&subject).handler(move |job| {
        noting.note(&job);
        assert_eq!((job.queue(), job.task()), ("handled", None));
        async move { Ok::<i64, brigade::Error>(2 * job.payload::<i64>()?) }
    });
    let (attempts, served) = beside(doubling, seen.wait_for(1)).await;
    assert_eq!(attempts, [("7".to_owned(), 1)]);
    assert_eq!(served.done, 1);
    if keeps {
        let job = subject.broker.job(&id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.result.as_deref()),
            (JobState::Done, Some("14"))
        );
    }
}

async fn an_error_of_a_handler_is_retried_and_a_permanent_one_is_not(subject: Subject) {
    let retried = |job: Job| job.retries(2).retry(Retry::exponential(SHORT, SHORT));
    pushed(&subject, retried).await;
    let seen = Arc::<Seen>::default();
    let noting = Arc::clone(&seen);
    let failing = consumer(&subject).handler(move |job| {
        noting.note(&job);
        async move {
            Err::<(), _>(match job.attempt() {
                1 => Failure::new("at first"),
                _ => Failure::permanent("for good"),
            })
        }
    });
    let (attempts, served) = beside(failing, seen.wait_for(2)).await;
    assert_eq!(attempts, [("7".to_owned(), 1), ("7".to_owned(), 2)]);
    assert_eq!((served.done, served.failed), (0, 2));
    if subject.broker.capabilities().listing {
        let counts = subject.broker.queues().await.unwrap();
        assert_eq!(counts[0].jobs, [(JobState::Dead, 1)]);
    }
}

async fn a_handler_that_passes_gives_its_job_back_uncharged(subject: Subject) {
    pushed(&subject, |job| job).await;
    let (seen, passed) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let noting = Arc::clone(&seen);
    let passing = consumer(&subject).handler(move |job| {
        noting.note(&job);
        let is_first = !passed.swap(true, Ordering::Relaxed);
        async move {
            if is_first {
                Err(Pass::new("not now"))
            } else {
                Ok(())
            }
        }
    });
    let (attempts, served) = beside(passing, seen.wait_for(2)).await;
    assert_eq!(
        attempts,
        [("7".to_owned(), 1), ("7".to_owned(), 1)],
        "the attempt does not count"
    );
    assert_eq!((served.given_back, served.done), (1, 1));
}

async fn a_panic_of_a_handler_fails_its_job_and_no_other(subject: Subject) {
    pushed(&subject, |job| job).await;
    pushed(&subject, |job| job).await;
    let (seen, panicked) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let noting = Arc::clone(&seen);
    let panicking = consumer(&subject).handler(move |job| {
        noting.note(&job);
        let is_first = !panicked.swap(true, Ordering::Relaxed);
        async move {
            assert!(!is_first, "a panic on purpose");
            Ok::<(), Failure>(())
        }
    });
    let (_, served) = beside(panicking, seen.wait_for(2)).await;
    assert_eq!((served.failed, served.done), (1, 1));
}

async fn a_cancel_reaches_the_handler_of_its_job(subject: Subject) {
    for obeys in [true, false] {
        let id = pushed(&subject, |job| job).await;
        let (seen, heard) = (
            Arc::<Seen>::default(),
            Arc::<Mutex<Option<HandlerStop>>>::default(),
        );
        let (noting, hearing) = (Arc::clone(&seen), Arc::clone(&heard));
        let waiting = consumer(&subject).abort_after(SHORT).handler(move |job| {
            noting.note(&job);
            let hearing = Arc::clone(&hearing);
            async move {
                if obeys {
                    *hearing.lock().unwrap() = Some(job.cancelled().await);
                    return Err(Failure::new("stopped as it was asked"));
                }
                std::future::pending::<Result<(), Failure>>().await
            }
        });
        let stopping = async {
            seen.wait_for(1).await;
            subject.broker.stop(&id, "user left").await.unwrap()
        };
        let (stopped, served) = beside(waiting, stopping).await;
        let stopped = stopped.expect("there was something to stop");
        assert_eq!(stopped.state, Some(JobState::Cancelled));
        assert_eq!(served.cancelled, 1);
        if obeys {
            assert_eq!(
                *heard.lock().unwrap(),
                Some(HandlerStop::Cancelled("user left".to_owned()))
            );
        }
        assert_eq!(
            subject.broker.cancel(&id, "again").await.unwrap(),
            CancelOutcome::Nothing
        );
    }
}

async fn a_handler_that_runs_for_longer_than_its_timeout_is_stopped(subject: Subject) {
    pushed(&subject, |job| job.timeout(Duration::from_millis(50))).await;
    let ends = Arc::<AtomicU32>::default();
    let counting = Arc::clone(&ends);
    let hanging = consumer(&subject).abort_after(SHORT).handler(move |_| {
        let counting = Arc::clone(&counting);
        async move {
            struct Ends(Arc<AtomicU32>);
            impl Drop for Ends {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
            let _ends = Ends(counting);
            std::future::pending::<Result<(), Failure>>().await
        }
    });
    let handle = hanging.handle();
    let ((), served) = beside(hanging, async {
        while handle.stats().served.failed == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!((served.failed, ends.load(Ordering::Relaxed)), (1, 1));
}

/// A consumer whose handler never ends, in a process of its own that is killed.
pub(crate) async fn hang(broker: Broker) {
    let consumer = broker
        .consumer()
        .queue("handled")
        .lease(Duration::from_secs(1));
    let hanging = consumer.handler(|_| async {
        println!("{HANDLING}");
        std::future::pending::<Result<(), Failure>>().await
    });
    hanging
        .run_until(std::future::pending::<()>())
        .await
        .unwrap();
}

async fn the_job_of_a_handler_that_was_killed_is_handled_again(subject: Subject) {
    pushed(&subject, |job| job).await;
    let mut process = ChildProcess::start(&subject.place).unwrap();
    let handling = tokio::time::timeout(LONG, process.wait_for_line(HANDLING));
    handling.await.expect("it handles the job").unwrap();
    process.kill().unwrap();
    let seen = Arc::<Seen>::default();
    let noting = Arc::clone(&seen);
    let consumer = consumer(&subject).handler(move |job| {
        noting.note(&job);
        async { Ok::<(), Failure>(()) }
    });
    let (attempts, served) = beside(consumer, seen.wait_for(1)).await;
    assert_eq!(
        attempts,
        [("7".to_owned(), 1)],
        "the lost attempt is not charged"
    );
    assert_eq!(served.done, 1);
}

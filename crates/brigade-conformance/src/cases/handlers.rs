//! Handlers over every store: what they return decides what becomes of the job, a cancel reaches
//! them, and a job outlives a consumer that is killed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{
    Broker, CancelOutcome, Consumer, Failure, HandlerStop, Job, JobId, JobState, LeasedJob, Pass,
    Retry,
};
use brigade_testkit::program::{Program, arguments};
use tokio::sync::Notify;

use super::consumers::{beside, elsewhere};
use super::{Subject, on_brokers_that, on_every_broker};

const LONG: Duration = Duration::from_secs(30);
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

#[test]
fn what_a_handler_returns_is_the_result_of_its_job() {
    on_every_broker(|subject| async move {
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
    });
}

#[test]
fn an_error_of_a_handler_is_retried_and_a_permanent_one_is_not() {
    on_every_broker(|subject| async move {
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
    });
}

#[test]
fn a_handler_that_passes_gives_its_job_back_uncharged() {
    on_every_broker(|subject| async move {
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
    });
}

#[test]
fn a_panic_of_a_handler_fails_its_job_and_no_other() {
    on_every_broker(|subject| async move {
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
    });
}

#[test]
fn a_cancel_reaches_the_handler_of_its_job() {
    on_brokers_that(
        |can| can.cancels,
        |subject| async move {
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
        },
    );
}

#[test]
fn a_handler_that_runs_for_longer_than_its_timeout_is_stopped() {
    on_every_broker(|subject| async move {
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
    });
}

pub(crate) const ROLES: [(&str, fn()); 1] = [("a handler that hangs", hangs)];

/// A consumer whose handler never ends; it is killed.
fn hangs() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Broker::connect(&arguments()[0]).await.unwrap();
        let consumer = broker
            .consumer()
            .queue("handled")
            .lease(Duration::from_secs(1));
        let hanging = consumer.handler(|_| async {
            println!("handling");
            std::future::pending::<Result<(), Failure>>().await
        });
        hanging
            .run_until(std::future::pending::<()>())
            .await
            .unwrap();
    });
}

#[test]
fn the_job_of_a_handler_that_was_killed_is_handled_again() {
    on_brokers_that(
        |can| can.durable,
        |subject| async move {
            pushed(&subject, |job| job).await;
            let mut program = Program::start_with("a handler that hangs", &[&subject.url]).unwrap();
            program.line("handling", LONG).expect("it handles the job");
            assert!(program.signal(rustix::process::Signal::KILL));
            program.wait(LONG).expect("it ends");
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
        },
    );
}

//! Jobs and calls that go on while the server is killed.
//!
//! A [`Load`] has tasks that push, consume and call until it is stopped. Each notes in a ledger
//! what it began and what it got: a push that returned, a run, an accepted settlement, an answer.
//! After the server is back, the tests compare the ledger with what is in the queues. [`Resumed`]
//! measures how long nothing went on after the kill.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use brigade::{Broker, CallError, Consumer, ErrorKind, Settled, task};
use brigade_testkit::ledger::{Event, Ledger};
use brigade_testkit::rabbitmq::RabbitMq;
use tokio::task::JoinHandle;

use crate::stage::{BOUND, LONG, connect, millis};

/// Stock of one lane, for one kill.
const STOCK: u64 = 300;

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// When something went well that was begun since the last kill, for the first time.
pub(crate) struct Resumed {
    killed: Mutex<(Instant, Option<Instant>)>,
}

impl Resumed {
    fn new() -> Self {
        Self {
            killed: Mutex::new((Instant::now(), None)),
        }
    }

    fn killed(&self) {
        *self.killed.lock().unwrap() = (Instant::now(), None);
    }

    fn went_well(&self, begun: Instant) {
        let mut killed = self.killed.lock().unwrap();
        if begun > killed.0 && killed.1.is_none() {
            killed.1 = Some(Instant::now());
        }
    }

    pub(crate) fn when(&self) -> Option<Instant> {
        self.killed.lock().unwrap().1
    }
}

/// What takes part, with queues of one kind.
pub(crate) struct Load {
    pub(crate) kind: &'static str,
    /// In front of the numbers of its jobs.
    first: u64,
    broker: Broker,
    durable: Broker,
    serving: Broker,
    ledger: Ledger,
    pub(crate) jobs: Resumed,
    pub(crate) calls: Resumed,
    pub(crate) done: AtomicU64,
    /// Settlements with an uncertain outcome.
    pub(crate) uncertain: AtomicU64,
    pub(crate) called: AtomicU64,
    pub(crate) answered: AtomicU64,
    /// Calls that ended as uncertain.
    pub(crate) failed: AtomicU64,
    stop_asking: AtomicBool,
    stop: AtomicBool,
}

impl Load {
    pub(crate) async fn new(
        server: &RabbitMq,
        kind: &'static str,
        number: u64,
        ledger: Ledger,
    ) -> Arc<Self> {
        let options = format!("ns={kind}&queues={kind}&response_timeout=40s");
        let count = || AtomicU64::new(0);
        Arc::new(Self {
            kind,
            first: number * 1_000_000_000,
            broker: connect(server, &options).await,
            durable: connect(server, &format!("{options}&calls=durable")).await,
            serving: connect(server, &options).await,
            ledger,
            jobs: Resumed::new(),
            calls: Resumed::new(),
            done: count(),
            uncertain: count(),
            called: count(),
            answered: count(),
            failed: count(),
            stop_asking: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    pub(crate) fn start(self: &Arc<Self>) -> (Vec<JoinHandle<()>>, Vec<JoinHandle<()>>) {
        let mut asking = Vec::new();
        let mut working = Vec::new();
        for n in 1..=2 {
            asking.push(tokio::spawn(Arc::clone(self).push(n)));
            asking.push(tokio::spawn(
                Arc::clone(self).call(self.broker.clone(), false),
            ));
            asking.push(tokio::spawn(
                Arc::clone(self).call(self.durable.clone(), true),
            ));
        }
        for worker in 1..=4 {
            working.push(tokio::spawn(Arc::clone(self).work(worker)));
        }
        let serving = self.serving.consumer().task(add).prefetch(4).in_process();
        working.push(tokio::spawn(Arc::clone(self).serve(serving)));
        (asking, working)
    }

    pub(crate) fn stop_asking(&self) {
        self.stop_asking.store(true, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn killed(&self) {
        self.jobs.killed();
        self.calls.killed();
    }

    /// No call is left.
    pub(crate) fn open_calls(&self) -> usize {
        self.broker.call_counts().open + self.durable.call_counts().open
    }

    async fn push(self: Arc<Self>, lane: u64) {
        for number in 1.. {
            if self.stop_asking.load(Ordering::Acquire) {
                return;
            }
            let job = self.first + lane * 1_000_000 + number;
            let described = self.broker.queue("q").job(&job).unwrap().retries(3);
            // Some go by way of a queue of delays.
            let described = if job.is_multiple_of(7) {
                described.delay(millis(100 * (1 + job % 3)))
            } else {
                described
            };
            match self.broker.push(described).await {
                Ok(_) => self.ledger.job(job, &Event::Enqueued).unwrap(),
                Err(error) => {
                    println!("job {job}: {error:?}");
                    assert!(error.is_retryable(), "{error:?}");
                    self.ledger.job(job, &Event::Refused).unwrap();
                }
            }
            tokio::time::sleep(millis(4)).await;
        }
    }

    /// Enough that there is work when the broker is back, whatever becomes of the pushes that were
    /// on their way.
    pub(crate) async fn push_stock(&self, lane: u64) {
        let queue = self.broker.queue("q");
        let stock: Vec<u64> = (1..=STOCK)
            .map(|number| self.first + lane * 1_000_000 + number)
            .collect();
        self.broker
            .push_many(
                stock
                    .iter()
                    .map(|job| queue.job(job).unwrap().retries(3))
                    .collect(),
            )
            .await
            .unwrap();
        stock
            .iter()
            .for_each(|job| self.ledger.job(*job, &Event::Enqueued).unwrap());
    }

    async fn work(self: Arc<Self>, worker: u32) {
        let queue = self.broker.queue("q");
        while !self.stop.load(Ordering::Acquire) {
            let Ok(Some(lease)) = queue.lease(LONG, millis(500)).await else {
                continue;
            };
            let begun = Instant::now();
            let (job, attempt) = (lease.payload::<u64>().unwrap(), lease.attempt());
            let note = |event| {
                self.ledger
                    .attempt(job, attempt, 0, worker, &event)
                    .unwrap()
            };
            note(Event::Start);
            tokio::time::sleep(millis(job % 20)).await;
            note(Event::Effect);
            // Every tenth fails at first.
            let fails = job % 10 == 0 && attempt == 1;
            if fails {
                // The next attempt is none that has to be explained.
                self.ledger.fault(std::process::id()).unwrap();
            } else {
                note(Event::End);
            }
            let settled = loop {
                let lease = lease.clone();
                let settled = if fails {
                    lease.nack_later("at first", millis(20)).await
                } else {
                    lease.ack().await
                };
                match settled {
                    // It still holds.
                    Err(error) if !error.is_uncertain() => {
                        assert!(error.is_retryable(), "{error:?}")
                    }
                    settled => break settled,
                }
                tokio::time::sleep(millis(100)).await;
            };
            match settled {
                Ok(Settled::Accepted(_)) if !fails => {
                    self.jobs.went_well(begun);
                    self.end(job, "done", &self.done);
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    if !fails {
                        self.end(job, "uncertain", &self.uncertain);
                    }
                }
            }
        }
    }

    fn end(&self, job: u64, how: &str, count: &AtomicU64) {
        self.ledger
            .job(job, &Event::Outcome(how.to_owned()))
            .unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn call(self: Arc<Self>, broker: Broker, is_durable: bool) {
        for n in 0.. {
            if self.stop_asking.load(Ordering::Acquire) {
                return;
            }
            let begun = Instant::now();
            self.called.fetch_add(1, Ordering::Relaxed);
            match tokio::time::timeout(BOUND, broker.call(add(n, 1)))
                .await
                .unwrap()
            {
                Ok(sum) => {
                    assert_eq!(sum, n + 1);
                    self.calls.went_well(begun);
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(CallError::Rejected(error))
                    if error.kind() == ErrorKind::Unreachable && !is_durable =>
                {
                    assert!(error.is_uncertain(), "{error:?}");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                }
                Err(CallError::Rejected(error)) if error.is_retryable() => {
                    assert!(!error.is_uncertain());
                    self.failed.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    async fn serve(self: Arc<Self>, worker: Consumer) {
        let handle = worker.handle();
        let mut serving = pin!(worker.run_until(std::future::pending::<()>()));
        loop {
            tokio::select! {
                served = &mut serving => {
                    served.unwrap();
                    return;
                }
                () = tokio::time::sleep(millis(100)) => if self.stop.load(Ordering::Acquire) {
                    handle.drain();
                },
            }
        }
    }
}

//! The crash test: a server that writes everything to disk is killed and started again under load.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use brigade::{Broker, JobState, Pool, Settled, ToJob as _, task};
use brigade_testkit::ledger::{self, Event, Ledger};
use brigade_testkit::random::Random;
use brigade_testkit::redis::Redis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::stage::{BOUND, LONG, all_jobs, assert_passing, millis, unsettled, until};

/// Leases outlive a restart, so that nothing is repeated without need.
const LEASE: Duration = Duration::from_secs(10);
const QUEUES: [&str; 3] = ["by-hand", "in-process", "in-pool"];

/// Attempts that ended in this very process.
static ENDED_HERE: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

#[task(queue = "in-process")]
fn counted(ledger: String, number: u64) -> u64 {
    let token = attempt(&ledger, number);
    ENDED_HERE.send_modify(|count| *count += 1);
    token
}

#[task(queue = "in-pool")]
fn recorded(ledger: String, number: u64) -> u64 {
    attempt(&ledger, number)
}

/// Returns what distinguishes this attempt from all others.
fn attempt(ledger: &str, number: u64) -> u64 {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let token = (u64::from(std::process::id()) << 24) + ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let ledger = Ledger::open(ledger).unwrap();
    ledger.attempt(number, 1, token, 0, &Event::Start).unwrap();
    ledger.attempt(number, 1, token, 0, &Event::End).unwrap();
    token
}

/// The answers that producers and consumers got.
#[derive(Default)]
struct Answers {
    acknowledged: BTreeSet<u64>,
    uncertain: BTreeSet<u64>,
    /// Settlements by hand that were accepted, per job.
    accepted: BTreeMap<u64, usize>,
    /// Settlements by hand whose answer was lost at least once.
    unsure: BTreeSet<u64>,
    stale: usize,
}

struct Crash {
    answers: Mutex<Answers>,
    /// Jobs that were settled by hand.
    settled: watch::Sender<u64>,
    ledger: String,
    stop: CancellationToken,
    numbers: AtomicU64,
}

impl Crash {
    /// Pushes at a steady pace, so that the queues stay short; each number once, unless it is
    /// certain that it was not stored.
    async fn produce(self: Arc<Self>, broker: Broker) {
        let mut pace = tokio::time::interval(millis(3));
        while !self.stop.is_cancelled() {
            pace.tick().await;
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            loop {
                let arguments = (self.ledger.as_str(), number);
                let job = match number % 4 {
                    0 => counted(self.ledger.clone(), number).to_job().unwrap(),
                    1 => recorded(self.ledger.clone(), number).to_job().unwrap(),
                    _ => broker.queue("by-hand").job(&arguments).unwrap(),
                };
                match broker.push(job.keep(LONG)).await {
                    Ok(_) => drop(self.answers.lock().unwrap().acknowledged.insert(number)),
                    Err(error) if error.is_uncertain() => {
                        self.answers.lock().unwrap().uncertain.insert(number);
                    }
                    Err(error) => {
                        assert_passing(&error);
                        tokio::time::sleep(millis(20)).await;
                        continue;
                    }
                }
                break;
            }
        }
    }

    async fn consume(self: Arc<Self>, broker: Broker, until: CancellationToken) {
        let queue = broker.queue("by-hand");
        while !until.is_cancelled() {
            let lease = match queue.lease(LEASE, millis(200)).await {
                Ok(Some(lease)) => lease,
                Ok(None) => continue,
                Err(error) => {
                    assert_passing(&error);
                    tokio::time::sleep(millis(20)).await;
                    continue;
                }
            };
            let (_, number): (String, u64) = lease.payload().unwrap();
            loop {
                match lease.clone().ack_with(&number).await {
                    Ok(Settled::Accepted(_)) => {
                        *self
                            .answers
                            .lock()
                            .unwrap()
                            .accepted
                            .entry(number)
                            .or_default() += 1;
                        self.settled.send_modify(|count| *count += 1);
                    }
                    Ok(_) => self.answers.lock().unwrap().stale += 1,
                    Err(error) => {
                        assert_passing(&error);
                        if error.is_uncertain() {
                            self.answers.lock().unwrap().unsure.insert(number);
                        }
                        tokio::time::sleep(millis(20)).await;
                        continue;
                    }
                }
                break;
            }
        }
    }

    /// Waits until so many more jobs were settled by hand, and attempts ended in this process; how
    /// long each took.
    async fn progress(&self, jobs: u64) -> [Duration; 2] {
        let began = Instant::now();
        let wait = |counter: &watch::Sender<u64>| {
            let mut counter = counter.subscribe();
            let goal = *counter.borrow_and_update() + jobs;
            async move {
                counter.wait_for(|count| *count >= goal).await.unwrap();
                began.elapsed()
            }
        };
        let both = async { tokio::join!(wait(&self.settled), wait(&ENDED_HERE)) };
        let (by_hand, here) = tokio::time::timeout(RESUME_BOUND, both)
            .await
            .expect("consumption resumes by itself");
        [by_hand, here]
    }
}

/// Far beyond what it takes; what it takes is printed.
const RESUME_BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_of_the_server_under_load_loses_nothing_and_consumption_resumes() {
    let mut random = Random::from_env();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let crash = Arc::new(Crash {
        answers: Mutex::default(),
        settled: watch::Sender::new(0),
        ledger: directory.path().join("ledger").to_str().unwrap().to_owned(),
        stop: CancellationToken::new(),
        numbers: AtomicU64::new(1),
    });
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let done = CancellationToken::new();
    let connect = async || Broker::connect(&server.url()).await.unwrap();
    let (producers, consumers, serving) = (connect().await, connect().await, connect().await);
    let mut tasks = vec![
        tokio::spawn(Arc::clone(&crash).produce(producers.clone())),
        tokio::spawn(Arc::clone(&crash).produce(producers)),
    ];
    let mut consuming: Vec<_> = (0..2)
        .map(|_| tokio::spawn(Arc::clone(&crash).consume(consumers.clone(), done.clone())))
        .collect();
    for (queue, pool) in [("in-process", None), ("in-pool", Some(&pool))] {
        let worker = serving.consumer().queue(queue).lease(LEASE);
        let worker = match pool {
            Some(pool) => worker.on(pool),
            None => worker.in_process(),
        };
        let until = done.clone().cancelled_owned();
        consuming.push(tokio::spawn(async move {
            worker.run_until(until).await.unwrap();
        }));
    }
    let mut resumed = Vec::new();
    for _ in 0..brigade_testkit::count(3, 10) {
        crash.progress(20).await;
        tokio::time::sleep(random.time(NONE..millis(30))).await;
        server.kill().unwrap();
        tokio::time::sleep(random.time(NONE..millis(300))).await;
        server.start_again().unwrap();
        resumed.push(crash.progress(1).await.map(|time| time.as_millis()));
    }
    crash.stop.cancel();
    for task in tasks.drain(..) {
        task.await.unwrap();
    }
    until("all settled", async || {
        unsettled(&consumers, &QUEUES).await == 0
    })
    .await;
    done.cancel();
    for task in consuming {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    pool.shutdown().await;
    println!("resumed after so many ms [by hand, by a worker]: {resumed:?}");
    crash.check(&consumers).await;
}

const NONE: Duration = Duration::ZERO;

impl Crash {
    /// Compares the answers that all callers got with what is stored and with the ledger.
    async fn check(&self, broker: &Broker) {
        let mut stored = BTreeMap::<u64, usize>::new();
        let (mut not_done, mut forged, mut interrupted) = (0, 0, 0);
        let attempts = Attempts::read(Path::new(&self.ledger));
        for queue in QUEUES {
            for job in all_jobs(broker, queue).await {
                let (_, number): (String, u64) = serde_json::from_str(&job.payload).unwrap();
                *stored.entry(number).or_default() += 1;
                interrupted += job.interrupted;
                not_done += usize::from(job.state != JobState::Done);
                let result: u64 = job.result.as_deref().unwrap_or("0").parse().unwrap();
                let is_known = if queue == "by-hand" {
                    result == number
                } else {
                    attempts.ended.contains(&(number, result))
                };
                forged += usize::from(!is_known);
            }
        }
        let answers = self.answers.lock().unwrap();
        let lost: Vec<_> = answers
            .acknowledged
            .iter()
            .filter(|number| !stored.contains_key(number))
            .collect();
        let phantom = stored
            .keys()
            .filter(|number| {
                !answers.acknowledged.contains(number) && !answers.uncertain.contains(number)
            })
            .count();
        let dup_stored = stored.values().filter(|count| **count > 1).count();
        let dup_accept = answers
            .accepted
            .values()
            .filter(|count| **count > 1)
            .count();
        let came_through = answers
            .uncertain
            .iter()
            .filter(|number| stored.contains_key(number))
            .count();
        println!(
            "jobs {} acknowledged {} uncertain {} (of these stored {came_through}); starts beyond \
                the first {} leases that ran out {interrupted} \
             acks unsure {} stale {}: LOST {} PHANTOM {phantom} DUP_STORED {dup_stored} DUP_ACCEPT \
             {dup_accept} NOT_DONE {not_done} FORGED {forged}",
            stored.len(),
            answers.acknowledged.len(),
            answers.uncertain.len(),
            attempts.repeated,
            answers.unsure.len(),
            answers.stale,
            lost.len(),
        );
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
        assert_eq!(
            (phantom, dup_stored, dup_accept, not_done, forged),
            (0, 0, 0, 0, 0)
        );
        // No lease lasted for long, so what began again had lost its answer or its lease to
        // a crash.
        assert!(
            attempts.repeated <= usize::try_from(interrupted).unwrap(),
            "{} attempts began again",
            attempts.repeated
        );
    }
}

/// What the ledger says of attempts.
struct Attempts {
    ended: BTreeSet<(u64, u64)>,
    /// Starts beyond the first.
    repeated: usize,
}

impl Attempts {
    fn read(path: &Path) -> Self {
        let (mut ended, mut started, mut repeated) = (BTreeSet::new(), BTreeSet::new(), 0);
        for line in ledger::read(path).unwrap() {
            match line.event {
                Event::Start => repeated += usize::from(!started.insert(line.job)),
                Event::End => drop(ended.insert((line.job, line.token))),
                _ => {}
            }
        }
        Self { ended, repeated }
    }
}

//! Statistics on every store: the sums are what happened, in whichever process.
//!
//! A model counts what a random mix does of pushes, hand-outs, ends, cancels and leases that run
//! out; the sums of the store are those of the model, by queue and task. The other cases look at
//! what a model does not know: durations, the clock, processes that are killed, and the bounds.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brigade::statistics::{OTHER_TASKS, STATISTICS_KEPT, TASKS_COUNTED_MAX};
use brigade::{
    Broker, CancelOutcome, Durations, Failure, JobId, JobState, Lease, MinuteCounts, Pool, Settled,
    StatisticsFilter, TaskCounts, task,
};
use fastrand::Rng;

use super::consumers::{beside, elsewhere};
use super::handlers::HANDLING;
use super::schedules::Wall;
use crate::case::{Case, case};
use crate::child_process::ChildProcess;
use crate::seed::{count, seed};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(statistics_add_up_to_what_a_model_counted: statistics, listing, cancels, clock, scheduling),
    case!(the_wait_and_the_run_of_a_job_are_counted_in_its_minute: statistics, clock),
    case!(a_wait_begins_when_the_job_falls_due: statistics, clock, scheduling),
    case!(jobs_of_flows_and_schedules_are_counted: statistics, flows, schedules, clock),
    case!(a_crash_of_a_worker_is_counted: statistics),
    case!(an_attempt_whose_process_was_killed_counts_as_interrupted: statistics, durable),
    case!(another_connection_sees_the_same_statistics: statistics, durable),
    case!(minutes_are_forgotten_after_a_day: statistics, clock),
    case!(many_tasks_of_a_queue_are_counted_together: statistics),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
/// How long the leases of the random case last.
const LEASE: Duration = Duration::from_secs(600);
/// Its queues and tasks.
const QUEUES: [&str; 2] = ["one", "two"];
const TASKS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

type QueueTask = (String, Option<String>);

/// What happened, without how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    pushed: u64,
    done: u64,
    failed: u64,
    crashed: u64,
    interrupted: u64,
    dead: u64,
    cancelled: u64,
    waits: u64,
    runs: u64,
}

impl Sums {
    fn of(counts: &TaskCounts) -> Self {
        Self {
            pushed: counts.pushed,
            done: counts.done,
            failed: counts.failed,
            crashed: counts.crashed,
            interrupted: counts.interrupted,
            dead: counts.dead,
            cancelled: counts.cancelled,
            waits: counts.wait.count(),
            runs: counts.run.count(),
        }
    }
}

fn is_whole_minute(minute: SystemTime) -> bool {
    let since = minute.duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().is_multiple_of(MINUTE.as_millis())
}

/// All minutes, put together by the case.
fn added(minutes: &[MinuteCounts]) -> HashMap<QueueTask, TaskCounts> {
    let mut sums = HashMap::<QueueTask, TaskCounts>::new();
    for minute in minutes {
        assert!(is_whole_minute(minute.minute), "{minute:?}");
        assert!(!minute.counts.is_empty(), "{minute:?}");
        let key = (minute.queue.clone(), minute.task.clone());
        sums.entry(key).or_default().add(&minute.counts);
    }
    sums
}

async fn all(broker: &Broker) -> Vec<MinuteCounts> {
    let minutes = broker.statistics(StatisticsFilter::default()).await;
    let minutes = minutes.unwrap();
    let starts: Vec<_> = minutes.iter().map(|minute| minute.minute).collect();
    assert!(starts.is_sorted(), "the oldest first: {starts:?}");
    minutes
}

/// The sums of one queue and task.
async fn sums(broker: &Broker, queue: &str, task: Option<&str>) -> Sums {
    let found = added(&all(broker).await);
    let key = (queue.to_owned(), task.map(str::to_owned));
    found.get(&key).map(Sums::of).unwrap_or_default()
}

/// The broker, and what its statistics should be.
struct CountsModel<'a> {
    broker: &'a Broker,
    jobs: HashMap<JobId, QueueTask>,
    sums: HashMap<QueueTask, Sums>,
    held: Vec<Lease>,
    cancels: Vec<JobId>,
    deeds: String,
}

impl CountsModel<'_> {
    fn of(&mut self, id: &JobId) -> &mut Sums {
        let key = self.jobs[id].clone();
        self.sums.entry(key).or_default()
    }

    async fn push(&mut self, random: &mut Rng) {
        let queue = random.choice(QUEUES).unwrap();
        let task = random.choice(TASKS).unwrap();
        let mut job = self.broker.queue(queue).job(&random.u8(..)).unwrap();
        job.task = task.map(Into::into);
        if random.u8(..4) == 0 {
            job = job.delay(Duration::from_secs(random.u64(1..200)));
        }
        let pushed = self.broker.push(job.retries(1)).await.unwrap();
        let key = (queue.to_owned(), task.map(str::to_owned));
        self.jobs.insert(pushed.id().clone(), key);
        self.of(pushed.id()).pushed += 1;
    }

    async fn lease(&mut self, random: &mut Rng) {
        let queue = self.broker.queue(random.choice(QUEUES).unwrap());
        if let Some(lease) = queue.lease(LEASE, NOW).await.unwrap() {
            self.of(lease.id()).waits += 1;
            self.held.push(lease);
        }
    }

    async fn take(&mut self, random: &mut Rng) {
        let queue = self.broker.queue(random.choice(QUEUES).unwrap());
        if let Some(taken) = queue.take(NOW).await.unwrap() {
            let sums = self.of(taken.id());
            (sums.waits, sums.done) = (sums.waits + 1, sums.done + 1);
        }
    }

    async fn settle(&mut self, random: &mut Rng) {
        if self.held.is_empty() {
            return;
        }
        let lease = self.held.swap_remove(random.usize(..self.held.len()));
        let id = lease.id().clone();
        let is_cancelled = self.cancels.contains(&id);
        let (deed, mut sums) = (random.u8(..8), Sums::default());
        let settled = match deed {
            0..3 => {
                (sums.done, sums.runs) = (1, 1);
                lease.ack().await
            }
            3 | 4 => {
                (sums.failed, sums.runs) = (1, 1);
                lease.nack("no").await
            }
            5 => lease.pass("not here").await,
            6 => {
                sums.interrupted = 1;
                lease.give_back("not now").await
            }
            _ => lease.dead_letter("odd").await,
        };
        assert_eq!(settled.unwrap(), Settled::Accepted(None));
        self.deeds.push_str(&format!("ended {id} by {deed}; "));
        if is_cancelled && deed >= 3 {
            sums.cancelled = 1;
        } else if deed >= 3 {
            let job = self.broker.job(&id).await.unwrap().unwrap();
            sums.dead = u64::from(job.state == JobState::Dead);
        }
        self.add(&id, sums);
    }

    fn add(&mut self, id: &JobId, more: Sums) {
        let sums = self.of(id);
        sums.done += more.done;
        sums.failed += more.failed;
        sums.interrupted += more.interrupted;
        sums.dead += more.dead;
        sums.cancelled += more.cancelled;
        sums.runs += more.runs;
    }

    async fn change(&mut self, random: &mut Rng) {
        if self.jobs.is_empty() {
            return;
        }
        let ids: Vec<&JobId> = self.jobs.keys().collect();
        let id = ids[random.usize(..ids.len())].clone();
        match random.u8(..4) {
            0 => drop(self.broker.delete(&id).await.unwrap()),
            1 => drop(self.broker.retry(&id).await.unwrap()),
            _ => match self.broker.cancel(&id, "enough").await.unwrap() {
                CancelOutcome::Cancelled => self.of(&id).cancelled += 1,
                CancelOutcome::Asked => self.cancels.push(id),
                CancelOutcome::Nothing => {}
            },
        }
    }

    /// Time passes; perhaps so much that all leases run out.
    async fn pass_time(&mut self, random: &mut Rng) {
        if !self.held.is_empty() && random.bool() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let by = match held.is_empty() {
            true => Duration::from_secs(random.u64(1..100)),
            false => LEASE + MINUTE,
        };
        self.broker.clock().advance(by);
        self.broker.queues().await.unwrap();
        for lease in held {
            let is_cancelled = self.cancels.contains(lease.id());
            let sums = self.of(lease.id());
            sums.interrupted += 1;
            sums.cancelled += u64::from(is_cancelled);
        }
    }

    async fn compare(&self) {
        let minutes = all(self.broker).await;
        let found = added(&minutes);
        let sums: HashMap<QueueTask, Sums> = found
            .iter()
            .map(|(key, counts)| (key.clone(), Sums::of(counts)))
            .collect();
        assert_eq!(sums, self.sums, "after {}", self.deeds);
        self.compare_filters(&minutes, &found).await;
    }

    /// What the filters give is what can be picked and added from all of it.
    async fn compare_filters(
        &self,
        minutes: &[MinuteCounts],
        sums: &HashMap<QueueTask, TaskCounts>,
    ) {
        let filter = StatisticsFilter {
            summed: true,
            ..StatisticsFilter::default()
        };
        let summed = self.broker.statistics(filter.clone()).await.unwrap();
        assert_eq!(summed.len(), sums.len());
        for sum in &summed {
            let key = (sum.queue.clone(), sum.task.clone());
            let is_of = |minute: &&MinuteCounts| (&minute.queue, &minute.task) == (&key.0, &key.1);
            let first = minutes.iter().find(is_of).unwrap().minute;
            assert_eq!((&sum.counts, sum.minute), (&sums[&key], first));
        }
        let filter = StatisticsFilter {
            queue: Some(QUEUES[0].into()),
            since: minutes.get(minutes.len() / 2).map(|minute| minute.minute),
            summed: false,
        };
        let wanted = minutes.iter().filter(|minute| {
            minute.queue == QUEUES[0] && filter.since.is_none_or(|since| minute.minute >= since)
        });
        let mut wanted: Vec<MinuteCounts> = wanted.cloned().collect();
        let mut found = self.broker.statistics(filter.clone()).await.unwrap();
        for list in [&mut wanted, &mut found] {
            list.sort_by_key(|minute| (minute.minute, minute.task.clone()));
        }
        assert_eq!(found, wanted);
    }
}

async fn statistics_add_up_to_what_a_model_counted(subject: Subject) {
    let mut random = Rng::with_seed(seed());
    let mut model = CountsModel {
        broker: &subject.broker,
        jobs: HashMap::new(),
        sums: HashMap::new(),
        held: Vec::new(),
        cancels: Vec::new(),
        deeds: String::new(),
    };
    for step in 0..count(600, 10_000) {
        let deed = random.u8(..16);
        model.deeds.push_str(&format!("{deed}; "));
        match deed {
            0..5 => model.push(&mut random).await,
            5..8 => model.lease(&mut random).await,
            8 => model.take(&mut random).await,
            9..13 => model.settle(&mut random).await,
            13 | 14 => model.change(&mut random).await,
            _ => model.pass_time(&mut random).await,
        }
        if step % 100 == 99 {
            model.compare().await;
        }
    }
    model.compare().await;
}

/// Whether a histogram has one entry: this time, or a little more.
fn is_about(durations: &Durations, time: Duration) -> bool {
    let sum = Duration::from_millis(durations.sum_ms);
    let places = Durations::place_of(time)..=Durations::place_of(time + LONG);
    let counted: u64 = durations.counts[places].iter().sum();
    (durations.count(), counted) == (1, 1) && sum >= time && sum < time + LONG
}

async fn the_wait_and_the_run_of_a_job_are_counted_in_its_minute(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    queue.push(&1).await.unwrap();
    broker.clock().advance(2 * MINUTE);
    let lease = queue.lease(LEASE, NOW).await.unwrap().unwrap();
    broker.clock().advance(3 * MINUTE);
    lease.ack().await.unwrap();
    let minutes = all(broker).await;
    let [pushed, waited, ran] = minutes.as_slice() else {
        panic!("three minutes: {minutes:?}");
    };
    assert_eq!(pushed.counts.pushed, 1);
    assert!(is_about(&waited.counts.wait, 2 * MINUTE), "{waited:?}");
    assert!(is_about(&ran.counts.run, 3 * MINUTE), "{ran:?}");
    assert_eq!(ran.counts.done, 1);
    for (minute, before) in [(waited, pushed), (ran, waited)] {
        let passed = minute.minute.duration_since(before.minute).unwrap();
        assert!(passed >= 2 * MINUTE, "{minutes:?}");
    }
}

async fn a_wait_begins_when_the_job_falls_due(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let delayed = queue.job(&1).unwrap().delay(10 * MINUTE).retries(1);
    broker.push(delayed).await.unwrap();
    broker.clock().advance(15 * MINUTE);
    let lease = queue.lease(LEASE, NOW).await.unwrap().unwrap();
    let wait = all(broker).await.pop().unwrap().counts.wait;
    assert!(is_about(&wait, 5 * MINUTE), "{wait:?}");

    lease.nack_later("no", 20 * MINUTE).await.unwrap();
    broker.clock().advance(28 * MINUTE);
    let _lease = queue.lease(LEASE, NOW).await.unwrap().unwrap();
    let wait = all(broker).await.pop().unwrap().counts.wait;
    assert!(is_about(&wait, 8 * MINUTE), "{wait:?}");
}

async fn jobs_of_flows_and_schedules_are_counted(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let job = |task: &str| queue.job(&[1]).unwrap().task(task);
    let chain = brigade::Chain::new(job("first"))
        .then_job(job("second"))
        .then_job(job("third"));
    broker.push_flow(chain).await.unwrap();
    let schedule = brigade::Schedule::every("s", MINUTE, job("tick")).unwrap();
    let tick = broker.schedule(schedule).await.unwrap().next;
    let lease = queue.lease(LEASE, NOW).await.unwrap().unwrap();
    lease.dead_letter("broken").await.unwrap();
    // To this very tick: by the time, a minute may have begun since.
    Wall::of(broker).set(tick);
    let lease = queue.lease(LEASE, NOW).await.unwrap().unwrap();
    assert_eq!(lease.task(), Some("tick"));
    let one = Sums {
        pushed: 1,
        ..Sums::default()
    };
    let first = sums(broker, "q", Some("first")).await;
    assert_eq!((first.pushed, first.dead, first.waits), (1, 1, 1));
    for not_run in ["second", "third"] {
        let wanted = Sums { dead: 1, ..one };
        assert_eq!(sums(broker, "q", Some(not_run)).await, wanted);
    }
    let wanted = Sums { waits: 1, ..one };
    assert_eq!(sums(broker, "q", Some("tick")).await, wanted);
}

/// Takes its worker down.
#[task]
fn aborts_at_work() {
    std::process::abort();
}

async fn a_crash_of_a_worker_is_counted(subject: Subject) {
    let broker = &subject.broker;
    let (queue, name) = ("aborts_at_work", Some("aborts_at_work"));
    broker.push(aborts_at_work()).await.unwrap();
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let consumer = broker.consumer().queue(queue).on(&pool);
    let (crashed, _) = beside(consumer, async {
        loop {
            let sums = sums(broker, queue, name).await;
            if sums.crashed > 0 {
                break sums;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(crashed.runs == crashed.crashed, "{crashed:?}");
    assert_eq!((crashed.failed, crashed.done), (0, 0));
    pool.shutdown().await;
}

async fn an_attempt_whose_process_was_killed_counts_as_interrupted(subject: Subject) {
    let broker = &subject.broker;
    broker.queue("handled").push(&7).await.unwrap();
    let mut process = ChildProcess::start(&subject.place).unwrap();
    let handling = tokio::time::timeout(LONG, process.wait_for_line(HANDLING));
    handling.await.expect("it handles the job").unwrap();
    process.kill().unwrap();
    let consumer = broker.consumer().queue("handled");
    let consumer = consumer.handler(|_| async { Ok::<(), Failure>(()) });
    let handle = consumer.handle();
    let (found, _) = beside(consumer, async {
        while handle.stats().served.done == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sums(broker, "handled", None).await
    })
    .await;
    let wanted = Sums {
        pushed: 1,
        done: 1,
        interrupted: 1,
        waits: 2,
        runs: 1,
        ..Sums::default()
    };
    assert_eq!(found, wanted);
}

async fn another_connection_sees_the_same_statistics(subject: Subject) {
    let (broker, other) = (&subject.broker, elsewhere(&subject).await);
    for connection in [broker, &other] {
        let queue = connection.queue("q");
        for number in 0..20 {
            queue.push(&number).await.unwrap();
            queue.take(NOW).await.unwrap().unwrap();
        }
    }
    let found = sums(broker, "q", None).await;
    assert_eq!((found.pushed, found.done, found.waits), (40, 40, 40));
    assert_eq!(added(&all(&other).await), added(&all(broker).await));
}

async fn minutes_are_forgotten_after_a_day(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    queue.push(&1).await.unwrap();
    broker.clock().advance(STATISTICS_KEPT - 10 * MINUTE);
    queue.push(&2).await.unwrap();
    assert_eq!(sums(broker, "q", None).await.pushed, 2);
    broker.clock().advance(20 * MINUTE);
    assert_eq!(sums(broker, "q", None).await.pushed, 1);
    broker.clock().advance(STATISTICS_KEPT);
    assert_eq!(all(broker).await, []);
}

async fn many_tasks_of_a_queue_are_counted_together(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let many = TASKS_COUNTED_MAX + 50;
    for number in 0..many {
        let job = queue.job(&1).unwrap().task(format!("task_{number:04}"));
        broker.push(job).await.unwrap();
    }
    let other = broker.queue("other").job(&1).unwrap().task("task_9999");
    broker.push(other).await.unwrap();
    let minutes = all(broker).await;
    let hour = |minute: &MinuteCounts| {
        let since = minute.minute.duration_since(UNIX_EPOCH).unwrap();
        since.as_secs() / 3600
    };
    let found = added(&minutes);
    let of_queue = || found.iter().filter(|((queue, _), _)| queue == "q");
    let pushed: u64 = of_queue().map(|(_, counts)| counts.pushed).sum();
    assert_eq!(pushed, many as u64, "none is left out");
    if minutes
        .iter()
        .all(|minute| hour(minute) == hour(&minutes[0]))
    {
        assert_eq!(of_queue().count(), TASKS_COUNTED_MAX + 1);
        let others = &found[&("q".to_owned(), Some(OTHER_TASKS.to_owned()))];
        assert_eq!(others.pushed, (many - TASKS_COUNTED_MAX) as u64);
    }
    let key = ("other".to_owned(), Some("task_9999".to_owned()));
    assert_eq!(found[&key].pushed, 1, "each queue has its own");
}

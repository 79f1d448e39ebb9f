//! A deploy, with real programs: the old one is asked to end while the new one starts, in the
//! middle of many jobs.

use std::collections::BTreeMap;
use std::process::Command;

use brigade::{AttemptKind, JobState, task};
use brigade_testkit::ledger::{self, Event, Ledger};
use brigade_testkit::program::Program;
use rustix::process::Signal;

use crate::*;

pub(crate) const ROLES: [(&str, fn()); 1] = [("consumer", || {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(consumer());
})];

const DIRECTORY: &str = "BRIGADE_DEPLOY_DIRECTORY";
const DRAIN: &str = "BRIGADE_DEPLOY_DRAIN";
const JOBS: u64 = 100;
const BOUND: Duration = Duration::from_secs(50);

/// A service as a user would write it.
async fn consumer() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let broker = Broker::connect(&format!("sqlite:{directory}/jobs.db"))
        .await
        .unwrap();
    let pool = Pool::builder().workers(4).start().await.unwrap();
    let drain = Duration::from_millis(std::env::var(DRAIN).unwrap().parse().unwrap());
    let signals = brigade::stop_signal();
    println!("serving");
    let worker = broker.consumer().task(long).on(&pool).drain_timeout(drain);
    let handle = worker.handle();
    tokio::spawn(async move {
        while !handle.stats().draining {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("draining");
    });
    let served = worker.run_until(signals).await.unwrap();
    pool.shutdown().await;
    println!("served {served:?}");
}

/// Writes down that it begins and that it ends.
#[task(queue = "long")]
fn long(cx: &Context, job: u64, ledger: String) {
    let ledger = Ledger::open(ledger).unwrap();
    let token = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)
        .tv_nsec
        .cast_unsigned();
    ledger
        .attempt(job, cx.attempt(), token, 0, &Event::Start)
        .unwrap();
    std::thread::sleep(Duration::from_millis(100 + job % 7 * 30));
    ledger
        .attempt(job, cx.attempt(), token, 0, &Event::End)
        .unwrap();
}

struct Deploy {
    broker: Broker,
    directory: tempfile::TempDir,
    ids: Vec<JobId>,
}

impl Deploy {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = Broker::connect(&format!("sqlite:{}/jobs.db", directory.path().display()))
            .await
            .unwrap();
        let ledger = directory.path().join("ledger").to_str().unwrap().to_owned();
        let jobs = (0..JOBS)
            .map(|job| long(job, ledger.clone()).keep(100 * LONG).to_job().unwrap())
            .collect();
        let ids = broker
            .push_many(jobs)
            .await
            .unwrap()
            .iter()
            .map(|pushed| pushed.id().clone())
            .collect();
        Self {
            broker,
            directory,
            ids,
        }
    }

    fn start(&self, drain: Duration) -> Program {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env(DIRECTORY, self.directory.path())
            .env(DRAIN, drain.as_millis().to_string());
        Program::start_by(command, "consumer").unwrap()
    }

    fn lines(&self) -> Vec<ledger::Line> {
        // The last line may not be there yet.
        ledger::read(self.directory.path().join("ledger")).unwrap_or_default()
    }

    async fn until_ended(&self, count: usize) {
        until("so many jobs have ended", || {
            self.lines()
                .iter()
                .filter(|line| line.event == Event::End)
                .count()
                >= count
        })
        .await;
    }

    /// Replaces the old program by a new one in the middle, and ends the new one when all is done.
    async fn run(&self, drain: Duration) {
        let mut old = self.start(drain);
        self.until_ended(10).await;
        let mut new = self.start(drain);
        assert!(old.signal(Signal::TERM));
        let status = old.wait(BOUND);
        println!("{}", old.log());
        assert!(status.is_some_and(|status| status.success()));
        assert!(old.descendants().is_empty(), "its workers ended before it");
        for id in &self.ids {
            let job = tokio::time::timeout(BOUND, self.broker.wait(id))
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(job.state, JobState::Done, "lost: {job:?}");
        }
        assert!(new.signal(Signal::TERM));
        let status = new.wait(BOUND);
        println!("{}", new.log());
        assert!(status.is_some_and(|status| status.success()));
    }

    /// Checks that no job ran twice at once and none was charged; how many attempts were cut short.
    async fn check(&self) -> usize {
        let mut attempts: BTreeMap<u64, Vec<(u64, Option<u64>)>> = BTreeMap::new();
        let mut open: BTreeMap<(u64, u32, u64), usize> = BTreeMap::new();
        for line in self.lines() {
            let of_job = attempts.entry(line.job).or_default();
            let key = (line.job, line.pid, line.token);
            if line.event == Event::Start {
                open.insert(key, of_job.len());
                of_job.push((line.nanos, None));
            } else {
                of_job[open[&key]].1 = Some(line.nanos);
            }
        }
        assert_eq!(attempts.len() as u64, JOBS);
        let mut cut = 0;
        for (job, id) in (0..JOBS).zip(&self.ids) {
            let (attempts, info) = (&attempts[&job], self.broker.job(id).await.unwrap().unwrap());
            assert_eq!(
                (info.failed, info.crashed),
                (0, 0),
                "no job is charged for a deploy: {info:?}"
            );
            assert!(
                info.history.iter().all(|record| matches!(
                    record.kind,
                    AttemptKind::Interrupted | AttemptKind::Done
                )),
                "{info:?}"
            );
            // One that was asked to stop may come to its end all the same; that does not count, as
            // it may have left half of its work.
            let one_by_one = attempts
                .windows(2)
                .all(|pair| pair[0].1.is_none_or(|end| end < pair[1].0));
            assert!(one_by_one, "it ran twice at once: {attempts:?}");
            assert!(
                attempts.last().is_some_and(|(_, end)| end.is_some()),
                "its last attempt came to its end: {attempts:?}"
            );
            assert!(
                attempts.len() <= 1 + info.interrupted as usize,
                "every repeat is one that was cut short"
            );
            cut += attempts.len() - 1;
        }
        cut
    }
}

#[tokio::test]
async fn a_deploy_in_the_middle_of_long_jobs_costs_none_of_them_anything() {
    let deploy = Deploy::new().await;
    deploy.run(2 * LONG).await;
    assert_eq!(
        deploy.check().await,
        0,
        "what ran when the signal came ran to its end"
    );
}

#[tokio::test]
async fn a_deploy_that_does_not_wait_gives_back_what_runs() {
    let deploy = Deploy::new().await;
    deploy.run(Duration::ZERO).await;
    let cut = deploy.check().await;
    println!("{cut} attempts were cut short");
    assert!(
        (1..=4).contains(&cut),
        "those that ran when the signal came, at most one per worker, not {cut}"
    );
}

#[tokio::test]
async fn the_second_signal_ends_a_worker_at_once() {
    let deploy = Deploy::new().await;
    let mut program = deploy.start(100 * LONG);
    deploy.until_ended(1).await;
    assert!(program.signal(Signal::INT));
    // The first one is heard: nothing new is taken, and what is held becomes less.
    program.line("draining", BOUND).expect("it drains");
    assert!(program.signal(Signal::TERM));
    let status = program.wait(BOUND);
    println!("{}", program.log());
    assert!(status.is_some_and(|status| status.success()));
    let queues = deploy.broker.queues().await.unwrap();
    let leased = queues[0]
        .jobs
        .iter()
        .find(|(state, _)| *state == JobState::Leased);
    assert_eq!(leased, None, "what ran is given back");
}

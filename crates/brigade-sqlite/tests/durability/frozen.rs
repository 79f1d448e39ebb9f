//! A consumer that stands still for longer than its leases.

use std::time::Duration;

use brigade::{Pool, ToJob as _};
use brigade_testkit::facts;
use brigade_testkit::ledger::{self, Event};
use brigade_testkit::program::{Program, arguments};
use rustix::process::Signal;

use crate::stage::{LONG, Roles, Stage, block_on, finish, until, until_file};
use crate::tasks::waits;
use crate::verdict::verdict;

pub(crate) const ROLES: Roles = &[("short_leases", || block_on(short_leases()))];

/// In flight at the consumer that freezes.
const JOBS: i64 = 4;

#[test]
fn b19_a_frozen_consumer_loses_its_leases_to_others_and_nothing_of_its_own_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    block_on(push_jobs(&stage));
    let frozen = Program::start_with("short_leases", &[stage.text()]).unwrap();
    let started = || {
        ledger::read(stage.path("ledger"))
            .unwrap()
            .iter()
            .filter(|line| line.event == Event::Start)
            .count()
    };
    until("two run, two wait", || started() == 2);
    // With all its workers, as a control group would freeze them.
    let workers: Vec<u32> = facts::children(frozen.pid())
        .iter()
        .map(|child| child.pid)
        .collect();
    let tree = || std::iter::once(frozen.pid()).chain(workers.iter().copied());
    let ledger = stage.ledger();
    tree().for_each(|pid| ledger.fault(pid).unwrap());
    tree().for_each(|pid| assert!(facts::signal(pid, Signal::STOP)));

    let other = Program::start_with("short_leases", &[stage.text()]).unwrap();
    stage.tell(&format!("go-{}", other.pid()));
    let file = stage.look();
    let done = || -> i64 {
        file.query_row(
            "SELECT count(*) FROM brigade_jobs WHERE state = 5",
            [],
            |row| row.get(0),
        )
        .unwrap()
    };
    until("another one did all of it", || done() == JOBS);
    // Every attempt of the one that thaws comes to its end now, if it may.
    stage.tell(&format!("go-{}", frozen.pid()));
    tree().for_each(|pid| assert!(facts::signal(pid, Signal::CONT)));
    stage.tell("halt");
    let (log, other) = (finish(frozen), finish(other));
    assert!(log.contains(&format!("done 0 stale {JOBS}")), "{log}");
    assert!(other.contains(&format!("done {JOBS} stale 0")), "{other}");
    // The frozen attempts were there, and could not go on: that overlap is no fault.
    std::fs::remove_file(stage.path("overlaps")).ok();
    let (mut verdict, _) = verdict(&stage, &[]);
    // What waited in its pool may begin in the moment of the thaw, before it sees that its leases
    // are over: at most one attempt per worker.
    assert!(verdict.unexplained <= workers.len(), "{verdict}");
    verdict.unexplained = 0;
    verdict.check("frozen");
    assert!(verdict.repeats <= 2, "two ran: {verdict}");
    let results: Vec<u64> = file
        .prepare("SELECT result FROM brigade_jobs")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|text| text.unwrap().parse().unwrap())
        .collect();
    let frozen_results = results
        .iter()
        .filter(|token| workers.iter().any(|pid| u64::from(*pid) == **token >> 20));
    assert_eq!(
        frozen_results.count(),
        0,
        "results of the frozen were accepted"
    );
}

async fn push_jobs(stage: &Stage) {
    let broker = stage.broker().await;
    for number in 1..=JOBS.unsigned_abs() {
        stage.ledger().job(number, &Event::Refused).unwrap();
        let job = waits(stage.text().to_owned(), number).to_job().unwrap();
        broker.push(job.keep(LONG)).await.unwrap();
        stage.ledger().job(number, &Event::Enqueued).unwrap();
    }
}

async fn short_leases() {
    let stage = Stage::new(&arguments()[0]);
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let broker = stage.broker().await;
    let halt = stage.path("halt");
    let worker = broker
        .consumer()
        .queue("waits")
        .on(&pool)
        .lease(Duration::from_secs(1));
    let served = worker.run_until(until_file(&halt)).await.unwrap();
    println!("done {} stale {}", served.done, served.stale);
    pool.shutdown().await;
}

//! The file is held by another program for longer than leases last.

use std::time::Duration;

use brigade::{ErrorKind, Pool, ToJob as _};
use brigade_testkit::full;
use brigade_testkit::ledger::{self, Event};
use brigade_testkit::program::{Program, arguments};

use crate::stage::{BOUND, LONG, Roles, Stage, block_on, finish, millis, until, until_file};
use crate::tasks::waits;
use crate::verdict::verdict;

pub(crate) const ROLES: Roles = &[
    ("locker", locker),
    ("locked_out", || block_on(locked_out())),
];

#[test]
fn d27_a_file_that_another_program_holds_is_waited_for_and_what_expired_meanwhile_is_fenced() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    block_on(async {
        let broker = stage.broker().await;
        stage.ledger().job(1, &Event::Refused).unwrap();
        broker
            .push(
                waits(stage.text().to_owned(), 1)
                    .to_job()
                    .unwrap()
                    .keep(LONG),
            )
            .await
            .unwrap();
        stage.ledger().job(1, &Event::Enqueued).unwrap();
    });
    let served = Program::start_with("locked_out", &[stage.text()]).unwrap();
    let starts = || {
        ledger::read(stage.path("ledger"))
            .unwrap()
            .into_iter()
            .filter(|line| line.event == Event::Start)
            .collect::<Vec<_>>()
    };
    until("it runs", || !starts().is_empty());
    let locker = Program::start_with("locker", &[stage.text()]).unwrap();
    locker.line("locked", BOUND).unwrap();
    // The lease is over, and so is the attempt, although the broker could not be asked: it
    // may not run on together with the next one.
    let first = starts()[0].pid;
    until("it is stopped", || !brigade_testkit::facts::is_alive(first));
    stage.ledger().fault(first).unwrap();
    let refused = full().then(|| {
        block_on(async {
            let error = brigade::Broker::connect(&stage.url()).await.unwrap_err();
            assert!(
                error.kind() == ErrorKind::Timeout && error.is_retryable(),
                "{error:?}"
            );
            tokio::time::sleep(Duration::from_secs(30)).await;
        });
    });
    stage.tell(&format!("go-{}", served.pid()));
    stage.tell("unlock");
    finish(locker);
    let file = stage.look();
    let done = || -> bool {
        file.query_row(
            "SELECT count(*) = 1 FROM brigade_jobs WHERE state = 5",
            [],
            |row| row.get(0),
        )
        .unwrap()
    };
    until("it is done", done);
    stage.tell("halt");
    let log = finish(served);
    assert!(log.contains("done 1 stale 1"), "{log}");
    let (verdict, _) = verdict(&stage, &[]);
    verdict.check(if refused.is_some() {
        "locked for 30 s"
    } else {
        "locked"
    });
    assert_eq!((verdict.starts, verdict.repeats), (2, 1));
}

fn locker() {
    let stage = Stage::new(&arguments()[0]);
    let file = stage.look();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    println!("locked");
    until("the end", || stage.path("unlock").exists());
    file.execute_batch("ROLLBACK").unwrap();
}

async fn locked_out() {
    let stage = Stage::new(&arguments()[0]);
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(50), millis(50))
        .start()
        .await
        .unwrap();
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

//! Killed, or given EIO, at the first sync of a program's life, at the second, and so on: the first
//! start of a file included.

use brigade::{Broker, Error, ErrorKind, ToJob as _};
use brigade_testkit::ledger::{self, Event};
use brigade_testkit::program::{Program, arguments};
use rusqlite::Connection;

use crate::disk::{Fault, syncs};
use crate::stage::{BOUND, LONG, Roles, Stage, block_on, finish, integrity, millis};
use crate::tasks::good;

pub(crate) const ROLES: Roles = &[
    ("commits", || block_on(commits())),
    ("fails_once", || block_on(fails_once())),
];

#[test]
fn d24_killed_at_the_nth_sync_keeps_what_was_acknowledged_and_makes_the_schema_whole_or_not_at_all()
{
    for number in 1.. {
        let mut passed = true;
        for fault in [Fault::KillBefore(number), Fault::KillAfter(number)] {
            let directory = tempfile::tempdir().unwrap();
            let stage = Stage::new(directory.path());
            let [name, at] = fault.arguments();
            let mut program = Program::start_with("commits", &[stage.text(), &name, &at]).unwrap();
            let status = program.wait(BOUND).unwrap();
            assert!(
                status.success() || status.code().is_none(),
                "{fault:?}: {status}\n{}",
                program.log()
            );
            passed &= status.success();
            check_whole_or_nothing(&stage);
            check_kept(&stage, &format!("{fault:?}"));
        }
        if passed {
            println!("{} syncs", number - 1);
            assert!(
                number > 8,
                "the program makes more commits than {}",
                number - 1
            );
            return;
        }
    }
}

#[test]
fn d25_after_a_sync_that_failed_nothing_is_acknowledged_until_the_file_is_opened_again() {
    let mut failures = 0;
    for number in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage::new(directory.path());
        let [name, at] = Fault::Fail(number).arguments();
        let log = finish(Program::start_with("fails_once", &[stage.text(), &name, &at]).unwrap());
        check_kept(&stage, &format!("EIO at {number}"));
        failures += log.matches("failed").count();
        if log.contains("passed") {
            break;
        }
    }
    assert!(failures > 5, "{failures} operations met the fault");
}

/// The tables are all there, with their version, or none is.
fn check_whole_or_nothing(stage: &Stage) {
    if !stage.file().exists() {
        return;
    }
    let file = Connection::open(stage.file()).unwrap();
    assert_eq!(integrity(&file), "ok");
    let tables = |file: &Connection| -> Vec<String> {
        let mut names = file
            .prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'brigade_%' ORDER BY name")
            .unwrap();
        names
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    let found = tables(&file);
    if found.is_empty() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let whole = Stage::new(directory.path());
    drop(block_on(whole.broker()));
    assert_eq!(found, tables(&whole.look()));
    let version: String = file
        .query_row(
            "SELECT value FROM brigade_facts WHERE name = 'schema'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(!version.is_empty());
}

/// What the program was answered holds, and the file goes on.
fn check_kept(stage: &Stage, what: &str) {
    let lines = ledger::read(stage.path("ledger")).unwrap_or_default();
    let has = |number: u64, event: &Event| {
        lines
            .iter()
            .any(|line| line.job == number && line.event == *event)
    };
    let numbers: Vec<u64> = block_on(async {
        let broker = stage.broker().await;
        broker.push(good(99)).await.unwrap();
        let jobs = broker.jobs(None, None, None, 1000).await.unwrap();
        jobs.iter()
            .map(|job| serde_json::from_str::<[u64; 1]>(&job.payload).unwrap()[0])
            .collect()
    });
    assert!(numbers.contains(&99), "{what}");
    for number in 1..=20 {
        let (pushed, began, ended) = (
            has(number, &Event::Enqueued),
            has(number, &Event::Start),
            has(number, &Event::End),
        );
        let stored = numbers.iter().filter(|stored| **stored == number).count();
        assert!(stored <= 1, "{what}: job {number} is there {stored} times");
        assert!(
            !pushed || began || stored == 1,
            "{what}: job {number} was acknowledged and is gone"
        );
        assert!(
            !ended || stored == 0,
            "{what}: job {number} was acked and is there"
        );
    }
    assert_eq!(integrity(&stage.look()), "ok", "{what}");
}

async fn commits() {
    let arguments = arguments();
    let stage = Stage::new(&arguments[0]);
    if let Some(fault) = Fault::read(&arguments[1], &arguments[2]) {
        fault.arm();
    }
    let broker = stage.broker().await;
    run(&stage, &broker, 1).await.unwrap();
    drop(broker);
    println!("{} syncs", syncs());
}

/// A job's whole life, for four jobs from `first` on.
async fn run(stage: &Stage, broker: &Broker, first: u64) -> Result<(), Error> {
    let note = |number, event| stage.ledger().job(number, &event).unwrap();
    broker.push(good(first)).await?;
    note(first, Event::Enqueued);
    let many = (first + 1..first + 4).map(|number| good(number).retries(1).to_job().unwrap());
    broker.push_many(many.collect()).await?;
    (first + 1..first + 4).for_each(|number| note(number, Event::Enqueued));
    let queue = broker.queue("good");
    for again in [false, false, true] {
        let Some(lease) = queue.lease(LONG, millis(0)).await? else {
            panic!("there are more jobs")
        };
        let [number]: [u64; 1] = lease.payload()?;
        if again {
            lease.nack_later("once more", LONG).await?;
        } else {
            note(number, Event::Start);
            lease.ack().await?;
            note(number, Event::End);
        }
    }
    Ok(())
}

/// Goes on after the first error as a program would that knows no better, then opens the file
/// again.
async fn fails_once() {
    let arguments = arguments();
    let stage = Stage::new(&arguments[0]);
    Fault::read(&arguments[1], &arguments[2]).unwrap().arm();
    let broker = match Broker::connect(&stage.url()).await {
        Ok(broker) => broker,
        Err(error) => {
            println!("failed to connect: {error:?}");
            stage.broker().await
        }
    };
    if let Err(error) = run(&stage, &broker, 1).await {
        println!("failed: {error:?}");
        assert!(
            error.kind() == ErrorKind::Os && error.is_uncertain() && !error.is_retryable(),
            "{error:?}"
        );
        for number in 10..13 {
            let error = broker
                .push(good(number))
                .await
                .expect_err("nothing is acknowledged any more");
            assert!(
                error.kind() == ErrorKind::Closed && error.to_string().contains("connect again"),
                "{error:?}"
            );
            assert!(!error.is_uncertain(), "{error:?}");
        }
        assert_eq!(
            broker
                .queue("good")
                .lease(LONG, millis(0))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Closed
        );
        let served = broker
            .consumer()
            .queue("good")
            .in_process()
            .run_until(std::future::pending::<()>())
            .await;
        assert_eq!(
            served.unwrap_err().kind(),
            ErrorKind::Closed,
            "a worker must not wait for what cannot come"
        );
        let again = stage.broker().await;
        again.push(good(13)).await.unwrap();
        stage.ledger().job(13, &Event::Enqueued).unwrap();
    } else if syncs() < arguments[2].parse().unwrap() {
        println!("passed");
    }
}

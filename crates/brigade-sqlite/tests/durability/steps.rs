//! A consumer is killed after each step of a job's way, one after the other: claim, run, record,
//! ack, delete.

use brigade::{Broker, Pool, ToJob as _};
use brigade_testkit::ledger::Event;
use brigade_testkit::program::{Program, arguments};

use crate::disk::{self, Fault};
use crate::stage::{BOUND, LONG, Roles, Stage, block_on, millis};
use crate::tasks::{self, kills_its_parent};
use crate::verdict::verdict;

pub(crate) const ROLES: Roles = &[
    ("step_consumer", || block_on(consumer())),
    ("step_by_hand", || block_on(by_hand())),
];

/// The steps of one attempt, as its task sees them.
const STEPS: [&str; 3] = ["leased", "running", "recorded"];

#[test]
fn b18_a_consumer_killed_at_each_step_of_an_attempt() {
    for step in STEPS {
        let (stage, _directory) = with_one_job(step);
        let program = Program::start_with("step_consumer", &[stage.text(), "", "0"]).unwrap();
        see_through(&stage, program, step);
        assert!(stage.path("killed").exists(), "{step}");
    }
}

#[test]
fn b18_a_consumer_killed_before_and_after_each_of_its_commits() {
    let whole = each_sync("step_consumer");
    assert!(
        whole >= 2,
        "a lease and an ack are two commits, not {whole}"
    );
}

#[test]
fn b18_a_program_that_leases_by_hand_killed_before_and_after_each_of_its_commits() {
    let whole = each_sync("step_by_hand");
    assert!(
        whole >= 3,
        "a lease, an ack and a deletion are three commits, not {whole}"
    );
}

#[test]
fn b18_a_program_that_leases_by_hand_killed_between_its_steps() {
    for step in ["claimed", "run", "noted", "acked", "deleted"] {
        let (stage, _directory) = with_one_job("none");
        let program = Program::start_with("step_by_hand", &[stage.text(), step, "0"]).unwrap();
        see_through(&stage, program, step);
    }
}

/// Kills a program around its first sync, its second, and so on, until it passes. Returns how many
/// there are.
fn each_sync(role: &str) -> u64 {
    for number in 1.. {
        for fault in [Fault::KillBefore(number), Fault::KillAfter(number)] {
            let (stage, _directory) = with_one_job("none");
            let [name, at] = fault.arguments();
            let program = Program::start_with(role, &[stage.text(), &name, &at]).unwrap();
            if !see_through(&stage, program, &format!("{role} {fault:?}")) {
                return number - 1;
            }
        }
    }
    unreachable!("every program ends");
}

fn with_one_job(step: &str) -> (Stage, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    block_on(async {
        stage.ledger().job(1, &Event::Refused).unwrap();
        let job = kills_its_parent(stage.text().to_owned(), 1, step.to_owned())
            .to_job()
            .unwrap();
        stage.broker().await.push(job.keep(LONG)).await.unwrap();
        stage.ledger().job(1, &Event::Enqueued).unwrap();
    });
    (stage, directory)
}

/// Lets a program be killed, finishes what it left, and checks all. Returns whether it was killed.
fn see_through(stage: &Stage, mut program: Program, what: &str) -> bool {
    let status = program
        .wait(BOUND)
        .unwrap_or_else(|| panic!("{what}: hangs\n{}", program.log()));
    assert!(
        status.success() || status.code().is_none(),
        "{what}: {status}\n{}",
        program.log()
    );
    let killed = !status.success();
    if killed {
        // What ran died with it.
        let ledger = stage.ledger();
        let lines = brigade_testkit::ledger::read(stage.path("ledger")).unwrap();
        lines
            .iter()
            .filter(|line| line.event == Event::Start)
            .for_each(|line| ledger.fault(line.pid).unwrap());
    }
    block_on(async {
        let broker = stage.broker().await;
        let worker = broker
            .consumer()
            .queue("kills_its_parent")
            .in_process()
            .until_empty();
        let served = worker.run_until(tokio::time::sleep(BOUND)).await.unwrap();
        assert!(killed || served.done == 0, "{what}: {served:?}");
    });
    let deleted = stage.path("deleted").exists();
    let (mut verdict, _) = verdict(stage, &[]);
    if verdict.jobs == 0 && deleted {
        // It was done, and removed by hand.
        assert_eq!(std::mem::take(&mut verdict.lost), 1, "{what}");
    }
    verdict.check(what);
    assert!(verdict.starts - verdict.repeats == 1, "{what}");
    killed
}

fn die_at(wanted: &str, step: &str) {
    if wanted == step {
        Fault::KillBefore(1).arm();
        disk::sync_nothing();
    }
}

async fn consumer() {
    let arguments = arguments();
    let stage = Stage::new(&arguments[0]);
    let pool = Pool::builder().workers(1).start().await.unwrap();
    if let Some(fault) = Fault::read(&arguments[1], &arguments[2]) {
        fault.arm();
    }
    let broker = stage.broker().await;
    let worker = broker
        .consumer()
        .queue("kills_its_parent")
        .on(&pool)
        .until_empty();
    worker
        .run_until(std::future::pending::<()>())
        .await
        .unwrap();
    drop(broker);
    pool.shutdown().await;
}

/// The same job by hand, down to its deletion.
async fn by_hand() {
    let arguments = arguments();
    let (stage, step) = (Stage::new(&arguments[0]), arguments[1].as_str());
    if let Some(fault) = Fault::read(step, &arguments[2]) {
        fault.arm();
    }
    let broker = Broker::connect(&stage.url()).await.unwrap();
    let lease = broker
        .queue("kills_its_parent")
        .lease(LONG, millis(0))
        .await
        .unwrap()
        .unwrap();
    die_at("claimed", step);
    let token = tasks::attempt(&stage, 1, 1, 0, |_| die_at("run", step));
    die_at("noted", step);
    let id = lease.id().clone();
    lease.ack_with(&token).await.unwrap();
    stage
        .ledger()
        .job(1, &Event::Outcome("done".to_owned()))
        .unwrap();
    die_at("acked", step);
    stage.tell("deleted");
    assert!(broker.delete(&id).await.unwrap());
    die_at("deleted", step);
}

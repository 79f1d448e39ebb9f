//! Power cuts: all that a program writes and syncs is recorded; then disks are made that lost power
//! at some moment of it.
//!
//! What was synced is there. Of what was not, a disk has everything, nothing, a beginning, or any
//! part of it, torn at sectors. The order between the two files is not kept either.

use std::collections::BTreeMap;
use std::fs;

use brigade::{Broker, ToJob as _};
use brigade_testkit::program::{Program, arguments};
use brigade_testkit::{count, random::Random};
use futures_util::future::join_all;
use rusqlite::Connection;

use crate::disk::{self, Operation, Part};
use crate::stage::{LONG, Roles, Stage, block_on, finish, integrity, millis};

pub(crate) const ROLES: Roles = &[("power", || block_on(power()))];

#[test]
fn d23_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let log = cut("full");
    assert!(log.contains(" lost 0 back 0 "), "{log}");
}

#[test]
fn d23_without_syncs_a_power_cut_takes_the_last_jobs_and_never_the_file() {
    cut("normal");
}

fn cut(safety: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let seed = Random::from_env().seed().to_string();
    let log = finish(
        Program::start_with(
            "power",
            &[directory.path().to_str().unwrap(), safety, &seed],
        )
        .unwrap(),
    );
    println!("{log}");
    log
}

/// The answers that the program got, as numbers among the writes: three per job.
const PUSHED: usize = 0;
const ENDING: usize = 1;
const ENDED: usize = 2;

fn mark(number: u64, what: usize) {
    disk::mark(number * 3 + what as u64);
}

async fn power() {
    let arguments = arguments();
    let (stage, safety) = (Stage::new(&arguments[0]), &arguments[1]);
    let mut random = Random::new(arguments[2].parse().unwrap());
    let url = format!("{}?synchronous={safety}", stage.url());
    let broker = Broker::connect(&url).await.unwrap();
    let base = [Part::Main, Part::Log].map(|part| fs::read(path(&stage, part)).unwrap_or_default());
    disk::record();
    let jobs = count(120, 1_000) as u64;
    join_all((0..4).map(|hand| work(&broker, hand * 10_000..hand * 10_000 + jobs, hand))).await;
    let operations = disk::recorded();
    drop(broker);
    let syncs = operations
        .iter()
        .filter(|operation| matches!(operation, Operation::Sync(Part::Main)))
        .count();
    assert!(syncs > 0, "the log was never written back");

    let (mut lost, mut back, mut worst) = (0, 0, 0);
    let cuts = count(40, 200);
    for _ in 0..cuts {
        let at = usize::try_from(random.within(0..operations.len() as u64 + 1)).unwrap();
        let image = image(&base, &operations[..at], &mut random);
        let (missing, undone) = compare(&image, &operations[..at], safety).await;
        lost += usize::from(missing > 0);
        back += usize::from(undone > 0);
        worst = worst.max(missing);
    }
    println!(
        "synchronous={safety} cuts {cuts} lost {lost} back {back} worst {worst} of {} jobs, \
            seed={}",
        jobs * 4,
        random.seed()
    );
}

/// Pushes jobs, large enough to have the log written back a few times, and ends every second of
/// them.
async fn work(broker: &Broker, numbers: std::ops::Range<u64>, hand: u64) {
    let queue = broker.queue(format!("q{hand}"));
    for number in numbers {
        let job = queue.job(&(number, "x".repeat(4000))).unwrap();
        broker.push(job.to_job().unwrap()).await.unwrap();
        mark(number, PUSHED);
        if number % 2 == 1 {
            let lease = queue.lease(LONG, millis(0)).await.unwrap().unwrap();
            let (leased, _): (u64, String) = lease.payload().unwrap();
            mark(leased, ENDING);
            lease.ack().await.unwrap();
            mark(leased, ENDED);
        }
    }
}

fn path(stage: &Stage, part: Part) -> std::path::PathBuf {
    match part {
        Part::Main => stage.file(),
        Part::Log => stage.path("jobs.db-wal"),
    }
}

/// A disk as it may be after these operations.
fn image(base: &[Vec<u8>; 2], operations: &[Operation], random: &mut Random) -> [Vec<u8>; 2] {
    let mode = random.within(0..4);
    [Part::Main, Part::Log].map(|part| {
        let mut bytes = base[part as usize].clone();
        let synced = operations
            .iter()
            .rposition(|operation| matches!(operation, Operation::Sync(synced) if *synced == part));
        let (safe, rest) = operations.split_at(synced.map_or(0, |at| at + 1));
        safe.iter()
            .for_each(|operation| apply(part, operation, &mut bytes, &mut |_| true));
        let beginning = random.within(0..rest.len() as u64 + 1);
        for (at, operation) in (0..).zip(rest) {
            match mode {
                0 => {}
                1 => apply(part, operation, &mut bytes, &mut |_| true),
                2 if at < beginning => apply(part, operation, &mut bytes, &mut |_| true),
                2 => break,
                _ => {
                    if random.within(0..2) == 0 {
                        apply(part, operation, &mut bytes, &mut |_| {
                            random.within(0..4) > 0
                        });
                    }
                }
            }
        }
        bytes
    })
}

const SECTOR: usize = 512;

/// Does what an operation did, as far as its sectors got through.
fn apply(
    part: Part,
    operation: &Operation,
    bytes: &mut Vec<u8>,
    gets_through: &mut dyn FnMut(usize) -> bool,
) {
    match operation {
        Operation::Write(to, at, data) if *to == part => {
            let mut at = usize::try_from(*at).unwrap();
            let mut data = data.as_slice();
            while !data.is_empty() {
                let (piece, rest) = data.split_at(data.len().min(SECTOR - at % SECTOR));
                if gets_through(at) {
                    if bytes.len() < at + piece.len() {
                        bytes.resize(at + piece.len(), 0);
                    }
                    bytes[at..at + piece.len()].copy_from_slice(piece);
                }
                at += piece.len();
                data = rest;
            }
        }
        Operation::Truncate(to, length) if *to == part => {
            bytes.resize(usize::try_from(*length).unwrap(), 0)
        }
        _ => {}
    }
}

/// Opens a disk of this kind: acknowledged jobs that are missing, ended ones that are back.
async fn compare(image: &[Vec<u8>; 2], operations: &[Operation], safety: &str) -> (usize, usize) {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    for part in [Part::Main, Part::Log] {
        fs::write(path(&stage, part), &image[part as usize]).unwrap();
    }
    let broker = Broker::connect(&format!("{}?synchronous={safety}", stage.url()))
        .await
        .unwrap();
    let jobs = broker.jobs(None, None, None, usize::MAX).await.unwrap();
    let number = |payload: &str| serde_json::from_str::<(u64, String)>(payload).unwrap().0;
    let stored: BTreeMap<u64, usize> = jobs.iter().map(|job| (number(&job.payload), 1)).collect();
    broker.queue("more").push(&(0, "")).await.unwrap();
    assert_eq!(integrity(&Connection::open(stage.file()).unwrap()), "ok");
    let mut answers = BTreeMap::<u64, [bool; 3]>::new();
    for operation in operations {
        if let Operation::Mark(mark) = operation {
            answers.entry(mark / 3).or_default()[usize::try_from(mark % 3).unwrap()] = true;
        }
    }
    let missing = answers.iter().filter(|(number, answers)| {
        answers[PUSHED] && !answers[ENDING] && !stored.contains_key(number)
    });
    let undone = answers
        .iter()
        .filter(|(number, answers)| answers[ENDED] && stored.contains_key(number));
    (missing.count(), undone.count())
}

//! Files that are not what they were: each is refused with a sentence, or served as far as it is
//! whole; never written over.

use std::fs;
use std::path::Path;

use brigade::{Broker, Error, ErrorKind};
use brigade_testkit::count;
use rusqlite::Connection;

use crate::stage::{Stage, block_on, integrity, millis};

const JOBS: u64 = 60;

/// A file with jobs, closed well.
fn closed() -> (Stage, tempfile::TempDir) {
    let (stage, directory) = open();
    // The last connection writes the log back and removes it.
    let file = stage.look();
    let _: i64 = file
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    drop(file);
    assert!(!stage.path("jobs.db-wal").exists());
    (stage, directory)
}

/// A file with jobs whose last program was killed: they are in the log.
fn open() -> (Stage, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let live = Stage::new(directory.path().join("live"));
    fs::create_dir(live.text()).unwrap();
    block_on(async {
        let broker = live.broker().await;
        for number in 0..JOBS {
            broker.queue("q").push(&number).await.unwrap();
        }
        // As a killed process leaves them.
        let left = Stage::new(directory.path().join("left"));
        fs::create_dir(left.text()).unwrap();
        for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
            fs::copy(live.path(name), left.path(name)).unwrap();
        }
    });
    (Stage::new(directory.path().join("left")), directory)
}

/// Serves what is there: the numbers of all jobs, in order.
async fn serve(stage: &Stage) -> Result<Vec<u64>, Error> {
    let broker = Broker::connect(&stage.url()).await?;
    let jobs = broker.jobs(Some("q"), None, None, usize::MAX).await?;
    let numbers: Vec<u64> = jobs
        .iter()
        .map(|job| job.payload.parse().unwrap())
        .collect();
    let first = broker.queue("q").take(millis(0)).await?;
    assert_eq!(
        first.map(|job| job.payload().unwrap()),
        numbers.first().copied()
    );
    broker.queue("q").push(&JOBS).await?;
    Ok(numbers)
}

fn all() -> Vec<u64> {
    (0..JOBS).collect()
}

fn refused(stage: &Stage, what: &str, word: &str) {
    let before = contents(stage);
    let error = block_on(Broker::connect(&stage.url()))
        .err()
        .unwrap_or_else(|| panic!("{what}: it must not be opened"));
    assert!(
        matches!(error.kind(), ErrorKind::Os | ErrorKind::Unsupported),
        "{what}: {error:?}"
    );
    assert!(error.to_string().contains(word), "{what}: {error}");
    assert_eq!(contents(stage), before, "{what}: it was written to");
}

fn contents(stage: &Stage) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(stage.text()).unwrap().map(Result::unwrap);
    let name = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().to_owned();
    // The index of the log is made again by the next process that looks.
    let entries = entries.filter(|entry| !name(entry).ends_with("-shm"));
    let mut contents: Vec<_> = entries
        .map(|entry| (name(&entry), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    contents.sort();
    contents
}

#[test]
fn d28_what_a_killed_process_left_is_whole() {
    let (stage, _directory) = open();
    assert_eq!(block_on(serve(&stage)).unwrap(), all());
    let (stage, _directory) = closed();
    assert_eq!(block_on(serve(&stage)).unwrap(), all());
}

#[test]
fn d28_a_log_without_its_file_a_file_without_its_log_and_a_directory_are_refused() {
    let (stage, _directory) = open();
    fs::remove_file(stage.path("jobs.db-wal")).unwrap();
    refused(&stage, "the log is deleted", "jobs.db-wal");

    let (stage, _directory) = open();
    fs::remove_file(stage.file()).unwrap();
    refused(&stage, "the file is deleted", "jobs.db-wal");
    let (stage, _directory) = open();
    fs::write(stage.file(), "").unwrap();
    refused(&stage, "the file is emptied", "jobs.db-wal");

    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    fs::create_dir(stage.file()).unwrap();
    refused(&stage, "it is a directory", "directory");

    let (stage, _directory) = closed();
    Connection::open(stage.file())
        .unwrap()
        .execute(
            "UPDATE brigade_facts SET value = 'x' WHERE name = 'schema'",
            [],
        )
        .unwrap();
    refused(&stage, "its version is no number", "version");
}

#[test]
fn d28_a_truncated_log_gives_a_beginning_of_what_was_pushed() {
    let (stage, _directory) = open();
    let log = fs::read(stage.path("jobs.db-wal")).unwrap();
    let step = count(log.len() / 25, 100).max(1);
    for length in (0..log.len()).step_by(step) {
        let directory = tempfile::tempdir().unwrap();
        let cut = Stage::new(directory.path());
        fs::copy(stage.file(), cut.file()).unwrap();
        fs::write(cut.path("jobs.db-wal"), &log[..length]).unwrap();
        match block_on(serve(&cut)) {
            Ok(numbers) => assert_eq!(numbers, all()[..numbers.len()], "cut at {length}"),
            Err(error) => panic!("cut at {length}: {error:?}"),
        }
        assert_eq!(integrity(&cut.look()), "ok", "cut at {length}");
    }
}

#[test]
fn d28_a_truncated_file_is_refused_or_whole_and_never_begun_anew() {
    let (stage, _directory) = closed();
    let whole = fs::read(stage.file()).unwrap();
    let step = count(whole.len() / 25, 100).max(1);
    for length in (1..whole.len()).step_by(step) {
        let mut bytes = whole.clone();
        bytes.truncate(length);
        meets(&bytes, &format!("cut at {length}"));
    }
}

#[test]
fn d28_every_flipped_bit_of_the_header_is_refused_or_does_no_harm() {
    let (stage, _directory) = closed();
    let whole = fs::read(stage.file()).unwrap();
    // The header of the file, and that of the table of tables after it.
    for bit in (0..108 * 8).step_by(count(7, 1)) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        meets(&bytes, &format!("byte {} bit {}", bit / 8, bit % 8));
    }
}

/// Serves a damaged file: all jobs in order, or an error with a sentence. If it was refused at
/// once, nothing was written.
fn meets(bytes: &[u8], what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    fs::write(stage.file(), bytes).unwrap();
    let before = contents(&stage);
    match block_on(serve(&stage)) {
        Ok(numbers) => assert_eq!(numbers, all(), "{what}"),
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::Os | ErrorKind::Unsupported),
                "{what}: {error:?}"
            );
            assert!(error.to_string().len() > 20, "{what}: {error}");
            if block_on(Broker::connect(&stage.url())).is_err() && !was_served(&stage, &before) {
                assert_eq!(contents(&stage), before, "{what}: {error}");
            }
        }
    }
    assert!(
        fs::metadata(stage.file()).unwrap().len() >= before[0].1.len() as u64
            || what.starts_with("byte"),
        "{what}"
    );
}

fn was_served(stage: &Stage, before: &[(String, Vec<u8>)]) -> bool {
    // A file that could be opened first, and was found to be damaged only later, has been written
    // to.
    Path::new(&stage.path("jobs.db-wal")).exists() || contents(stage).len() != before.len()
}

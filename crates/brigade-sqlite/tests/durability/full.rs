//! A disk of one mebibyte that is full.

use std::fs;
use std::path::{Path, PathBuf};

use brigade::{Broker, ErrorKind, Lease, Settled};
use brigade_testkit::program::arguments;

use crate::stage::{
    LONG, Roles, Stage, block_on, integrity, millis, mount_small_disk, run_with_mounts,
};

pub(crate) const ROLES: Roles = &[
    ("full_by_ourselves", || block_on(by_ourselves(stage()))),
    ("full_behind_a_link", || {
        block_on(by_ourselves(linked_stage()))
    }),
    ("full_by_others", || block_on(by_others())),
];

const DISK_BYTES: u64 = 1 << 20;

#[test]
fn d26_jobs_that_fill_the_disk_are_refused_while_what_runs_is_still_completed() {
    let directory = tempfile::tempdir().unwrap();
    run_with_mounts("full_by_ourselves", &[directory.path().to_str().unwrap()]);
}

#[test]
fn d26_jobs_that_fill_the_disk_of_a_file_behind_a_symbolic_link_are_refused_likewise() {
    let directory = tempfile::tempdir().unwrap();
    run_with_mounts("full_behind_a_link", &[directory.path().to_str().unwrap()]);
}

#[test]
fn d26_a_disk_that_others_filled_loses_nothing_and_is_used_again_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    run_with_mounts("full_by_others", &[directory.path().to_str().unwrap()]);
}

fn stage() -> Stage {
    Stage::new(small_disk())
}

/// Only the job file itself is on the small disk.
fn linked_stage() -> Stage {
    let stage = Stage::new(&arguments()[0]);
    std::os::unix::fs::symlink(small_disk().join("jobs.db"), stage.file()).unwrap();
    stage
}

fn small_disk() -> PathBuf {
    let disk = Path::new(&arguments()[0]).join("disk");
    mount_small_disk(&disk, DISK_BYTES);
    disk
}

/// Pushes until there is no room. Returns how many were accepted.
async fn push_until_full(broker: &Broker, first: u64) -> u64 {
    for number in first.. {
        match broker.queue("q").push(&(number, "x".repeat(500))).await {
            Ok(_) => {}
            Err(error) => {
                assert!(
                    error.kind() == ErrorKind::Os && error.to_string().contains("full"),
                    "{error:?}"
                );
                assert!(!error.is_uncertain(), "nothing of it was stored: {error:?}");
                return number - first;
            }
        }
        assert!(number < 100_000, "a mebibyte does not hold this many");
    }
    unreachable!("the loop ends");
}

async fn leases(broker: &Broker, count: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    while leases.len() < count {
        leases.push(
            broker
                .queue("q")
                .lease(LONG, millis(0))
                .await
                .unwrap()
                .unwrap(),
        );
    }
    leases
}

fn numbers(jobs: &[brigade::JobInfo]) -> Vec<u64> {
    jobs.iter()
        .map(|job| {
            serde_json::from_str::<(u64, String)>(&job.payload)
                .unwrap()
                .0
        })
        .collect()
}

async fn by_ourselves(stage: Stage) {
    let broker = stage.broker().await;
    assert!(
        push_until_full(&broker, 0).await > 100,
        "a mebibyte holds more"
    );
    let pushed = broker
        .jobs(None, None, None, usize::MAX)
        .await
        .unwrap()
        .len() as u64;
    // Full as it is, jobs are leased, completed and deleted, one by one and over and over.
    for round in 0..20 {
        for (at, lease) in leases(&broker, 5).await.into_iter().enumerate() {
            let settled = if at == 0 {
                lease.dead_letter("set aside").await
            } else {
                lease.ack().await
            };
            assert_eq!(settled.unwrap(), Settled::Accepted(None), "round {round}");
        }
    }
    for dead in broker
        .jobs(None, Some(brigade::JobState::Dead), None, 100)
        .await
        .unwrap()
    {
        assert!(broker.delete(&dead.id).await.unwrap());
    }
    let left = numbers(&broker.jobs(None, None, None, usize::MAX).await.unwrap());
    assert_eq!(left, (100..pushed).collect::<Vec<_>>());
    // That made room, so the same connection takes jobs again.
    assert!(
        push_until_full(&broker, pushed).await > 10,
        "there is room again"
    );
    assert_eq!(integrity(&stage.look()), "ok");
    println!("{pushed} jobs of 500 bytes fitted");
}

async fn by_others() {
    let stage = stage();
    let broker = stage.broker().await;
    for number in 0..200 {
        broker
            .queue("q")
            .push(&(number, "x".repeat(500)))
            .await
            .unwrap();
    }
    let held = leases(&broker, 20).await;
    let ballast = stage.path("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    let mut pushed = 200;
    loop {
        while std::io::Write::write_all(&mut file, &[1; 512]).is_ok() {}
        // The log may give room back when it is merged, which is used, and taken as well.
        match push_until_full(&broker, pushed).await {
            0 => break,
            more => pushed += more,
        }
    }
    // What runs is completed, or its holder learns that it is not, and settles again later.
    let (mut acked, mut refused) = (0, Vec::new());
    for lease in held {
        match lease.clone().ack().await {
            Ok(settled) => {
                assert_eq!(settled, Settled::Accepted(None));
                acked += 1;
            }
            Err(error) => {
                assert!(
                    error.kind() == ErrorKind::Os && !error.is_uncertain(),
                    "{error:?}"
                );
                refused.push(lease);
            }
        }
    }
    println!(
        "{acked} completed on a disk without a byte left, {} not",
        refused.len()
    );
    drop(file);
    fs::remove_file(&ballast).unwrap();
    for lease in refused {
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    broker.queue("q").push(&(pushed, "")).await.unwrap();
    assert_eq!(
        numbers(&broker.jobs(None, None, None, usize::MAX).await.unwrap()),
        (20..=pushed).collect::<Vec<_>>()
    );
    assert_eq!(integrity(&stage.look()), "ok");
}

//! A disk without room: for tables, and for the server's log of changes (WAL).
//!
//! The disk is a tmpfs in a mount namespace of the test's own. So the test starts itself again
//! there ([`on_small_disk`]), which needs root with CAP_SYS_ADMIN, or unprivileged user namespaces.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use brigade::{Broker, Error, ErrorKind, Lease, Settled};
use brigade_testkit::facts;
use brigade_testkit::postgres::Postgres;
use brigade_testkit::program::{ARGUMENTS_VARIABLE, Program, ROLE_VARIABLE, arguments};
use brigade_testkit::random::Random;

use crate::stage::{BOUND, run, text, until};

/// Starts the test of this name in a mount namespace, where it runs `part` with a disk of its own.
fn on_small_disk(name: &str, mebibytes: u32, part: impl AsyncFnOnce(&Path)) {
    if std::env::var(ROLE_VARIABLE).is_ok() {
        let disk = PathBuf::from(&arguments()[0]);
        let options = format!("size={mebibytes}m,mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(&disk)
            .status();
        assert!(mounted.unwrap().success(), "mount a tmpfs");
        return run(part(&disk));
    }
    let disk = tempfile::tempdir().unwrap();
    // The server runs as another user where the test runs as root.
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let flags: &[&str] = if is_root {
        &["--mount"]
    } else {
        &["--mount", "--map-current-user", "--keep-caps"]
    };
    let mut command = Command::new("unshare");
    command
        .args(flags)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ARGUMENTS_VARIABLE, disk.path());
    let mut program = Program::start_by(command, "small_disk").unwrap();
    let status = program.wait(3 * BOUND);
    print!("{}", program.log());
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}; this test mounts a small disk: it needs root with CAP_SYS_ADMIN, or \
            unprivileged user namespaces"
    );
}

/// A directory on the disk that the server may write to.
fn directory_of(server: &Postgres, disk: &Path) -> PathBuf {
    let directory = disk.join("of_server");
    fs::create_dir(&directory).unwrap();
    let owner = fs::metadata(server.socket_directory()).unwrap();
    chown(&directory, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

/// Takes all room of the disk until it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> Self {
        let path = disk.join("ballast");
        let mut file = File::create(&path).unwrap();
        for chunk in [1 << 20, 4096] {
            while file.write_all(&vec![1; chunk]).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// Text that does not get shorter when it is stored.
fn incompressible(random: &mut Random, bytes: usize) -> String {
    (0..bytes / 16)
        .map(|_| format!("{:016x}", random.draw()))
        .collect()
}

async fn leases(broker: &Broker, count: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    while leases.len() < count {
        let lease = broker.queue("q").lease(10 * BOUND, BOUND).await;
        leases.push(lease.unwrap().unwrap());
    }
    leases
}

fn number_of(payload: &str) -> u64 {
    serde_json::from_str::<(u64, String)>(payload).unwrap().0
}

async fn stored(broker: &Broker) -> Vec<u64> {
    let jobs = broker.jobs(None, None, None, 100_000).await.unwrap();
    let mut numbers: Vec<u64> = jobs.iter().map(|job| number_of(&job.payload)).collect();
    numbers.sort_unstable();
    numbers
}

fn assert_full(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Os, "{error:?}");
    assert!(text(error).contains("disk is full"), "{error:?}");
    assert!(!error.is_uncertain(), "nothing of it was stored: {error:?}");
}

#[test]
fn a_disk_without_room_for_tables_refuses_jobs_and_loses_none() {
    let name = "full_disk::a_disk_without_room_for_tables_refuses_jobs_and_loses_none";
    on_small_disk(name, 48, async |disk| {
        let mut random = Random::from_env();
        let server = Postgres::start(&["fsync = on"]).unwrap();
        let space = directory_of(&server, disk);
        let small = format!("create tablespace small location '{}'", space.display());
        server.sql(&small).unwrap();
        server
            .sql("create database small tablespace small")
            .unwrap();
        let broker = Broker::connect(&server.url_of("postgres", "small"))
            .await
            .unwrap();
        let queue = broker.queue("q");
        let mut accepted = Vec::new();
        for number in 0..30_u64 {
            queue.push(&(number, "x".repeat(500))).await.unwrap();
            accepted.push(number);
        }
        let held = leases(&broker, 10).await;

        let ballast = Ballast::fill(disk);
        let mut number = 30;
        loop {
            match queue
                .push(&(number, incompressible(&mut random, 60_000)))
                .await
            {
                Ok(_) => accepted.push(number),
                Err(error) => break assert_full(&error),
            }
            number += 1;
            assert!(number < 10_000, "the disk does not get full");
        }
        // What runs is completed, or its holder learns that it is not and settles it later.
        let mut refused = Vec::new();
        for lease in held {
            accepted.retain(|number| *number != number_of(lease.json()));
            match lease.clone().ack().await {
                Ok(settled) => assert_eq!(settled, Settled::Accepted(None)),
                Err(error) => {
                    assert_full(&error);
                    refused.push(lease);
                }
            }
        }
        println!("{} of 10 settlements were refused", refused.len());

        drop(ballast);
        for lease in refused {
            assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        }
        queue.push(&(number, String::new())).await.unwrap();
        accepted.push(number);
        assert_eq!(stored(&broker).await, accepted);
        for lease in leases(&broker, accepted.len()).await {
            assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        }
        assert!(stored(&broker).await.is_empty());
    });
}

/// Moves the server's log of changes to the small disk.
fn move_log(server: &mut Postgres, disk: &Path) {
    server.shut_down().unwrap();
    let log = server.socket_directory().join("data/pg_wal");
    let moved = directory_of(server, disk).join("pg_wal");
    let copied = Command::new("cp").arg("-a").args([&log, &moved]).status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(&log).unwrap();
    std::os::unix::fs::symlink(&moved, &log).unwrap();
    server.start_again().unwrap();
}

/// Pushes large jobs until three were refused: the numbers of those that were acknowledged, and of
/// those that are uncertain.
async fn push_until_refused(broker: &Broker, random: &mut Random) -> (Vec<u64>, Vec<u64>) {
    let (mut accepted, mut uncertain, mut refused) = (Vec::new(), Vec::new(), 0);
    for number in 0..10_000_u64 {
        let payload = (number, incompressible(random, 200_000));
        match broker.queue("q").push(&payload).await {
            Ok(_) => accepted.push(number),
            Err(error) => {
                let is_known = matches!(error.kind(), ErrorKind::Os | ErrorKind::Unreachable);
                assert!(is_known, "{error:?}");
                refused += 1;
                if error.is_uncertain() {
                    uncertain.push(number);
                }
            }
        }
        if refused == 3 {
            return (accepted, uncertain);
        }
    }
    panic!("the disk does not get full");
}

#[test]
fn a_disk_without_room_for_the_log_of_changes_loses_no_acknowledged_job() {
    let name = "full_disk::a_disk_without_room_for_the_log_of_changes_loses_no_acknowledged_job";
    on_small_disk(name, 96, async |disk| {
        let mut random = Random::from_env();
        let mut server = Postgres::start(&["fsync = on", "min_wal_size = 32MB"]).unwrap();
        move_log(&mut server, disk);

        let url = format!("{}?response_timeout=2s", server.url());
        let broker = Broker::connect(&url).await.unwrap();
        let queue = broker.queue("q");
        // The next part of the log, which has its room already.
        server.sql("select pg_switch_wal()").unwrap();
        queue.push(&(999_999_u64, String::new())).await.unwrap();
        let ballast = Ballast::fill(disk);
        let mut postmaster = server.pid();
        let (accepted, uncertain) = push_until_refused(&broker, &mut random).await;

        drop(ballast);
        // It restarts by itself when it could not write its log, or ends if that fails, too.
        until("jobs are taken again", async || {
            if !facts::is_alive(postmaster) {
                println!("the server has ended");
                server.start_again().unwrap();
                postmaster = server.pid();
            }
            queue.push(&(1_000_000_u64, String::new())).await.is_ok()
        })
        .await;
        let restarts = server
            .log()
            .matches("database system was interrupted")
            .count();
        println!("the server was restarted {restarts} times");
        let stored = stored(&broker).await;
        println!(
            "{} acknowledged, {} uncertain, {} stored",
            accepted.len(),
            uncertain.len(),
            stored.len()
        );
        assert!(accepted.len() > 10);
        for number in &accepted {
            assert!(stored.contains(number), "LOST {number}");
        }
        for number in stored.iter().filter(|number| **number < 999_999) {
            assert!(
                accepted.contains(number) || uncertain.contains(number),
                "{number} is there and was refused for certain"
            );
        }
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    });
}

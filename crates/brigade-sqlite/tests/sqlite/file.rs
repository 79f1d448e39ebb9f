//! The file itself: what becomes of a broker whose file goes away, how large it grows, who may read
//! it, how it is named.

use std::future::pending;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brigade::{Broker, ErrorKind, Level};
use rusqlite::Connection;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

async fn broker(path: &Path) -> Broker {
    Broker::connect(&format!("sqlite:{}", path.display()))
        .await
        .unwrap()
}

/// Moved, replaced or deleted: each in its own directory, with a consumer that waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_ends_with_an_error_when_its_file_is_moved_replaced_or_deleted() {
    for how in [
        "moved",
        "deleted",
        "replaced",
        "its directory moved",
        "its log deleted",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let path = home.join("jobs.db");
        let broker = broker(&path).await;
        broker.queue("q").push(&1).await.unwrap();
        let worker = broker.consumer().queue("idle").in_process();
        let serving = tokio::spawn(worker.run_until(pending::<()>()));
        let elsewhere = directory.path().join("elsewhere.db");
        match how {
            "moved" => std::fs::rename(&path, &elsewhere).unwrap(),
            "deleted" => std::fs::remove_file(&path).unwrap(),
            "its directory moved" => {
                std::fs::rename(&home, directory.path().join("new-home")).unwrap()
            }
            "its log deleted" => std::fs::remove_file(beside(&path, "-wal")).unwrap(),
            _ => {
                Connection::open(&elsewhere)
                    .unwrap()
                    .execute_batch("CREATE TABLE facts (fact)")
                    .unwrap();
                for ending in ["-wal", "-shm"] {
                    std::fs::remove_file(beside(&path, ending)).unwrap();
                }
                std::fs::rename(&elsewhere, &path).unwrap();
            }
        }
        let served = tokio::time::timeout(LONG, serving)
            .await
            .expect("it is noticed")
            .unwrap();
        let error = served.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Closed && error.to_string().contains("since it was opened"),
            "{how}: {error}"
        );
        let error = broker.queue("q").push(&3).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{how}: {error}");
        let findings = broker.check().await.unwrap();
        let is_told = |finding: &brigade::Finding| {
            finding.level == Level::Problem && finding.what.contains("since it was opened")
        };
        assert!(findings.iter().any(is_told), "{how}: {findings:?}");
        if how == "replaced" {
            // What is there now is left alone, its log too.
            let there = Broker::connect(&format!("sqlite:{}?shared=true", path.display()))
                .await
                .unwrap();
            there.queue("q").push(&2).await.unwrap();
            drop(broker);
            assert!(
                there.queue("q").lease(LONG, NOW).await.unwrap().is_some()
                    && beside(&path, "-wal").exists()
            );
        }
    }
}

#[tokio::test]
async fn a_broker_keeps_its_file_when_the_working_directory_changes() {
    let name = format!("brigade-relative-{}.db", std::process::id());
    let here = std::env::current_dir().unwrap();
    let broker = Broker::connect(&format!("sqlite://{name}")).await.unwrap();
    let remove = || {
        for ending in ["", "-wal", "-shm"] {
            std::fs::remove_file(beside(&here.join(&name), ending)).ok();
        }
    };
    let is_there = here.join(&name).exists();
    let pushed = broker.queue("q").push(&1).await;
    drop(broker);
    remove();
    assert!(is_there && pushed.is_ok());
}

/// The log stands next to the file, not next to the link.
#[tokio::test]
async fn a_file_behind_a_symbolic_link_is_private_and_its_log_and_the_link_are_watched() {
    for how in ["its log deleted", "its link moved to another file"] {
        let directory = tempfile::tempdir().unwrap();
        let [link, data, other] =
            ["link.db", "data", "other.db"].map(|it| directory.path().join(it));
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink("data/jobs.db", &link).unwrap();
        let path = data.join("jobs.db");
        let broker = broker(&link).await;
        broker.queue("q").push(&1).await.unwrap();
        for ending in ["", "-wal", "-shm"] {
            let file = std::fs::metadata(beside(&path, ending)).unwrap();
            assert_eq!(file.permissions().mode() & 0o777, 0o600, "{ending}");
        }
        if how == "its log deleted" {
            std::fs::remove_file(beside(&path, "-wal")).unwrap();
        } else {
            std::fs::File::create(&other).unwrap();
            std::fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink(&other, &link).unwrap();
        }
        let error = broker.queue("q").push(&2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{how}: {error}");
    }
}

#[tokio::test]
async fn a_log_that_a_reader_made_grow_is_small_again_when_it_has_gone() {
    const BOUND: u64 = 16 << 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let broker = broker(&path).await;
    let queue = broker.queue("q");
    let log = || std::fs::metadata(beside(&path, "-wal")).unwrap().len();
    queue.push(&1).await.unwrap();
    let reader = Connection::open(&path).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM brigade_jobs;")
        .unwrap();
    let megabyte = "x".repeat(1 << 20);
    for _ in 0..24 {
        queue.push(&megabyte).await.unwrap();
    }
    assert!(log() > BOUND, "a reader needs it");
    reader.execute_batch("COMMIT").unwrap();
    let shrunk = async {
        while log() > BOUND {
            queue.push(&2).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, shrunk)
        .await
        .expect("it is merged and cut");
    // Without a reader it never grows past that, however much is written.
    for _ in 0..48 {
        queue.push(&megabyte).await.unwrap();
    }
    assert!(log() <= BOUND + (4 << 20), "{}", log());
}

#[tokio::test]
async fn a_new_file_is_its_owner_s_alone_and_an_old_one_keeps_its_mode_and_is_named_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let path = directory.path().join("new.db");
    let new = broker(&path).await;
    new.queue("q").push(&1).await.unwrap();
    for ending in ["", "-wal", "-shm"] {
        assert_eq!(mode(&beside(&path, ending)), 0o600, "{ending}");
    }
    let is_open = |finding: &brigade::Finding| finding.what.contains("open to other users");
    assert!(!new.check().await.unwrap().iter().any(is_open));
    drop(new);

    let path = directory.path().join("old.db");
    // Not made by a broker: after its drop it closes its file in the background, and its log and
    // index, which have the old mode, may still be there.
    std::fs::File::create(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let old = broker(&path).await;
    assert_eq!(mode(&path), 0o644);
    let findings = old.check().await.unwrap();
    let named = findings
        .iter()
        .filter(|finding| is_open(finding) && finding.what.contains("644"))
        .count();
    assert_eq!(named, 3, "the file, its log and its index: {findings:?}");
}

#[tokio::test]
async fn a_url_names_a_file_as_for_sqlx() {
    let directory = tempfile::tempdir().unwrap();
    for (written, name) in [("a%20b.db", "a b.db"), ("c%25d%3Fe.db", "c%d?e.db")] {
        for slashes in ["", "//"] {
            let url = format!("sqlite:{slashes}{}/{written}", directory.path().display());
            Broker::connect(&url)
                .await
                .unwrap()
                .queue("q")
                .push(&1)
                .await
                .unwrap();
            assert!(directory.path().join(name).exists(), "{url}");
        }
    }
    for bad in [
        "sqlite:file:jobs.db",
        "sqlite:file:///jobs.db?mode=rwc",
        "sqlite:jobs.db?mode=rwc",
        "sqlite:a%2",
        "sqlite://",
    ] {
        assert_eq!(
            Broker::connect(bad).await.unwrap_err().kind(),
            ErrorKind::BadOption,
            "{bad}"
        );
    }
}

/// However many queues there were, what is left of them is nothing.
#[tokio::test]
async fn names_of_queues_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let broker = Broker::connect(&format!("sqlite:{}?synchronous=normal", path.display()))
        .await
        .unwrap();
    for number in 0..brigade_testkit::count(600, 100_000) {
        let queue = broker.queue(format!("q{number}"));
        queue.pause().await.unwrap();
        queue.resume().await.unwrap();
        queue
            .limit(brigade::Limits::default().starts(5, LONG))
            .await
            .unwrap();
        queue.push(&1).await.unwrap();
        queue.take(NOW).await.unwrap().unwrap();
        queue.unlimit().await.unwrap();
    }
    let file = Connection::open(&path).unwrap();
    let count = |table: &str| {
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap()
    };
    for table in [
        "brigade_jobs",
        "brigade_queues",
        "brigade_starts",
        "brigade_unique_keys",
    ] {
        assert_eq!(count(table), 0, "{table}");
    }
    assert!(count("brigade_consumers") <= 65 && count("brigade_holders") <= 1);
}

/// What was pushed after it began stays, and the whole of what was there goes, whatever its state.
#[tokio::test]
async fn a_purge_takes_what_was_there_and_flows_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let broker = broker(&path).await;
    let queue = broker.queue("q");
    let job = |n: i32| queue.job(&[n]).unwrap();
    let mut jobs: Vec<brigade::Job> = (0..5000).map(job).collect();
    jobs.extend((0..100).map(|n| job(n).delay(LONG)));
    jobs.extend((0..100).map(|n| job(n).key("k")));
    broker.push_many(jobs).await.unwrap();
    broker
        .push_flow(brigade::Group::new((0..50).map(job)).collect_job(job(50)))
        .await
        .unwrap();
    broker.queue("other").push(&1).await.unwrap();
    assert_eq!(queue.purge().await.unwrap(), 5251);
    let file = Connection::open(&path).unwrap();
    let left: Vec<String> = {
        let mut rows = file
            .prepare("SELECT queue || state FROM brigade_jobs")
            .unwrap();
        rows.query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    assert_eq!(left, ["other0"], "nothing is dead or held for what is gone");
    assert_eq!(queue.purge().await.unwrap(), 0);
}

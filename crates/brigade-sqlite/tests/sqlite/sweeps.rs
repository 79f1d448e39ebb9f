//! Others get the file while a great many jobs fall due at once.
//!
//! By default there are some thousand jobs of each kind; `BRIGADE_FULL=1` makes it a million, and
//! prints how long the pushes of another connection took meanwhile, and separately the two things
//! that they wait for: the lock of the file and a sync of the disk (`--nocapture`). With
//! `TMPDIR=/dev/shm` no disk is involved.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use brigade::Broker;
use rusqlite::Connection;

const LONG: Duration = Duration::from_secs(60);
/// No sweep takes this long.
const BOUND: Duration = Duration::from_secs(900);

/// A kind of work for a sweep: the columns and values of its jobs, and what is left of it.
struct Kind {
    name: &'static str,
    columns: &'static str,
    values: &'static str,
    left: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "due",
        columns: "state, due",
        values: "1, 1",
        left: "state = 1",
    },
    Kind {
        name: "late",
        columns: "begins_by",
        values: "1",
        left: "state = 0",
    },
    Kind {
        name: "expired",
        columns: "state, token, lease_until",
        values: "3, 1, 1",
        left: "state = 3",
    },
    Kind {
        name: "ended",
        columns: "state, remove_at",
        values: "5, 1",
        left: "state = 5",
    },
    Kind {
        name: "purged",
        columns: "priority",
        values: "0",
        left: "state = 0",
    },
    Kind {
        name: "cancelled",
        columns: "dependent, place",
        values: "2000000, i",
        left: "state = 0",
    },
];

fn prepare(path: &Path, kind: &Kind, jobs: usize) {
    let file = Connection::open(path).unwrap();
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {jobs})
         INSERT INTO brigade_jobs (queue, payload, {}) SELECT 'swept', '1', {} FROM n",
        kind.columns, kind.values
    );
    file.execute_batch(&sql).unwrap();
    if kind.name == "cancelled" {
        // The job that all of them belong to.
        let sql = "INSERT INTO brigade_jobs (id, queue, payload, state, parents, parents_left, dependent_kind) \
            VALUES (2000000, 'swept', '[]', 2, ?1, ?1, 'then')";
        file.execute(sql, [jobs]).unwrap();
    }
    // What is measured is the sweep, and not what is left of this.
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

async fn sweep(broker: &Broker, kind: &Kind) {
    match kind.name {
        "purged" => drop(broker.queue("swept").purge().await.unwrap()),
        "cancelled" => drop(
            broker
                .cancel(&brigade::JobId::new("2000000"), "enough")
                .await
                .unwrap(),
        ),
        _ => assert!(
            broker
                .queue("idle")
                .lease(LONG, Duration::ZERO)
                .await
                .unwrap()
                .is_none()
        ),
    }
}

/// Times that were measured while a sweep ran.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    /// The one in the middle and the longest.
    fn told(&mut self) -> String {
        self.0.sort_unstable();
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        let longest = self.0.last().copied().unwrap_or_default();
        format!("median {median:.1?}, longest {longest:.1?}")
    }
}

/// Does something again and again, on a thread of its own, until it is stopped.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Times>,
}

impl Probe {
    fn start(mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&stop);
        let run = move || {
            let mut times = Times::default();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                act();
                times.0.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(3));
            }
            times
        };
        Self {
            stop,
            thread: std::thread::spawn(run),
        }
    }

    /// How long it takes to get the lock, as another program does: nothing is written.
    fn of_lock(path: &Path) -> Self {
        let mut file = Connection::open(path).unwrap();
        let wait = |_| {
            std::thread::sleep(Duration::from_millis(1));
            true
        };
        file.busy_handler(Some(wait)).unwrap();
        Self::start(move || file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap())
    }

    /// How long the disk takes to sync a page of a file that nothing else uses.
    fn of_disk(path: &Path) -> Self {
        let mut file = std::fs::File::create(path).unwrap();
        Self::start(move || {
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
        })
    }

    fn stop(self) -> Times {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Pushes over and over until the sweep has come to its end.
async fn push_meanwhile(other: &Broker, kind: &Kind, sweeping: impl Future<Output = ()>) -> Times {
    let sweeping = tokio::time::timeout(BOUND, sweeping);
    let mut sweeping = std::pin::pin!(sweeping);
    let mut pushes = Times::default();
    loop {
        let pushing = Instant::now();
        let queue = other.queue("other");
        tokio::select! {
            swept = &mut sweeping => {
                swept.expect("it comes to an end");
                return pushes;
            }
            pushed = queue.push(&1) => drop(pushed.unwrap_or_else(|error| panic!("{}: {error}", kind.name))),
        }
        pushes.0.push(pushing.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_of_others_get_through_while_a_great_many_jobs_are_swept() {
    let jobs = brigade_testkit::count(6_000, 1_000_000);
    for kind in &KINDS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.db");
        let url = format!("sqlite:{}", path.display());
        let (sweeper, other) = (
            Broker::connect(&url).await.unwrap(),
            Broker::connect(&url).await.unwrap(),
        );
        prepare(&path, kind, jobs);
        let probes = brigade_testkit::full().then(|| {
            let disk = Probe::of_disk(&directory.path().join("page"));
            (Probe::of_lock(&path), disk)
        });
        let began = Instant::now();
        let mut pushes = push_meanwhile(&other, kind, sweep(&sweeper, kind)).await;
        println!(
            "{jobs} {}: {:.1?}; {} pushes meanwhile: {}",
            kind.name,
            began.elapsed(),
            pushes.0.len(),
            pushes.told()
        );
        if let Some((lock, disk)) = probes {
            println!(
                "    wait for the lock alone: {}; a sync of the disk alone: {}",
                lock.stop().told(),
                disk.stop().told()
            );
        }
        assert!(
            pushes.0.len() > 3,
            "{}: others came between the steps",
            kind.name
        );
        let file = Connection::open(&path).unwrap();
        let left = |queue: &str, filter: &str| {
            let sql =
                format!("SELECT count(*) FROM brigade_jobs WHERE queue = '{queue}' AND {filter}");
            file.query_row(&sql, [], |row| row.get::<_, usize>(0))
                .unwrap()
        };
        assert_eq!(left("swept", kind.left), 0, "{}", kind.name);
        // The last one was not waited for.
        assert!(
            (pushes.0.len()..=pushes.0.len() + 1).contains(&left("other", "1")),
            "each push is there"
        );
    }
}

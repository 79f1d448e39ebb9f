//! What no user of the API can see: how many rows a step touches, and how many statements a look
//! takes.

use std::cell::Cell;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::budget::SWEEP_ROWS;
use super::config::{Safety, SqliteConfig};
use super::db_thread::DbThread;
use super::hand_out::HandedOut;
use super::operation::{OperationAccess, Synced};
use super::sql_error::sql_error;
use super::*;
use brigade_core::store::{Disposition, QueueSet, Queues};

mod long_flows;
mod long_looks;
mod plans;
mod tables;

thread_local! {
    static STATEMENTS: Cell<usize> = const { Cell::new(0) };
    static STEPS: Cell<i32> = const { Cell::new(0) };
}

/// Called for each statement of this thread's connection that gives rows: counts the steps of
/// SQLite's machine.
pub(super) fn count_steps(statement: &rusqlite::Statement<'_>) {
    let steps = statement.reset_status(rusqlite::StatementStatus::VmStep);
    STEPS.set(STEPS.get() + steps);
}

/// Called for each statement of this thread's connection.
pub(super) fn count_statement() {
    STATEMENTS.set(STATEMENTS.get() + 1);
}

const WRITE: OperationAccess = OperationAccess::Write(Synced::Later);

struct TestFile {
    thread: DbThread,
    _directory: tempfile::TempDir,
}

impl TestFile {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = SqliteConfig {
            path: Some(directory.path().join("jobs.db")),
            link: None,
            safety: Safety::Normal,
            shared: false,
        };
        Self {
            thread: DbThread::open(config, Clock::default()).await.unwrap(),
            _directory: directory,
        }
    }

    async fn run<R: Send + 'static>(
        &self,
        what: impl Fn(&Store<'_>) -> Result<R, Error> + Send + 'static,
    ) -> R {
        self.thread.run(WRITE, what).await.unwrap()
    }

    /// One step; whether more is left.
    async fn sweep(&self) -> bool {
        self.run(|store| store.sweep()).await
    }

    /// Runs SQL as another program would.
    async fn sql(&self, sql: &'static str) {
        self.run(move |store| {
            store
                .connection
                .execute_batch(sql)
                .map_err(|e| sql_error("prepare a test", e))
        })
        .await;
    }

    async fn count(&self, filter: &'static str) -> usize {
        let sql = format!("SELECT count(*) FROM brigade_jobs WHERE {filter}");
        self.run(move |store| store.row("count", &sql, &[], |row| row.get::<_, usize>(0)))
            .await
            .unwrap()
    }
}

/// Inserts so many jobs more than one step takes, with these columns in addition.
const MANY: usize = 2 * SWEEP_ROWS + 100;

fn insert(columns: &str, values: &str) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
         INSERT INTO brigade_jobs (queue, payload, {columns}) SELECT 'q', '1', {values} FROM n"
    )
}

#[tokio::test]
async fn no_step_of_a_sweep_touches_more_rows_than_it_may_and_the_last_finds_nothing() {
    for (columns, values, left) in [
        ("state, due", "1, 1", "state = 1"),
        ("begins_by", "1", "state = 0"),
        ("state, lease_until, token", "3, 1, 1", "state = 3"),
        ("state, remove_at", "5, 1", "state = 5"),
    ] {
        let opened = TestFile::new().await;
        let insert: &'static str = insert(columns, values).leak();
        opened.sql(insert).await;
        for step in 1.. {
            let (before, more) = (opened.count(left).await, opened.sweep().await);
            let touched = before - opened.count(left).await;
            assert!(
                touched <= SWEEP_ROWS && (touched > 0 || before == 0),
                "{columns}: {touched}"
            );
            if !more {
                assert_eq!(opened.count(left).await, 0, "{columns}");
                break;
            }
            assert!(step < 100, "{columns}: it never ends");
        }
    }
}

#[tokio::test]
async fn one_process_sweeps_at_a_time_and_one_that_stopped_holds_up_nobody() {
    let opened = TestFile::new().await;
    let insert: &'static str = insert("state, due", "1, 1").leak();
    opened.sql(insert).await;
    let claim = |ahead: i64| {
        move |store: &Store<'_>| {
            let claim = format!("12-34-56-78-90 {}", store.now.boot + ahead);
            store.execute(
                "claim",
                "INSERT OR REPLACE INTO brigade_facts VALUES ('sweeper', ?1)",
                &[&claim],
            )
        }
    };
    opened.run(claim(500)).await;
    assert!(!opened.sweep().await);
    assert_eq!(opened.count("state = 1").await, MANY);
    opened.run(claim(-1)).await;
    assert!(opened.sweep().await);
    let left = opened.count("state = 1").await;
    assert!((MANY - SWEEP_ROWS..MANY).contains(&left), "{left}");
}

#[tokio::test]
async fn a_job_that_is_too_late_is_not_handed_out_before_the_sweep_has_come_to_it() {
    let opened = TestFile::new().await;
    let insert: &'static str = insert("begins_by", "1").leak();
    opened.sql(insert).await;
    opened
        .sql("INSERT INTO brigade_jobs (queue, payload) VALUES ('q', '\"good\"')")
        .await;
    let ask = ask(Queues::one("q"), 1);
    let leased = loop {
        let came = opened
            .run({
                let ask = Arc::clone(&ask);
                move |store| store.lease(&ask)
            })
            .await;
        match came.leased.first() {
            Some(leased) => break leased.job.payload.clone(),
            None => assert!(came.again_in.is_some(), "there is more behind them"),
        }
    };
    assert_eq!(&*leased, "\"good\"");
    assert_eq!(
        opened
            .count("state = 6 AND reason LIKE 'no attempt began%'")
            .await,
        MANY
    );
}

fn ask(queues: Queues, max: usize) -> Arc<LeaseRequest> {
    let mode = DeliveryMode::Lease(Duration::from_secs(60));
    Arc::new(LeaseRequest {
        queues,
        max,
        mode,
        wait: Duration::ZERO,
        enough: CancellationToken::new(),
    })
}

/// What came, and how many statements that took.
async fn counted(
    opened: &TestFile,
    access: OperationAccess,
    ask: &Arc<LeaseRequest>,
) -> (HandedOut, usize) {
    let ask = Arc::clone(ask);
    let lease = move |store: &Store<'_>| {
        let before = STATEMENTS.get();
        let came = store.lease(&ask)?;
        Ok((came, STATEMENTS.get() - before))
    };
    opened.thread.run(access, lease).await.unwrap()
}

#[tokio::test]
async fn ten_thousand_queues_cost_a_bounded_number_of_statements() {
    const QUEUES: usize = 10_000;
    let opened = TestFile::new().await;
    let names = (0..QUEUES).map(|number| Box::from(format!("tenant-{number:05}")));
    let set = Arc::new(QueueSet::new([], names));
    let looks = OperationAccess::HandOut {
        sync: Synced::Later,
        looks_first: true,
        at_once: false,
    };
    let idle = ask(Queues::from(&set, 0), 8);
    counted(&opened, looks, &idle).await;
    let changes = opened
        .run(|store| Ok(store.connection.total_changes()))
        .await;
    for _ in 0..3 {
        let (came, statements) = counted(&opened, looks, &idle).await;
        assert!(came.leased.is_empty() && statements <= 8, "{statements}");
    }
    assert_eq!(
        opened
            .run(|store| Ok(store.connection.total_changes()))
            .await,
        changes,
        "an idle look writes nothing"
    );

    // One of them has a job.
    opened
        .sql("INSERT INTO brigade_jobs (queue, payload) VALUES ('tenant-07777', '1')")
        .await;
    let (came, statements) = counted(&opened, looks, &idle).await;
    assert_eq!(came.leased.len(), 1);
    assert!(statements <= 150, "{statements}");

    // All of them have one, and so have as many that are not asked for.
    opened
        .sql(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
              INSERT INTO brigade_jobs (queue, payload) SELECT printf('tenant-%05d', i), '2' FROM n
              UNION ALL SELECT printf('stranger-%05d', i), '3' FROM n",
        )
        .await;
    let (came, statements) = counted(&opened, looks, &ask(Queues::from(&set, 5000), 8)).await;
    assert_eq!(
        came.leased.iter().map(|leased| &*leased.job.queue).next(),
        Some("tenant-05000")
    );
    assert!(came.leased.len() == 8 && statements <= 150, "{statements}");
    // The same where those that come first have none.
    opened
        .sql(
            "DELETE FROM brigade_jobs WHERE queue < 'tenant-09990' AND state = 0 AND queue > \
        'tenant'",
        )
        .await;
    let (came, statements) = counted(&opened, looks, &idle).await;
    assert_eq!(
        came.leased.iter().map(|leased| &*leased.job.queue).next(),
        Some("tenant-09990")
    );
    assert!(came.leased.len() == 8 && statements <= 150, "{statements}");
}

#[tokio::test]
async fn a_settlement_that_fails_holds_up_no_other() {
    let opened = TestFile::new().await;
    opened
        .sql(
            "INSERT INTO brigade_jobs (queue, payload) VALUES ('q', '1'), ('q', '\"bad\"'), \
        ('q', '3')",
        )
        .await;
    let (came, _) = counted(&opened, WRITE, &ask(Queues::one("q"), 3)).await;
    opened
        .sql(
            "CREATE TRIGGER bad BEFORE DELETE ON brigade_jobs WHEN OLD.payload = '\"bad\"' BEGIN \
            SELECT RAISE(ABORT, 'not this one'); END",
        )
        .await;
    let settlement = |leased: &Leased| {
        Arc::new(Settlement {
            id: leased.id.clone(),
            token: leased.token,
            disposition: Disposition::ack(None),
            answer: None,
        })
    };
    let settlements: Vec<Arc<Settlement>> = came.leased.iter().map(settlement).collect();
    let answers = opened
        .run(move |store| store.settle_all(&settlements))
        .await;
    let accepted: Vec<bool> = answers
        .iter()
        .map(|answer| matches!(answer, Ok(Settled::Accepted(None))))
        .collect();
    assert_eq!(accepted, [true, false, true]);
    assert_eq!(opened.count("1").await, 1);
    let all = StatisticsFilter {
        summed: true,
        ..StatisticsFilter::default()
    };
    let counted = opened.run(move |store| store.statistics(&all)).await;
    let counts = &counted[0].counts;
    assert_eq!(
        (counts.done, counts.run.count()),
        (2, 2),
        "and counts as nothing"
    );
}

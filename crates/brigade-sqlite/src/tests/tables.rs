//! The tables of statistics and events stay bounded, whatever is written to them.

use super::*;

/// How many rows there are.
async fn rows(opened: &TestFile, of: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {of}");
    let count = opened.run(move |store| store.row("count", &sql, &[], |row| row.get::<_, i64>(0)));
    count.await.unwrap()
}

#[tokio::test]
async fn statistics_of_very_many_queues_push_out_the_oldest() {
    let opened = TestFile::new().await;
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 203000)
        INSERT INTO brigade_statistics (queue, minute, task) SELECT 'queue-' || i, 1000000, '' \
        FROM n";
    opened.sql(insert).await;
    let kept = rows(&opened, "brigade_statistics").await;
    assert!((200_000..200_200).contains(&kept), "{kept}");
    let first = rows(&opened, "brigade_statistics WHERE queue = 'queue-1'").await;
    assert_eq!(first, 0);
    // A day later.
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 80000)
        INSERT INTO brigade_statistics (queue, minute, task) SELECT 'queue-' || i, 1001500, '' \
        FROM n";
    opened.sql(insert).await;
    let kept = rows(&opened, "brigade_statistics").await;
    assert!(kept < 80_200, "{kept}");
}

#[tokio::test]
async fn old_events_are_removed_as_new_ones_come() {
    let opened = TestFile::new().await;
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 65000)
        INSERT INTO brigade_events (at, job, queue, kind, state, attempt) SELECT 0, i, 'q', \
        'pushed', 0, 0 FROM n";
    opened.sql(insert).await;
    let kept = rows(&opened, "brigade_events").await;
    assert!((20_000..=20_500).contains(&kept), "{kept}");
    assert_eq!(rows(&opened, "brigade_events WHERE seq = 65000").await, 1);
}

#[tokio::test]
async fn jobs_are_counted_in_few_statements_and_recorded_only_on_request() {
    let opened = TestFile::new().await;
    let push = |count: usize| {
        move |store: &Store<'_>| {
            let jobs: Vec<Job> = (0..count).map(|_| Job::new("q", None, "1")).collect();
            let before = STATEMENTS.get();
            store.push_all(&jobs)?;
            store.write_counted()?;
            Ok(STATEMENTS.get() - before)
        }
    };
    // One stores each job. One looks whether another connection has changed something, one whether
    // events are read, one reads the statistics, and one writes them.
    assert_eq!(opened.run(push(100)).await, 104);
    assert_eq!(opened.run(push(100)).await, 103);
    // What was read need not be read again.
    assert_eq!(opened.run(push(1)).await, 3);
    assert_eq!(rows(&opened, "brigade_events").await, 0);
}

//! What a look reads: no more than its page, or its part of an index, whatever else is in the file.

use super::super::counts::{ALL_DEAD, COUNTS};
use super::*;

/// Jobs of the file, and of one page.
const JOBS: i32 = 100_000;
const PAGE: usize = 100;

/// Jobs of ten queues in all states, of which most are ready and dead.
async fn many_jobs() -> TestFile {
    let opened = TestFile::new().await;
    let insert: &'static str = format!(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS} - 1)
         INSERT INTO brigade_jobs (counted, queue, payload, task, state, due, priority, \
         lease_until, token, key, reason, history)
         SELECT 1, 'queue-' || (i % 10), '\"' || i || '\"', 'task', CASE WHEN i % 1000 < 8 THEN i \
         % 8 WHEN i % 20 < 10 THEN 0 ELSE 6 END, 1 << 60, i % 3, iif(i % 1000 = 3, 1 << 60, NULL), \
         1, iif(i % 1000 = 2, 'key', NULL), 'job ' || i || ' broke', '[]' FROM n"
    )
    .leak();
    opened.sql(insert).await;
    opened
}

/// What a look gives, and how many steps of SQLite's machine it took.
async fn steps<R: Send + 'static>(
    opened: &TestFile,
    look: impl Fn(&Store<'_>) -> Result<R, Error> + Send + 'static,
) -> (R, i32) {
    let look = move |store: &Store<'_>| {
        STEPS.set(0);
        let seen = look(store)?;
        Ok((seen, STEPS.get()))
    };
    let looked = opened.thread.run(OperationAccess::Look, look).await;
    looked.unwrap()
}

#[tokio::test]
async fn a_page_costs_little_wherever_it_begins() {
    let opened = many_jobs().await;
    for state in JobState::ALL.into_iter().map(Some).chain([None]) {
        for queue in [None, Some("queue-1"), Some("queue-3"), Some("none")] {
            for (newest_first, begin) in [0, JOBS / 2, JOBS - 150]
                .into_iter()
                .flat_map(|begin| [(false, begin), (true, JOBS - begin)])
            {
                let filter = JobFilter {
                    queue: queue.map(Into::into),
                    state,
                    newest_first,
                    after: Some(JobId::new(begin.to_string())),
                    limit: PAGE,
                    ..JobFilter::default()
                };
                let shown = format!("{filter:?}");
                let (_, steps) = steps(&opened, move |store| store.jobs(&filter)).await;
                // A scan of an index would be several steps for each job.
                assert!(steps < JOBS / 2, "{steps} steps for {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_a_filter_that_reads_jobs_reads_no_more_than_it_may() {
    let opened = many_jobs().await;
    for queue in [None, Some("queue-1")] {
        let filter = JobFilter {
            queue: queue.map(Into::into),
            text: Some("nowhere".into()),
            limit: PAGE,
            ..JobFilter::default()
        };
        let (page, steps) = steps(&opened, move |store| store.jobs(&filter)).await;
        assert!(page.jobs.is_empty());
        let most = i32::try_from(JobFilter::READ_MAX).unwrap() * 50;
        assert!(steps < most, "{steps} steps");
    }
}

#[tokio::test]
async fn counts_and_groups_read_indexes_and_not_the_table() {
    let opened = many_jobs().await;
    let (counts, taken) = steps(&opened, |store| store.counts()).await;
    assert_eq!(counts.len(), 10);
    assert!(taken < 12 * JOBS, "{taken} steps");
    let (groups, taken) = steps(&opened, |store| store.dead_groups(None)).await;
    let dead: u64 = groups.iter().map(|group| group.count).sum();
    assert_eq!(dead, opened.count("state = 6").await as u64);
    assert!(taken < 40 * JOBS, "{taken} steps");
    for sql in COUNTS.into_iter().chain([ALL_DEAD]) {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = opened
            .run(move |store| store.rows("explain", &explain, &[], |row| row.get::<_, String>(3)))
            .await;
        let has = |what: &str| plan.iter().any(|line| line.contains(what));
        assert!(has("INDEX brigade_jobs_"), "{plan:?}");
        // There are few leases.
        let are_few = sql.contains("brigade_jobs_leased");
        assert!(!has("TEMP B-TREE") || are_few, "{plan:?}");
    }
}

#[tokio::test]
async fn very_many_reasons_are_few_groups_that_add_up() {
    let opened = TestFile::new().await;
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
        INSERT INTO brigade_jobs (counted, queue, payload, state, reason) SELECT 1, 'q', '1', 6, \
        iif(i % 2, 'often', replace(hex(i), '3', 'x') || char(97 + i % 26) || hex(randomblob(4))) \
        FROM n";
    opened.sql(insert).await;
    let groups = opened.run(|store| store.dead_groups(None)).await;
    assert!(
        groups.len() <= DeadGroup::GROUPS_MAX + 1,
        "{}",
        groups.len()
    );
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 30_000);
    let first: Vec<&str> = groups.iter().take(2).map(|group| &*group.reason).collect();
    assert_eq!(first, ["often", DeadGroup::OTHER_REASONS]);
}

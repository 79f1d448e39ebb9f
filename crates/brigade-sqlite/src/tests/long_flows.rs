//! Flows of very many jobs: each step touches few rows, whichever way the flow goes, and two ways
//! that meet lose no end.
//!
//! The jobs are inserted as rows, and settled, retried and swept as the store does it. What a step
//! touches is counted in rows, not in time.

use super::super::budget::FLOW_STEPS_MAX;
use super::*;
use brigade_core::ErrorKind;

/// A chain of jobs of which the first is leased: (id, state of the others).
const CHAIN: usize = 10_000;

async fn chain() -> TestFile {
    let opened = TestFile::new().await;
    let insert: &'static str = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CHAIN})
         INSERT INTO brigade_jobs (id, queue, payload, state, token, lease_until, dependent, place, \
         dependent_kind, parents, parents_left)
         SELECT i, 'q', '1', iif(i = 1, 3, 2), 1, 1 << 60, iif(i < {CHAIN}, i + 1, NULL), 0, \
         CASE i WHEN 1 THEN NULL WHEN {CHAIN} THEN 'finally' ELSE 'then' END, i > 1, i > 1 FROM n"
    )
    .leak();
    opened.sql(insert).await;
    opened
}

/// Settles the first job of a chain as a dead letter.
fn fail_the_first(store: &Store<'_>) -> Result<(), Error> {
    let settlement = Arc::new(Settlement {
        id: JobId::new("1"),
        token: 1,
        disposition: Disposition::DeadLetter("broken".to_owned()),
        answer: None,
    });
    let answers = store.settle_all(&[settlement])?;
    assert!(matches!(answers[0], Ok(Settled::Accepted(None))));
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_long_chain_is_settled_in_steps_that_are_short() {
    let opened = chain().await;
    opened.run(fail_the_first).await;
    for step in 1.. {
        let (before, more) = (opened.count("state = 2").await, opened.sweep().await);
        let touched = before - opened.count("state = 2").await;
        assert!(touched <= SWEEP_ROWS + FLOW_STEPS_MAX, "{touched}");
        if !more {
            break;
        }
        assert!(step < CHAIN, "it never ends");
    }
    let not_run = "state = 6 AND reason = 'not run: job 1 before it is dead: broken'";
    assert_eq!(opened.count(not_run).await, CHAIN - 2);
    assert_eq!(opened.count("state = 0 AND id = 10000").await, 1);
}

#[tokio::test]
async fn a_retry_before_the_whole_chain_knows_of_the_end_leaves_no_job_behind() {
    let opened = chain().await;
    opened.run(fail_the_first).await;
    assert!(opened.sweep().await, "there is more to do");
    let retry = |store: &Store<'_>| store.retry(&JobId::new("1"), &Edit::default());
    assert!(opened.run(retry).await.is_some());
    while opened.sweep().await {}
    assert_eq!(opened.count("state = 0 AND id = 1").await, 1);
    let waits = "state = 2 AND parents_left = 1 AND missed = 0";
    assert_eq!(opened.count(waits).await, CHAIN - 1);
}

async fn failed_chain() -> TestFile {
    let opened = chain().await;
    opened.run(fail_the_first).await;
    while opened.sweep().await {}
    opened
}

async fn retry_the_first(opened: &TestFile) {
    let retry = |store: &Store<'_>| store.retry(&JobId::new("1"), &Edit::default());
    assert!(opened.run(retry).await.is_some());
}

/// The job behind which ends are left to take back.
async fn noted(opened: &TestFile) -> usize {
    let sql = "SELECT job FROM brigade_flow_retries";
    let noted = opened.run(move |store| store.row("look", sql, &[], |row| row.get(0)));
    noted.await.unwrap()
}

const WAITS: &str = "state = 2 AND parents_left = 1 AND missed = 0 AND reason IS NULL";

#[tokio::test]
async fn the_retry_of_a_long_chain_is_done_in_steps_that_are_short() {
    let opened = failed_chain().await;
    retry_the_first(&opened).await;
    assert!(opened.count("state = 2").await <= FLOW_STEPS_MAX + 1);
    for step in 1.. {
        let before = opened.count("state = 2").await;
        let end = opened.run(|store| store.retry_step()).await;
        let touched = opened.count("state = 2").await - before;
        assert!(touched <= SWEEP_ROWS, "{touched}");
        if end.is_break() {
            break;
        }
        assert!(step < CHAIN, "it never ends");
    }
    // The last one runs in any case: it did.
    assert_eq!(opened.count(WAITS).await, CHAIN - 2);
    assert_eq!(opened.count("state = 0").await, 2);
}

#[tokio::test]
async fn a_retry_whose_caller_is_gone_is_completed_by_the_sweep() {
    let opened = failed_chain().await;
    retry_the_first(&opened).await;
    let is_unfinished = || opened.run(|store| store.has_unfinished_flows());
    assert!(is_unfinished().await, "looks wait for it");
    while opened.sweep().await {}
    assert!(!is_unfinished().await);
    assert_eq!(opened.count(WAITS).await, CHAIN - 2);
}

#[tokio::test]
async fn a_flow_that_overtakes_its_retry_goes_on() {
    let opened = failed_chain().await;
    retry_the_first(&opened).await;
    let last = noted(&opened).await;
    // All up to there are done.
    opened
        .run(move |store| {
            let lease = "UPDATE brigade_jobs SET state = 3, parents_left = 0, token = 1, lease_until = \
                1 << 60 WHERE id = ?1";
            store.execute("lease", lease, &[&last])?;
            let settlement = Settlement {
                id: JobId::new(last.to_string()),
                token: 1,
                disposition: Disposition::ack(None),
                answer: None,
            };
            store.settle_all(&[Arc::new(settlement)])
        })
        .await;
    let next = format!("state = 0 AND id = {}", last + 1).leak();
    assert_eq!(opened.count(next).await, 1);
    while opened.sweep().await {}
    assert_eq!(opened.count(next).await, 1);
    let behind = format!("{WAITS} AND id > {}", last + 1).leak();
    assert_eq!(opened.count(behind).await, CHAIN - 2 - last);
}

#[tokio::test]
async fn a_chain_that_fails_again_during_its_retry_is_not_run_as_a_whole() {
    let opened = failed_chain().await;
    retry_the_first(&opened).await;
    opened
        .sql("UPDATE brigade_jobs SET state = 3, token = 1, lease_until = 1 << 60 WHERE id = 1")
        .await;
    opened.run(fail_the_first).await;
    while opened.sweep().await {}
    let not_run =
        "state = 6 AND missed = 1 AND reason = 'not run: job 1 before it is dead: broken'";
    assert_eq!(opened.count(not_run).await, CHAIN - 2);
    retry_the_first(&opened).await;
    while opened.sweep().await {}
    assert_eq!(opened.count(WAITS).await, CHAIN - 2);
}

#[tokio::test]
async fn a_unique_key_that_another_job_has_stops_a_retry_only_near_its_beginning() {
    for (id, is_near) in [(50, true), (5000, false)] {
        let opened = failed_chain().await;
        opened
            .run(move |store| {
                let sql = "UPDATE brigade_jobs SET unique_key = 'one' WHERE id = ?1";
                store.execute("give a key", sql, &[&id])
            })
            .await;
        opened
            .sql("INSERT INTO brigade_jobs (queue, payload, unique_key) VALUES ('q', '2', 'one')")
            .await;
        let retry = |store: &Store<'_>| store.retry(&JobId::new("1"), &Edit::default());
        let retried = opened.thread.run(WRITE, retry).await;
        while opened.sweep().await {}
        match retried {
            Err(error) => {
                assert!(is_near && error.kind() == ErrorKind::Duplicate, "{error}");
                assert_eq!(opened.count(WAITS).await, 0);
            }
            Ok(_) => {
                assert!(!is_near);
                assert_eq!(opened.count(WAITS).await, CHAIN - 2);
                assert_eq!(opened.count("unique_key = 'one'").await, 1);
            }
        }
    }
}

/// Parents of one job.
const PARENTS: usize = 10_000;

/// A job that waits for the last of its parents, which is leased.
async fn fan_in(kind: &str) -> TestFile {
    let opened = TestFile::new().await;
    let insert: &'static str = format!(
        "INSERT INTO brigade_jobs (id, queue, payload, state, token, lease_until, dependent, place)
         VALUES (1, 'q', '1', 3, 1, 1 << 60, 2, {PARENTS} / 2);
         INSERT INTO brigade_jobs (id, queue, payload, state, dependent_kind, parents, parents_left)
         VALUES (2, 'q', '[\"own\"]', 2, '{kind}', {PARENTS}, 1);
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {PARENTS} - 1)
         INSERT INTO brigade_parent_results (job, place, result) SELECT 2, i, iif(i % 10, i, NULL) \
         FROM n WHERE i <> {PARENTS} / 2"
    )
    .leak();
    opened.sql(insert).await;
    opened
}

/// What the parents of a [`fan_in`] leave, as JSON.
fn results() -> String {
    let result = |place: usize| match place {
        _ if place == PARENTS / 2 => "\"last\"".to_owned(),
        _ if place.is_multiple_of(10) => "null".to_owned(),
        _ => place.to_string(),
    };
    let results: Vec<String> = (0..PARENTS).map(result).collect();
    format!("[{}]", results.join(","))
}

fn end_the_last_parent(store: &Store<'_>) -> Result<(), Error> {
    let settlement = Arc::new(Settlement {
        id: JobId::new("1"),
        token: 1,
        disposition: Disposition::ack(Some("\"last\"".into())),
        answer: None,
    });
    let answers = store.settle_all(&[settlement])?;
    assert!(matches!(answers[0], Ok(Settled::Accepted(None))));
    Ok(())
}

async fn changes(opened: &TestFile) -> usize {
    let changes = opened.run(|store| Ok(store.connection.total_changes()));
    usize::try_from(changes.await).unwrap()
}

async fn left(opened: &TestFile) -> usize {
    let sql = "SELECT count(*) FROM brigade_parent_results";
    let left = opened.run(move |store| store.row("count", sql, &[], |row| row.get(0)));
    left.await.unwrap()
}

/// Sweeps to the end; no step changes more rows than it may.
async fn sweep_in_short_steps(opened: &TestFile) -> usize {
    for step in 1..PARENTS {
        let (before, more) = (changes(opened).await, opened.sweep().await);
        let changed = changes(opened).await - before;
        assert!(changed <= 2 * SWEEP_ROWS, "{changed}");
        if !more {
            return step;
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn very_many_results_are_gathered_in_steps_that_are_short() {
    for (kind, payload) in [
        ("collect", format!("[{},\"own\"]", results())),
        ("barrier", results()),
    ] {
        let opened = fan_in(kind).await;
        let before = changes(&opened).await;
        opened.run(end_the_last_parent).await;
        assert!(changes(&opened).await - before < 20);
        assert!(
            opened.run(|store| store.has_unfinished_flows()).await,
            "looks wait for it"
        );
        let steps = sweep_in_short_steps(&opened).await;
        assert!(steps >= PARENTS / SWEEP_ROWS / 2, "{steps}");
        let sql = "SELECT coalesce(result, payload) FROM brigade_jobs WHERE id = 2";
        let text = opened.run(move |store| store.row("look", sql, &[], |row| row.get(0)));
        let text: String = text.await.unwrap_or_else(|| "removed".to_owned());
        assert_eq!(text, payload, "{kind}");
        assert_eq!(left(&opened).await, 0);
        let state = if kind == "barrier" {
            "state = 5"
        } else {
            "state = 0 AND parents_left = 0"
        };
        assert_eq!(opened.count(state).await, 1);
    }
}

#[tokio::test]
async fn very_many_results_of_a_job_that_is_cancelled_are_removed_in_steps() {
    for begun in [false, true] {
        let opened = fan_in("collect").await;
        if begun {
            opened.run(end_the_last_parent).await;
            assert!(opened.sweep().await);
        }
        let before = changes(&opened).await;
        opened
            .run(|store| store.cancel(&JobId::new("2"), "enough"))
            .await;
        assert!(changes(&opened).await - before <= 2 * SWEEP_ROWS);
        sweep_in_short_steps(&opened).await;
        assert_eq!(left(&opened).await, 0);
        assert_eq!(opened.count("state = 7").await, 1);
    }
}

//! What is SQLite's own: the file, other programs that write to it, other processes.

use std::time::Duration;

use brigade::sqlite::{PushIn as _, SqlTransaction, SqlValue};
use brigade::{
    Broker, ErrorKind, EventRequest, JobEventKind, JobState, Level, Limits, MinuteCounts, Schedule,
    StatisticsFilter,
};
use rusqlite::Connection;

use super::subject;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn other_programs_may_insert_and_nonsense_goes_to_the_dead_letters() {
    let subject = subject().await;
    let queue = subject.broker.queue("q");
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(
        r#"INSERT INTO brigade_jobs (queue, payload) VALUES ('q', '{"n":1}'), ('q', '{"n":'), ('q', '{"n":2}');
           INSERT INTO brigade_jobs (queue, payload, options) VALUES ('q', '3', 'what');"#,
    )
    .unwrap();
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), r#"{"n":1}"#);
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), r#"{"n":2}"#);
    assert!(queue.take(NOW).await.unwrap().is_none());
    let dead = subject
        .broker
        .jobs(None, Some(JobState::Dead), None, 10)
        .await
        .unwrap();
    let reasons: Vec<_> = dead
        .iter()
        .filter_map(|job| job.reason.as_deref())
        .collect();
    assert!(
        reasons[0].starts_with("its payload is not JSON")
            && reasons[1].starts_with("its options cannot be read"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn jobs_of_other_programs_are_counted_and_recorded_as_pushed() {
    let subject = subject().await;
    let broker = &subject.broker;
    let begin = broker.events(EventRequest::default()).await.unwrap();
    let mut file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(
        "INSERT OR FAIL INTO brigade_jobs (queue, payload) VALUES ('q', '1'), ('q', '2');
         INSERT INTO brigade_jobs (queue, payload, task, key) VALUES ('q', '3', 't', 'k'), ('q', \
         '4', 't', 'k');
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
         INSERT INTO brigade_jobs (queue, payload, task) SELECT 'many', '5', 'task ' || i FROM n;",
    )
    .unwrap();
    let transaction = file.transaction().unwrap();
    let job = broker.queue("q").job(&6).unwrap();
    job.push_in(Tx(&transaction)).unwrap();
    transaction.commit().unwrap();
    let all = StatisticsFilter {
        summed: true,
        ..StatisticsFilter::default()
    };
    let counted = broker.statistics(all).await.unwrap();
    let pushed = |queue: &str, task: Option<&str>| {
        let of = |sum: &&MinuteCounts| sum.queue == queue && sum.task.as_deref() == task;
        counted.iter().find(of).map(|sum| sum.counts.pushed)
    };
    assert_eq!(
        (pushed("q", None), pushed("q", Some("t"))),
        (Some(3), Some(2))
    );
    let many = counted.iter().filter(|sum| sum.queue == "many");
    assert_eq!(many.map(|sum| sum.counts.pushed).sum::<u64>(), 150);
    let request = EventRequest {
        after: Some(begin.next),
        queue: Some("q".into()),
        max: 100,
        ..EventRequest::default()
    };
    let events = broker.events(request).await.unwrap().events;
    let states: Vec<JobState> = events.iter().map(|event| event.state).collect();
    let (ready, blocked) = (JobState::Ready, JobState::Blocked);
    assert_eq!(states, [ready, ready, ready, blocked, ready]);
    assert!(
        events
            .iter()
            .all(|event| event.kind == JobEventKind::Pushed)
    );
}

#[tokio::test]
async fn nothing_is_left_of_what_a_flow_gathered() {
    let subject = subject().await;
    let queue = subject.broker.queue("q");
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    let gathered = || {
        file.query_row("SELECT count(*) FROM brigade_parent_results", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap()
    };
    for ending in ["done", "cancelled", "removed", "dead and removed"] {
        let job = || queue.job(&serde_json::json!([])).unwrap();
        let flow = subject
            .broker
            .push_flow(brigade::Group::new([job(), job()]).collect_job(job()))
            .await
            .unwrap();
        queue
            .lease(LONG, NOW)
            .await
            .unwrap()
            .unwrap()
            .ack_with(&1)
            .await
            .unwrap();
        assert_eq!(gathered(), 1, "{ending}");
        match ending {
            "done" => drop(
                queue
                    .lease(LONG, NOW)
                    .await
                    .unwrap()
                    .unwrap()
                    .ack_with(&2)
                    .await
                    .unwrap(),
            ),
            "cancelled" => assert_ne!(
                subject.broker.cancel(flow.last(), "enough").await.unwrap(),
                brigade::CancelOutcome::Nothing
            ),
            "removed" => assert!(subject.broker.delete(flow.last()).await.unwrap()),
            _ => {
                queue
                    .lease(LONG, NOW)
                    .await
                    .unwrap()
                    .unwrap()
                    .dead_letter("odd")
                    .await
                    .unwrap();
                assert_eq!(gathered(), 2);
                assert!(subject.broker.delete(flow.last()).await.unwrap());
            }
        }
        assert_eq!(gathered(), 0, "{ending}");
        queue.purge().await.unwrap();
    }
}

#[tokio::test]
async fn a_foreign_insert_with_a_key_keeps_the_order_of_the_key() {
    let subject = subject().await;
    let queue = subject.broker.queue("q");
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(
        "INSERT INTO brigade_jobs (queue, payload, key) VALUES ('q', '1', 'a'); INSERT INTO \
            brigade_jobs (queue, payload, key) VALUES ('q', '2', 'a');",
    )
    .unwrap();
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert!(queue.take(NOW).await.unwrap().is_none());
    first.ack().await.unwrap();
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "2");
}

#[tokio::test]
async fn another_connection_s_push_wakes_a_waiting_consumer() {
    let subject = subject().await;
    let other = Broker::connect(&subject.url).await.unwrap();
    let waiting = tokio::spawn(async move {
        other
            .queue("q")
            .take(LONG)
            .await
            .unwrap()
            .unwrap()
            .json()
            .to_owned()
    });
    subject.broker.queue("q").push(&5).await.unwrap();
    assert_eq!(waiting.await.unwrap(), "5");
}

#[tokio::test]
async fn jobs_survive_and_leases_of_the_dead_come_back() {
    let subject = subject().await;
    let queue = subject.broker.queue("q");
    let id = queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    // As if the holder had been another process that is gone.
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    for table in ["brigade_jobs", "brigade_holders"] {
        file.execute(
            &format!(
                "UPDATE {table} SET holder = '999999999' || substr(holder, instr(holder, '-'))"
            ),
            [],
        )
        .unwrap();
    }
    let again = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(again.id(), &id);
    assert_eq!(lease.ack().await.unwrap(), brigade::Settled::Stale);
    drop(again);
}

#[tokio::test]
async fn wrong_files_and_urls_are_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite:{}", directory.path().join(name).display());
    let connect = |url: String| async move { Broker::connect(&url).await.unwrap_err() };

    std::fs::write(
        directory.path().join("text.db"),
        "this is not a database, it is a text of some length",
    )
    .unwrap();
    assert_eq!(connect(url("text.db")).await.kind(), ErrorKind::Os);

    let foreign = Connection::open(directory.path().join("foreign.db")).unwrap();
    foreign
        .execute_batch("CREATE TABLE guests (name TEXT)")
        .unwrap();
    let error = connect(url("foreign.db")).await;
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("another program"),
        "{error}"
    );

    let shared = format!("{}?shared=true", url("foreign.db"));
    Broker::connect(&shared)
        .await
        .unwrap()
        .queue("q")
        .push(&1)
        .await
        .unwrap();
    drop(Broker::connect(&url("foreign.db")).await.unwrap());

    drop(Broker::connect(&url("later.db")).await.unwrap());
    Connection::open(directory.path().join("later.db"))
        .unwrap()
        .execute(
            "UPDATE brigade_facts SET value = '99' WHERE name = 'schema'",
            [],
        )
        .unwrap();
    let error = connect(url("later.db")).await;
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("version 99"),
        "{error}"
    );

    let error = connect(url("none/jobs.db")).await;
    let text = format!("{error:?}");
    assert!(text.contains("none; make it first"), "{text}");
    assert_eq!(text.matches("directory").count(), 1, "said once: {text}");
    assert_eq!(text.matches("open").count(), 1, "said once: {text}");
    for bad in [
        "sqlite:",
        "sqlite:x.db?synchronous=off",
        "nats://x",
        "jobs.db",
    ] {
        assert_eq!(
            connect(bad.to_owned()).await.kind(),
            ErrorKind::BadOption,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn many_may_open_a_new_file_at_once() {
    for _ in 0..brigade_testkit::count(20, 500) {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
        let opening: Vec<_> = (0..8)
            .map(|_| url.clone())
            .map(|url| tokio::spawn(async move { Broker::connect(&url).await }))
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_locked_file_is_waited_for_and_then_told() {
    let subject = subject().await;
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = subject.broker.queue("q").push(&1).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Timeout && error.is_retryable(),
        "{error}"
    );
    file.execute_batch("ROLLBACK").unwrap();
    subject.broker.queue("q").push(&1).await.unwrap();
}

/// A transaction of an application that uses rusqlite.
struct Tx<'a>(&'a Connection);

impl SqlTransaction for Tx<'_> {
    fn number(
        &mut self,
        sql: &str,
        parameters: &[SqlValue<'_>],
    ) -> Result<Option<i64>, Box<dyn std::error::Error + Send + Sync>> {
        use rusqlite::types::Value;
        let parameters = parameters.iter().map(|parameter| match parameter {
            SqlValue::Null => Value::Null,
            SqlValue::Integer(number) => Value::Integer(*number),
            SqlValue::Text(text) => Value::Text((*text).to_owned()),
        });
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
        let number = rows.next()?.map(|row| row.get(0)).transpose()?;
        while rows.next()?.is_some() {}
        Ok(number)
    }
}

#[tokio::test]
async fn a_push_within_an_application_s_transaction_holds_if_that_does() {
    let subject = subject().await;
    let queue = subject.broker.queue("q");
    let mut app = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    app.execute_batch("CREATE TABLE customers (name TEXT)")
        .unwrap();
    let job = |n: i32| queue.job(&n).unwrap();
    assert_eq!(
        job(0).push_in(Tx(&app)).unwrap_err().kind(),
        ErrorKind::BadOption,
        "without a transaction"
    );

    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take(LONG).await.unwrap().unwrap().json().to_owned() }
    });
    let transaction = app.transaction().unwrap();
    job(1).push_in(Tx(&transaction)).unwrap();
    transaction.rollback().unwrap();
    let transaction = app.transaction().unwrap();
    transaction
        .execute("INSERT INTO customers VALUES ('Ada')", [])
        .unwrap();
    job(2).push_in(Tx(&transaction)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(waiting.await.unwrap(), "2");

    // All of its options, and a duplicate, as for any other push.
    let transaction = app.transaction().unwrap();
    let unique = || {
        let job = job(4).unique_for("mark", LONG).key("k").priority(3);
        job.delay(LONG).label("late").retries(2)
    };
    let pushed = unique().push_in(Tx(&transaction)).unwrap();
    let again = unique().push_in(Tx(&transaction)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(again, brigade::PushOutcome::Duplicate(pushed.id().clone()));
    let stored = subject.broker.job(pushed.id()).await.unwrap().unwrap();
    assert_eq!(
        (
            stored.state,
            stored.priority,
            stored.key.as_deref(),
            stored.label.as_deref()
        ),
        (JobState::Scheduled, 3, Some("k"), Some("late"))
    );

    let mut other = Connection::open_in_memory().unwrap();
    let transaction = other.transaction().unwrap();
    assert_eq!(
        job(3).push_in(Tx(&transaction)).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[tokio::test]
async fn a_check_finds_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let broker = Broker::connect(&format!("sqlite:{}?synchronous=normal", path.display()))
        .await
        .unwrap();
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    queue
        .lease(LONG, NOW)
        .await
        .unwrap()
        .unwrap()
        .dead_letter("odd")
        .await
        .unwrap();
    broker.queue("lonely").push(&1).await.unwrap();
    broker.queue("paused").push(&1).await.unwrap();
    broker.queue("paused").pause().await.unwrap();
    let findings = broker.check().await.unwrap();
    assert!(
        findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.level)),
        "{findings:?}"
    );
    let found = |level: Level, text: &str| {
        let known = findings
            .iter()
            .any(|finding| finding.level == level && finding.what.contains(text));
        assert!(known, "{text:?} is not in {findings:#?}");
    };
    found(Level::Note, "queue q has 1 dead letter");
    found(Level::Note, "power loss takes the last transactions");
    found(
        Level::Warning,
        "1 job waits in queue lonely, and no consumer",
    );
    found(Level::Warning, "queue paused is paused");
    let memory = Broker::connect("sqlite::memory:")
        .await
        .unwrap()
        .check()
        .await
        .unwrap();
    assert!(memory[0].what.contains("in memory"), "{memory:?}");
}

#[tokio::test]
async fn limits_hold_across_connections_and_a_settlement_wakes_the_other() {
    let subject = subject().await;
    let other = Broker::connect(&subject.url).await.unwrap();
    let (here, there) = (subject.broker.queue("q"), other.queue("q"));
    here.limit(Limits::new().running(1)).await.unwrap();
    here.push(&1).await.unwrap();
    here.push(&2).await.unwrap();
    let lease = here.lease(LONG, NOW).await.unwrap().unwrap();
    assert!(there.lease(LONG, NOW).await.unwrap().is_none());
    let waiting = tokio::spawn(async move {
        there
            .lease(LONG, LONG)
            .await
            .unwrap()
            .unwrap()
            .json()
            .to_owned()
    });
    lease.ack().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "2");
}

#[tokio::test]
async fn a_damaged_schedule_is_put_off_and_holds_up_nobody() {
    let subject = subject().await;
    for name in ["damaged", "good"] {
        let job = subject.broker.queue("q").job(&name).unwrap();
        subject
            .broker
            .schedule(Schedule::every(name, Duration::from_secs(3600), job).unwrap())
            .await
            .unwrap();
    }
    let file = Connection::open(subject.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute(
        "UPDATE brigade_schedules SET plan = '{\"recurrence\":{\"moon\":1}}' WHERE name = \
        'damaged'",
        [],
    )
    .unwrap();
    subject.broker.clock().advance(Duration::from_secs(3600));
    let queue = subject.broker.queue("q");
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "\"good\"");
    assert!(queue.take(NOW).await.unwrap().is_none());
    let put_off = "SELECT next_at - tick BETWEEN 60000 AND 7200000 FROM brigade_schedules WHERE \
        name = 'damaged'";
    assert!(
        file.query_row(put_off, [], |row| row.get::<_, bool>(0))
            .unwrap(),
        "the tick is kept, looking at it waits"
    );
    assert_eq!(subject.broker.schedules().await.unwrap().len(), 1);
    assert!(subject.broker.unschedule("damaged").await.unwrap());
}

//! A foreign transaction holds an old snapshot, so the server cannot remove what jobs leave in its
//! tables and indexes.

use std::time::Duration;

use brigade::{Broker, Settled};
use brigade_testkit::postgres::Postgres;

const LEASE: Duration = Duration::from_secs(600);
const JOBS: usize = 3_000;

/// How many entries of an index a statement reads.
fn entries_of(server: &Postgres, database: &str, index: &str, statement: &str) -> u64 {
    let entries = format!("pg_stat_get_xact_tuples_returned('brigade.{index}'::regclass)");
    let sql = format!("begin; {statement}; select 'read ' || {entries}; rollback;");
    let answer = server.sql_in("postgres", database, &sql).unwrap();
    let read = answer.lines().find_map(|line| line.strip_prefix("read "));
    read.unwrap().parse().unwrap()
}

/// How many entries of the index of ready jobs a hand-out of up to ten jobs reads, from the head of
/// the queue or behind a job.
fn entries_read(server: &Postgres, database: &str, priority: &str, floor: i64) -> u64 {
    let entries = "pg_stat_get_xact_tuples_returned('brigade.jobs_ready'::regclass)";
    let sql = format!(
        "begin; select count(id) from brigade.lease(array['q'], array[{priority}]::integer[], \
            array[{floor}], 10, 60000, null); select {entries}; rollback;"
    );
    let answer = server.sql_in("postgres", database, &sql).unwrap();
    let mut numbers = answer.lines().filter_map(|line| line.trim().parse().ok());
    assert_eq!(numbers.next(), Some(10), "{answer}");
    numbers.next().unwrap()
}

#[tokio::test]
async fn behind_a_floor_no_entry_of_a_job_that_was_handed_out_is_read() {
    let server = Postgres::shared().unwrap();
    let url = server.fresh_database().unwrap();
    let database = url.rsplit('/').next().unwrap();
    let broker = Broker::connect(&url).await.unwrap();
    let (foreign, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let queue = broker.queue("q");
    let jobs = (0..JOBS).map(|number| queue.job(&number).unwrap());
    broker.push_many(jobs.collect()).await.unwrap();
    foreign
        .batch_execute("begin isolation level repeatable read; select count(*) from brigade.jobs")
        .await
        .unwrap();
    let mut last = 0;
    for _ in 0..JOBS - 100 {
        let lease = queue.lease(LEASE, Duration::ZERO).await.unwrap().unwrap();
        last = last.max(lease.id().as_str().parse::<i64>().unwrap());
        assert!(matches!(lease.ack().await.unwrap(), Settled::Accepted(_)));
    }
    let (from_head, behind) = (
        entries_read(server, database, "null", 0),
        entries_read(server, database, "0", last),
    );
    println!("entries read from the head {from_head}, behind the floor {behind}");
    assert!(behind <= 20, "{behind} entries behind the floor");
    assert!(from_head >= JOBS as u64 - 100, "the snapshot keeps nothing");
    // The leases of all these jobs are over by then.
    let chores = |since: &str| {
        let look = format!(
            "set local brigade.ahead = 700000; select is_more from brigade.chores(500, {since}, {since})"
        );
        entries_of(server, database, "jobs_leased", &look)
    };
    let (all, since) = (chores("null"), chores("brigade.now() - interval '5 s'"));
    println!("entries of leases that a chore reads: at all {all}, since the last look {since}");
    assert!(since <= 20, "{since} entries since the last look");
    assert!(all >= JOBS as u64 - 100, "the snapshot keeps nothing");
    let lease = queue.lease(LEASE, Duration::ZERO).await.unwrap().unwrap();
    let extend = format!(
        "select brigade.settle(array[{}], array[{}], array['extend'], array[''], array[null]::text[], \
         array[null]::text[], array[null]::text[], array[60000], array[null]::text[], \
         array[null]::bigint[])",
        lease.id(),
        lease.token()
    );
    let extended = entries_of(server, database, "jobs_leased", &extend);
    assert!(extended <= 20, "{extended} entries for an extension");
    foreign.batch_execute("commit").await.unwrap();
    drop(foreign);
    connection.await.unwrap().unwrap();
}

//! What a look reads: its page, or its part of an index, whatever else is in the tables, and
//! whether the server knows how much that is or not.

use std::time::Duration;

use brigade::{Broker, JobFilter, JobState, Limits};
use brigade_testkit::facts::wait_until;
use brigade_testkit::postgres::Postgres;
use serde_json::Value;

/// Live jobs, and as many that have ended.
const JOBS: u64 = 50_000;
/// Of one page.
const PAGE: u64 = 100;
/// Blocks that a page may read: some for each of its jobs, and those of the catalog for a new
/// session.
const PAGE_BLOCKS_MAX: u64 = 5_000;

/// A database of its own on the shared server.
struct FilledDatabase {
    server: &'static Postgres,
    name: String,
    broker: Broker,
}

impl FilledDatabase {
    /// Jobs of ten queues in all states, of which most are ready and dead. They lie in the tables
    /// in no order, so each that is looked at is a block.
    async fn new() -> Self {
        let server = Postgres::shared().unwrap();
        let url = server.fresh_database().unwrap();
        let broker = Broker::connect(&url).await.unwrap();
        let name = url.rsplit('/').next().unwrap().to_owned();
        let filled = Self {
            server,
            name,
            broker,
        };
        filled.sql(&format!(
            "insert into brigade.jobs (id, at, pushed_at, payload, state, is_plain, queue, priority, token) \
             select i, now() + interval '1 day', now(), to_json(repeat('x', 500)), \
             case when i % 1000 < 5 then i % 5 else 0 end, true, 'queue-' || i % 10, i % 3, 1 \
             from generate_series(1, {JOBS}) i order by md5(i::text)"
        ));
        filled.sql(&format!(
            "insert into brigade.ended (id, ended_at, pushed_at, token, priority, attempts, failed, \
             crashed, interrupted, lost, unserved, state, is_plain, queue, payload, reason) select i, \
             now(), now(), 1, 0, 1, 1, 0, 0, 0, 0, case i % 1000 when 0 then 5 when 1 then 7 else 6 end, \
             true, 'queue-' || i % 10, to_json(repeat('x', 500)), 'job ' || i || ' broke' from \
             generate_series({JOBS} + 1, 2 * {JOBS}) i order by md5(i::text)"
        ));
        filled
    }

    fn sql(&self, statements: &str) -> String {
        let done = self.server.sql_in("postgres", &self.name, statements);
        done.unwrap()
    }

    /// How many blocks of tables and indexes a statement reads, with those of the functions that it
    /// calls.
    fn blocks(&self, statement: &str) -> u64 {
        let text = self.sql(&format!(
            "explain (analyze, buffers, format json) {statement}"
        ));
        let plan: Value = serde_json::from_str(&text).unwrap();
        let count = |name: &str| plan[0]["Plan"][name].as_u64().unwrap();
        count("Shared Hit Blocks") + count("Shared Read Blocks")
    }
}

#[tokio::test]
async fn a_page_costs_little_wherever_it_begins() {
    let filled = FilledDatabase::new().await;
    // First without statistics of the tables, as after a restore.
    for is_analyzed in [false, true] {
        if is_analyzed {
            filled.sql("analyze");
        }
        for state in ["null", "0", "1", "2", "3", "4", "5", "6", "7"] {
            for queue in ["null", "'queue-1'", "'none'"] {
                for (newest_first, after) in [(false, JOBS - PAGE), (true, JOBS + PAGE)] {
                    let page = format!(
                        "select brigade.candidates({queue}, {state}, {after}, {newest_first}, {PAGE})"
                    );
                    let blocks = filled.blocks(&page);
                    assert!(blocks < PAGE_BLOCKS_MAX, "{blocks} blocks for {page}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_page_are_read_by_their_ids() {
    let filled = FilledDatabase::new().await;
    filled.sql("analyze");
    // Of dead letters: by an index, and by going through the table.
    let read = || {
        let text = filled.sql(
            "select coalesce(idx_tup_fetch, 0) || ' ' || seq_tup_read from pg_stat_user_tables where \
             relid = 'brigade.ended'::regclass",
        );
        let (by_index, through) = text.trim().split_once(' ').unwrap();
        let number = |text: &str| text.parse::<u64>().unwrap();
        (number(by_index), number(through))
    };
    let before = read();
    let url = filled.server.url_of("postgres", &filled.name);
    let broker = Broker::connect(&url).await.unwrap();
    let filter = JobFilter {
        state: Some(JobState::Dead),
        newest_first: true,
        limit: 100,
        ..JobFilter::default()
    };
    assert_eq!(broker.find(&filter).await.unwrap().jobs.len(), 100);
    // A session counts what it read at the latest when it ends.
    drop(broker);
    let is_counted = || read().0 >= before.0 + PAGE || read().1 >= before.1 + JOBS;
    assert!(wait_until(Duration::from_secs(60), is_counted).is_some());
    assert_eq!(read().1, before.1, "no row was read without its id");
}

#[tokio::test]
async fn the_reasons_of_a_job_are_found_by_indexes() {
    let filled = FilledDatabase::new().await;
    let limits = Limits::new().running(5).running_per_partition(2);
    filled.broker.queue("queue-4").limit(limits).await.unwrap();
    for (job, what) in [(1_000, "ready"), (1_001, "scheduled"), (JOBS + 2, "dead")] {
        let blocks = filled.blocks(&format!("select * from brigade.why({job})"));
        assert!(blocks < PAGE_BLOCKS_MAX, "{blocks} blocks for a {what} job");
    }
    let limits = r#"'{"running": 5, "running_per_partition": 2}'"#;
    let blocks = filled.blocks(&format!(
        "select * from brigade.gate('queue-4', {limits}::jsonb)"
    ));
    assert!(blocks < PAGE_BLOCKS_MAX, "{blocks} blocks for its limits");
}

#[tokio::test]
async fn a_settlement_finds_its_job_by_its_number_however_many_are_leased() {
    let filled = FilledDatabase::new().await;
    filled.sql(&format!(
        "update brigade.jobs set state = 3, at = now() + interval '1 hour' where id <= {}",
        JOBS / 2
    ));
    for is_analyzed in [false, true] {
        if is_analyzed {
            filled.sql("analyze");
        }
        for (job, action, kind) in [
            (1, "extend", ""),
            (2, "back", "interrupted"),
            (3, "done", "done"),
        ] {
            let job = job + if is_analyzed { 10 } else { 0 };
            let blocks = filled.blocks(&format!(
                "select brigade.settle(array[{job}], array[1], array['{action}'], array['{kind}'], \
                 array[null]::text[], array[null]::text[], array[null]::text[], array[60000], \
                 array[null]::text[], array[null]::bigint[])"
            ));
            assert!(
                blocks < PAGE_BLOCKS_MAX,
                "{blocks} blocks to settle: {action}"
            );
        }
    }
}

#[tokio::test]
async fn statistics_are_added_up_without_a_look_at_old_minutes() {
    let filled = FilledDatabase::new().await;
    filled.sql(
        "insert into brigade.statistics (minute, queue, task, pushed) select date_trunc('minute', now()) - \
         m * interval '1 minute', 'q', 'task ' || t, 1 from generate_series(1, 1400) m, \
         generate_series(1, 50) t",
    );
    filled.sql(
        "insert into brigade.statistics_new (minute, queue, task, pushed) select date_trunc('minute', \
         now()), 'q', 'task ' || t, 1 from generate_series(1, 50) t",
    );
    let blocks = filled.blocks("select brigade.fold_statistics(1000)");
    assert!(blocks < 2 * PAGE_BLOCKS_MAX, "{blocks} blocks");
    let left = filled.sql("select count(*) from brigade.statistics_new");
    assert_eq!(left, "0");
}

#[tokio::test]
async fn a_hand_out_does_not_look_at_each_partition_of_a_limited_queue() {
    let filled = FilledDatabase::new().await;
    filled.sql("update brigade.jobs set partition = id where queue = 'queue-4'");
    let limits = Limits::new().running_per_partition(1);
    filled.broker.queue("queue-4").limit(limits).await.unwrap();
    for (ranges, wanted) in [("null", "1"), ("2, 1, 0", "1"), ("null", "2")] {
        let count = ranges.split(", ").count();
        let blocks = filled.blocks(&format!(
            "select count(*) from brigade.lease(array_fill('queue-4'::text, array[{count}]), \
             array[{ranges}]::integer[], array_fill(0::bigint, array[{count}]), {wanted}, 60000, 1)"
        ));
        assert!(
            blocks < PAGE_BLOCKS_MAX,
            "{blocks} blocks for {wanted} of {ranges}"
        );
    }
    let leased = "select count(*), count(distinct partition) from brigade.jobs where state = 3 and \
        queue = 'queue-4' and token > 1";
    assert_eq!(filled.sql(leased), "4|4");
}

#[tokio::test]
async fn a_partition_without_room_at_the_head_of_a_queue_hides_no_other() {
    let filled = FilledDatabase::new().await;
    filled.sql("update brigade.jobs set partition = 'a' where queue = 'queue-4'");
    let queue = filled.broker.queue("queue-4");
    let limits = Limits::new().running_per_partition(1);
    queue.limit(limits).await.unwrap();
    let (minute, now) = (Duration::from_secs(60), Duration::ZERO);
    assert!(queue.lease(minute, now).await.unwrap().is_some());
    assert!(queue.lease(minute, now).await.unwrap().is_none());
    filled.sql(&format!("select setval('brigade.job_ids', {})", 2 * JOBS));
    filled.sql("select brigade.push('queue-4', '\"b\"', '{\"partition\": \"b\"}')");
    let lease = queue.lease(minute, now).await.unwrap().unwrap();
    assert_eq!(lease.json(), "\"b\"");
}
